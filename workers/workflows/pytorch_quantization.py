# SPDX-License-Identifier: Apache-2.0
"""Quantised in PyTorch by NVIDIA's library, exported with Q/DQ nodes; run by TensorRT on a GPU, ONNX Runtime on a CPU.

PTQ or quantisation-aware training. Prepare does all of it on the CPU; measuring imports neither torch nor the library.
"""

from typing import Any, Dict, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows.base import Context, DeviceTimer, Lane, Workflow
from workers.workflows.errors import PrecisionNotHeld
from workers.workflows.layers import LayerProfiler
from workers.workflows.onnx_cpu_session import CpuSession
from workers.workflows.onnx_tensorrt import OnnxTensorRT
from workers.workflows.quantized_torch import QuantizedTorchModel, rewritten


class PytorchQuantization(Workflow):
    """One quantised file for each kind of device, with the same codes and scales; `_backend` runs it."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        on_cpu = ctx.request.device.kind == "cpu"
        name, rewrite = ("onnxruntime", _for_onnxruntime) if on_cpu else ("tensorrt", _for_tensorrt)
        self._source = QuantizedTorchModel(ctx, name, rewrite)
        self._backend: Any = _OnnxRuntime(ctx, self._source) if on_cpu else OnnxTensorRT(ctx, self._source)

    def setup(self) -> None:
        """What the back end needs to load; on a GPU the device is opened."""
        self._backend.setup()

    def prepare(self) -> None:
        """Find the ranges, train where asked to, export, build engines on a GPU, make the references."""
        with self.ctx.stage("load_model"):
            self._source.load_model()
        with self.ctx.stage("calibrate"):
            self._source.ranges()
            if self._source.mode == "qat":
                self._source.trained()
        with self.ctx.stage("build"):
            self._source.onnx()
            self._backend.build()
        with self.ctx.stage("reference"):
            self._source.prepare_reference()

    def find(self) -> None:
        """The file or engine to run."""
        self._backend.find()

    def load(self) -> None:
        """Make it ready."""
        self._backend.load()

    def to_device(self, host_input: Any) -> Any:
        """As the back end does."""
        return self._backend.to_device(host_input)

    def infer(self, batch: Any) -> None:
        """As the back end does."""
        self._backend.infer(batch)

    def queue(self, batch: Any) -> None:
        """As the back end does."""
        self._backend.queue(batch)

    def synchronize(self) -> None:
        """As the back end does."""
        self._backend.synchronize()

    def lanes(self, count: int) -> List[Lane]:
        """As the back end has them."""
        found: List[Lane] = self._backend.lanes(count)
        return found

    def threads_at_work(self) -> Optional[int]:
        """As the back end has them."""
        found: Optional[int] = self._backend.threads_at_work()
        return found

    def layer_profiler(self) -> LayerProfiler:
        """As the back end has it."""
        found: LayerProfiler = self._backend.layer_profiler()
        return found

    def ran(self) -> Dict[str, Any]:
        """As the back end tells."""
        found: Dict[str, Any] = self._backend.ran()
        return found

    def device_timer(self) -> Optional[DeviceTimer]:
        """As the back end has it."""
        found: Optional[DeviceTimer] = self._backend.device_timer()
        return found

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        found: List[Tuple[str, Any]] = self._backend.outputs()
        return found

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against PyTorch fp32."""
        found: List[Mismatch] = self._backend.compare(outputs)
        return found

    def effective(self) -> Dict[str, Any]:
        """What the back end reads back, and how the model was quantised."""
        return dict(self._backend.effective(), **self._source.effective())

    def metrics(self) -> Dict[str, float]:
        """What the back end measures of itself."""
        found: Dict[str, float] = self._backend.metrics()
        return found

    def cache_bytes(self) -> Optional[int]:
        """As the back end knows it."""
        found: Optional[int] = self._backend.cache_bytes()
        return found

    def engine_bytes(self) -> int:
        """Size of the engine, or of the ONNX file that runs."""
        return int(self._backend.engine_bytes())

    def build_s(self) -> Optional[float]:
        """Weights, calibration, training, export and build of it, when they were done."""
        found: Optional[float] = self._backend.build_s()
        return found

    def close(self) -> None:
        """Free what the back end holds."""
        self._backend.close()


class _OnnxRuntime(CpuSession):
    """ONNX Runtime's CPU provider on the source's file."""

    def __init__(self, ctx: Context, source: QuantizedTorchModel) -> None:
        super().__init__(ctx)
        self._source = source

    def build(self) -> None:
        """Nothing: the session optimises the file when it is opened."""

    def find(self) -> None:
        """The file, which must hold int8 operators."""
        self._engine = self._source.onnx()
        if not self._engine.facts["compute_quantized"]:
            raise PrecisionNotHeld("the file to run in int8 holds no quantised convolution or matrix product")

    def compare(self, outputs: List[Tuple[str, Any]]) -> List[Mismatch]:
        """Against the source's reference."""
        return self._source.compare(outputs)

    def effective(self) -> Dict[str, Any]:
        """The session's own facts; the precision is read from the file's nodes."""
        precision = "int8" if self._engine.facts["compute_quantized"] else "fp32"
        return dict(self.session_facts(), precision=precision, reference=self._source.reference_name)

    def engine_bytes(self) -> int:
        """Size of the file."""
        return int(self._engine.size_bytes)

    def build_s(self) -> Optional[float]:
        """All that was done to make the file."""
        return float(self._engine.total_build_s)


def _for_onnxruntime(path: str) -> None:
    from workers.workflows import qdq_graph, qdq_integer

    rewritten(path, *qdq_graph.FOLDING, *qdq_integer.REWRITING)


def _for_tensorrt(path: str) -> None:
    from workers.workflows import qdq_graph

    rewritten(path, *qdq_graph.FOLDING, qdq_graph.float_weights)
