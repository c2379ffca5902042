# SPDX-License-Identifier: Apache-2.0
"""Where the fp32 ONNX file comes from: exported from a torch model, or given. Both end up in the cache."""

import os
import shutil
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.canonical import sha256_file
from farm.contract.run import Mismatch
from workers.workflows import reference
from workers.workflows.base import Context, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import DamagedModel, PrecisionNotHeld, Unsupported, WorkflowError
from workers.workflows.onnx_files import OPSET, check_input, examine, export
from workers.workflows.torch_models import TorchModel
from workers.workflows.torch_setup import import_torch

RECIPE = 1


class ExportedModel:
    """A torchvision model or a text encoder, exported once with a dynamic batch."""

    reference_name = "pytorch fp32"

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._model = TorchModel(ctx)

    def key(self) -> Dict[str, Any]:
        """All that the ONNX file depends on."""
        own = {"opset": OPSET, "recipe": RECIPE, "versions": versions("torch", "onnx")}
        return dict(own, exported_from=self._model.key())

    def load_model(self) -> None:
        """Make the weights."""
        self._model.weights()

    def onnx(self) -> CachedFile:
        """The exported file, checked."""
        return self._ctx.cached("onnx", self.key(), "model.onnx", self._export, ready=self._model.module)

    def _export(self, path: str) -> Dict[str, Any]:
        torch, model = import_torch(self._ctx), self._ctx.job.model
        exporter = export(torch, self._model.module(), model.input_shape, path, input_type=model.input_type)
        facts = dict(examine(path), exporter=exporter)
        check_input(facts, model.input_shape, model.input_type)
        if facts["input_shape"][0] is not None:
            raise WorkflowError("the exporter fixed the batch at {}".format(facts["input_shape"][0]))
        return facts

    def prepare_reference(self) -> None:
        """PyTorch fp32 outputs for each batch size."""
        reference.prepare_torch(self._ctx, self._model)

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against PyTorch fp32."""
        return reference.compare(self._ctx, outputs, reference.torch_key(self._ctx, self._model.key()))


class GivenModel:
    """An ONNX file from a person, known by its sha256."""

    reference_name = "onnxruntime_cpu fp32 on the original file"

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        if ctx.job.model.onnx_sha256 is None:
            raise WorkflowError("the job names no sha256 for its ONNX file", None, "bad-request")
        self._sha256: str = ctx.job.model.onnx_sha256

    def key(self) -> Dict[str, Any]:
        """The file, and the shape that it was held against."""
        return {"file": self._sha256, "input_shape": list(self._ctx.job.model.input_shape), "recipe": RECIPE}

    def load_model(self) -> None:
        """Take the file into the cache, checked."""
        self.onnx()

    def onnx(self) -> CachedFile:
        """The file as it was given."""
        return self._ctx.cached("onnx", self.key(), "model.onnx", self._take)

    def _take(self, path: str) -> Dict[str, Any]:
        copy_given(self._ctx, self._sha256, path)
        facts = examine(path)
        check_input(facts, self._ctx.job.model.input_shape)
        _refuse_other_precisions(facts)
        return dict(facts, exporter="given")

    def prepare_reference(self) -> None:
        """ONNX Runtime's fp32 outputs for each batch size that the file takes."""
        entry = self.onnx()
        reference.prepare_onnx(self._ctx, entry.path, entry.sha256, entry.facts["input_shape"][0])

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against ONNX Runtime in fp32."""
        return reference.compare(self._ctx, outputs, reference.onnx_key(self._ctx, self._sha256))


def source_of(ctx: Context) -> Any:
    """The source of the job's ONNX file. Raises Unsupported for models that have none."""
    if ctx.job.model.source == "onnx":
        return GivenModel(ctx)
    if ctx.job.model.source in ("torchvision", "encoder"):
        return ExportedModel(ctx)
    raise Unsupported("{} cannot run models of source {!r}".format(ctx.job.workflow, ctx.job.model.source))


def assert_fp32(facts: Dict[str, Any]) -> None:
    """Raise PrecisionNotHeld unless a file holds no quantised node."""
    count = facts["quantize"] + facts["dequantize"] + facts["quantized_operators"]
    if count:
        raise PrecisionNotHeld("the file to run in fp32 holds {} quantised nodes".format(count))


def _refuse_other_precisions(facts: Dict[str, Any]) -> None:
    quantised = facts["quantize"] + facts["dequantize"] + facts["quantized_operators"]
    other = [name for name in facts["float_types"] if name != "FLOAT"]
    if quantised or other:
        found = "{} quantised nodes".format(quantised) if quantised else "weights of type " + ", ".join(other)
        raise Unsupported(
            "the ONNX file is not an fp32 model: it holds {}".format(found),
            "Give the fp32 model: the farm makes the other precisions from it.",
            "not-an-fp32-model",
        )


def optional_total_s(entry: CachedFile) -> Optional[float]:
    """Build time of a file that was built; None for one that was given."""
    return None if entry.facts.get("exporter") == "given" else entry.total_build_s


def copy_given(ctx: Context, sha256: str, path: str) -> None:
    """Copy the model file that came with the request to `path`, held against its digest.

    Raises:
        WorkflowError: no file came with the request.
        DamagedModel: its digest is not `sha256`.
    """
    given = ctx.request.model_file
    if given is None or not os.path.isfile(given):
        raise WorkflowError("the ONNX file {} was not fetched for this run".format(sha256), None, "model-file-missing")
    shutil.copyfile(given, path)
    if sha256_file(path) != sha256:
        raise DamagedModel(
            "{} does not have the sha256 {}".format(given, sha256),
            "Fetch it from the store again; `farm artifacts verify` tells whether the store's copy is good.",
        )
