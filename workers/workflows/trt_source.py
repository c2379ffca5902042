# SPDX-License-Identifier: Apache-2.0
"""ONNX files for TensorRT: exported ones, and given ones that are read by TensorRT's parser instead of `onnx`."""

import importlib.util
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows import reference
from workers.workflows.base import Context, require, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import Unsupported, WorkflowError
from workers.workflows.onnx_files import check_input
from workers.workflows.onnx_source import ExportedModel, copy_given
from workers.workflows.trt_compat import Log, Network
from workers.workflows.trt_memory import open_memory

RECIPE = 1


class ParsedModel:
    """An ONNX file from a person. What is in it is what TensorRT's parser finds, so that a stack needs no `onnx`.

    The reference is ONNX Runtime's CPU provider on the file; on a stack without it there is none.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        if ctx.job.model.onnx_sha256 is None:
            raise WorkflowError("the job names no sha256 for its ONNX file", None, "bad-request")
        self._sha256: str = ctx.job.model.onnx_sha256
        self._has_reference = importlib.util.find_spec("onnxruntime") is not None

    @property
    def reference_name(self) -> Optional[str]:
        """What outputs are compared with; None where this stack cannot make it."""
        return "onnxruntime_cpu on the original file" if self._has_reference else None

    @property
    def no_reference(self) -> Optional[str]:
        """Why there is no reference."""
        return None if self._has_reference else "this stack has no onnxruntime to run the original file with"

    def load_model(self) -> None:
        """Nothing apart from the file."""

    def onnx(self) -> CachedFile:
        """The file as it was given, held against the sweep's input."""
        job = self._ctx.job
        key = {"file": self._sha256, "input_shape": list(job.model.input_shape), "recipe": RECIPE}
        key = dict(key, parser=versions("tensorrt"), quantized=job.precision == "int8")
        return self._ctx.cached("onnx", key, "model.onnx", self._take)

    def _take(self, path: str) -> Dict[str, Any]:
        copy_given(self._ctx, self._sha256, path)
        facts = _parsed(path)
        check_input(facts, self._ctx.job.model.input_shape)
        if facts["quantize"] and self._ctx.job.precision != "int8":
            raise Unsupported(
                "the ONNX file is not an fp32 model: it holds {} Q/DQ nodes".format(
                    facts["quantize"] + facts["dequantize"]
                ),
                "Ask for int8, or give the fp32 model.",
                "not-an-fp32-model",
            )
        return dict(facts, exporter="given")

    def prepare_reference(self) -> None:
        """ONNX Runtime's outputs for each batch size that the file takes, where this stack has it."""
        if self._has_reference:
            entry = self.onnx()
            reference.prepare_onnx(self._ctx, entry.path, entry.sha256, entry.facts["input_shape"][0])

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against that reference; nothing where there is none."""
        if not self._has_reference:
            return []
        return reference.compare(self._ctx, outputs, reference.onnx_key(self._ctx, self._sha256))


class ExportedForTensorRT(ExportedModel):
    """A torchvision model or a text encoder, exported; the reference is PyTorch's on the CPU."""

    no_reference = None


def source_of(ctx: Context) -> Any:
    """The source of the job's ONNX file. Raises Unsupported for models that have none."""
    if ctx.job.model.source == "onnx":
        return ParsedModel(ctx)
    if ctx.job.model.source in ("torchvision", "encoder"):
        return ExportedForTensorRT(ctx)
    raise Unsupported("{} cannot run models of source {!r}".format(ctx.job.workflow, ctx.job.model.source))


def _parsed(path: str) -> Dict[str, Any]:
    trt, memory = require("tensorrt"), open_memory()
    try:
        return Network(trt, path, Log(trt)).facts()
    finally:
        memory.close()
