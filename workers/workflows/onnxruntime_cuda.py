# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CUDA provider: fp32, tf32, fp16 as a converted file, int8 as static Q/DQ.

Its convolutions and matrix products have no int8 kernels for Q/DQ graphs: int8 is what is stored between them. The
record says how many of them ran in int8.
"""

import functools
import os
import tempfile
from typing import Any, Dict, List

from workers.workflows import inputs, onnx_session, ort_placement, ort_providers
from workers.workflows.base import versions
from workers.workflows.cache import CachedFile
from workers.workflows.onnxruntime_gpu import OnnxRuntimeGpu
from workers.workflows.ort_options import cuda_options

RECIPE = 1


class OnnxRuntimeCuda(OnnxRuntimeGpu):
    """The file that `onnxruntime_cpu` runs, or its fp16 version, with the CUDA provider."""

    provider = ort_providers.CUDA
    #: What CUDA's int8 instructions multiply; the range is symmetric.
    activation_type = "qint8"

    def load(self) -> None:
        """Open the session."""
        self._session = self._opened(self._open)

    def _open(self) -> Any:
        providers = self._providers(self._cuda_graph)
        return onnx_session.open_session(self._engine.path, self.ctx.threads, providers, self._profile_prefix)

    def effective(self) -> Dict[str, Any]:
        """As every GPU provider, with how int8 was quantised."""
        found = super().effective()
        if self._half is not None:
            found["converter"] = self._engine.facts["converter"]
        if self._int8 is not None:
            placed = self._placement()
            found.update(self._int8.effective(), int8_kernel_share=placed["compute_int8"] / max(placed["compute"], 1))
        return found

    def _build(self) -> None:
        """Make the file of the precision and run it once, for the profile that says which provider ran what."""
        self._profile()

    def _placement(self) -> Dict[str, Any]:
        return dict(self._profile().facts)

    def _held_precision(self, options: Dict[str, Dict[str, str]]) -> str:
        """fp16 and int8 are in the file, which `find` held against its facts; TF32's switches are asserted beside."""
        if self._engine.facts["quantize"]:
            return "int8"
        if self._engine.facts.get("compute_half"):
            return "fp16"
        return "tf32" if self.ctx.job.precision == "tf32" else "fp32"

    def _profile(self) -> CachedFile:
        batch = self._smallest()
        device, facts = self.ctx.request.device, self.ctx.request.device.facts
        key = {
            "onnx": self._file().sha256,
            "precision": self.ctx.job.precision,
            "batch": batch,
            "input_shape": list(self.ctx.job.model.input_shape),
            "platform": [device.device_class, facts.get("compute_capability"), facts.get("driver_version")],
            "versions": versions("onnxruntime"),
            "recipe": RECIPE,
        }
        return self.ctx.cached("ort_profile", key, "profile.json", functools.partial(self._run_once, batch), self._file)

    def _smallest(self) -> int:
        fixed = self._source.onnx().facts["input_shape"][0]
        return int(fixed or min(self.ctx.job.batches.sizes))

    def _run_once(self, batch: int, path: str) -> Dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as work:
            session = onnx_session.open_session(
                self._file().path, self.ctx.threads, self._providers(), os.path.join(work, "profile")
            )
            bound = onnx_session.Bound(session, inputs.blank(self.ctx.job.model, batch), "cuda")
            session.run_with_iobinding(bound.binding)
            written = session.end_profiling()
            with open(written, encoding="utf-8") as stream:
                found = ort_placement.placement(stream.read(), self.provider)
            os.replace(written, path)
        return found

    def _providers(self, graph: bool = False) -> List[Any]:
        """With CUDA graphs to measure only: what the profile tells is which provider runs each node."""
        return [(self.provider, cuda_options(self._ort.__version__, self.ctx.job.precision, graph))]
