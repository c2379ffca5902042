# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's CPU plugin on the farm's ONNX files: fp32, and int8 from the same Q/DQ file as `onnxruntime_cpu`.

Measuring imports neither torch nor onnx. Left to itself OpenVINO runs fp32 models in bf16 where the CPU can; here the
precision hint says f32 in both precisions, and what each node runs in is read back from the compiled graph.
"""

from typing import Any, Dict, List, Optional, Tuple

from workers.workflows.base import Context, Lane, require
from workers.workflows.errors import (
    PrecisionNotHeld,
    ProviderFellBack,
    SettingNotHeld,
    Unsupported,
    WorkflowError,
    is_out_of_memory,
)
from workers.workflows.layers import LayerProfiler
from workers.workflows.onnx_workflow import OnnxWorkflow
from workers.workflows.openvino_layers import OpenVinoLayers
from workers.workflows.openvino_setup import import_openvino
from workers.workflows.ort_layers import model_nodes

DEVICE = "CPU"
#: Kinds of nodes, as OpenVINO names them, whose precision makes the precision of a model.
_COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_INT8 = ("i8", "u8")


class OpenVino(OnnxWorkflow):
    """One compiled model of the batch's shape; one inference request, run synchronously on bound tensors, a lane."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        if self._int8 is not None and self._int8.activation_type != "quint8":
            raise Unsupported(
                "OpenVINO gives wrong results for some models with signed activations",
                "Leave the option `activation_type` out: quint8 is right, and faster on x86 CPUs.",
                "activation-type-unsupported",
            )
        self._compiled: Any = None
        self._request: Any = None
        self._precisions: Dict[str, int] = {}

    def setup(self) -> None:
        """Import what loading needs."""
        if not self.ctx.preparing:
            require("numpy")
            import_openvino()

    def load(self) -> None:
        """Read the file, fix its shape, compile it; assert that what was compiled is what was asked for."""
        ov, streams = import_openvino(), self.ctx.job.protocol.streams
        self._compiled = _compiled(ov, self._engine.path, self._shape(), self.ctx.threads, streams)
        _assert_held(ov, self._compiled, self.ctx.threads, streams)
        self._precisions = compute_precisions(self._compiled)
        _assert_precisions(self._precisions, self.ctx.job.precision)
        self._request = self._new_request()

    def _new_request(self) -> Any:
        ov, request = import_openvino(), self._compiled.create_infer_request()
        for i, output in enumerate(self._compiled.outputs):
            if output.get_partial_shape().is_static:
                request.set_output_tensor(i, ov.Tensor(output.get_element_type(), output.get_shape()))
        return request

    def _shape(self) -> List[int]:
        return [self.ctx.batch_size, *self.ctx.job.model.input_shape]

    def to_device(self, host_input: Any) -> Any:
        """A tensor over the input's own memory."""
        return import_openvino().Tensor(host_input, shared_memory=True)

    def infer(self, batch: Any) -> None:
        """Point the request at the input and run it; it is done when it returns. Outputs are not copied."""
        self._request.set_input_tensor(batch)
        self._request.infer(share_outputs=True)

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        return _outputs(self._request, self._engine.facts["outputs"])

    def lanes(self, count: int) -> List[Lane]:
        """A request for each, on a model that was compiled for as many streams; they share out its threads."""
        return [_RequestLane(self._new_request(), self._engine.facts["outputs"]) for _ in range(count)]

    def threads_at_work(self) -> Optional[int]:
        """Those of the compiled model, whatever the number of requests, which only wait."""
        return self.ctx.threads

    def layer_profiler(self) -> LayerProfiler:
        """Performance counters, of a model that is compiled for it: they count from its first inference on."""
        self._request = self._compiled = None
        self._compiled = _compiled(import_openvino(), self._engine.path, self._shape(), self.ctx.threads, 1, True)
        self._request = self._new_request()
        return OpenVinoLayers(self._compiled, self._request, model_nodes(self._engine.path))

    def effective(self) -> Dict[str, Any]:
        """Settings are read from the compiled model, precisions from its execution graph."""
        read = self._compiled.get_property
        int8 = sum(self._precisions.get(name, 0) for name in _INT8)
        held = {
            "precision": "int8" if int8 else "fp32",
            "threads": read("INFERENCE_NUM_THREADS"),
            "provider": "OpenVINO " + ", ".join(read("EXECUTION_DEVICES")),
            "device": "cpu",
            "streams": read("NUM_STREAMS"),
            "performance_hint": str(read("PERFORMANCE_HINT")),
            "inference_precision": read("INFERENCE_PRECISION_HINT").get_type_name(),
            "cpu_pinning": bool(read("ENABLE_CPU_PINNING")),
            "shape": "static",
            "compute_precisions": self._precisions,
            "opset": self._engine.facts["opset"],
            "reference": self._source.reference_name,
        }
        if self._int8 is None:
            return held
        share = int8 / max(sum(self._precisions.values()), 1)
        return dict(held, **self._int8.effective(), int8_kernel_share=share)

    def close(self) -> None:
        """Free the request and the compiled model."""
        self._request = self._compiled = None


class _RequestLane(Lane):
    """One request of the compiled model."""

    def __init__(self, request: Any, names: List[str]) -> None:
        self._request, self._names = request, names

    def to_device(self, host_input: Any) -> Any:
        """A tensor over the input's own memory."""
        return import_openvino().Tensor(host_input, shared_memory=True)

    def infer(self, batch: Any) -> None:
        """Point the request at the input and run it; it is done when it returns."""
        self._request.set_input_tensor(batch)
        self._request.infer(share_outputs=True)

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        return _outputs(self._request, self._names)

    def close(self) -> None:
        """Free the request."""
        self._request = None


def _outputs(request: Any, names: List[str]) -> List[Tuple[str, Any]]:
    return [(name, request.get_output_tensor(i).data.copy()) for i, name in enumerate(names)]


def _compiled(ov: Any, path: str, shape: List[int], threads: int, streams: int, counters: bool = False) -> Any:
    core = ov.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        # Without it the latency hint takes one thread per core, whatever number was asked for.
        "ENABLE_HYPER_THREADING": True,
        "PERF_COUNT": counters,
    }
    try:
        model = core.read_model(path)
        model.reshape(shape)
        return core.compile_model(model, DEVICE, settings)
    except RuntimeError as error:
        raise _explained(error, path, ov.__version__) from error


def _explained(error: RuntimeError, path: str, version: str) -> Exception:
    if is_out_of_memory(error):
        return error
    text = str(error).strip()
    if "No conversion rule found" in text or "does not support the following ONNX operations" in text:
        return Unsupported(
            "OpenVINO {} cannot run {}: {}".format(version, path, text),
            "Use onnxruntime_cpu for this model, or a stack with a newer OpenVINO.",
            "operator-unsupported",
        )
    return WorkflowError("OpenVINO {} cannot open {}: {}".format(version, path, text), None, "session-failed")


def _assert_held(ov: Any, compiled: Any, threads: int, streams: int) -> None:
    """Raise unless the compiled model has the device, the precision, the threads and the streams asked for."""
    read = compiled.get_property
    devices = list(read("EXECUTION_DEVICES"))
    if devices != [DEVICE]:
        raise ProviderFellBack("OpenVINO runs on {} instead of {}".format(devices, DEVICE))
    hint = read("INFERENCE_PRECISION_HINT")
    if hint != ov.Type.f32:
        raise PrecisionNotHeld("OpenVINO's inference precision is {} instead of f32".format(hint))
    held = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams, "PERFORMANCE_HINT": "LATENCY"}
    for name, asked in held.items():
        if read(name) != asked:
            raise SettingNotHeld(
                "OpenVINO's {} is {!r} instead of {!r}".format(name, read(name), asked),
                "OpenVINO takes no more threads than this process has CPUs, and no more streams than threads.",
            )


def compute_precisions(compiled: Any) -> Dict[str, int]:
    """How many convolutions and matrix products run in each precision, read from the execution graph."""
    found: Dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if str(facts["layerType"].astype(str)) in _COMPUTE:
            name = str(facts["runtimePrecision"].astype(str)).lower()
            found[name] = found.get(name, 0) + 1
    return found


def _assert_precisions(found: Dict[str, int], precision: str) -> None:
    told = ", ".join("{} x {}".format(count, name) for name, count in sorted(found.items())) or "none"
    if precision == "int8" and not any(found.get(name) for name in _INT8):
        raise PrecisionNotHeld("OpenVINO runs no convolution or matrix product in int8, but: {}".format(told))
    allowed = ("f32", *_INT8) if precision == "int8" else ("f32",)
    if any(name not in allowed for name in found):
        raise PrecisionNotHeld("OpenVINO runs convolutions and matrix products as: {}".format(told))
