# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for `tensorrt` and `pycuda.driver`: "engines" are ONNX files that ONNX Runtime runs on the CPU.

They show that the workflow's own steps fit together. They prove nothing about TensorRT or any hardware.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from enum import Enum, IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

from workers.workflows import cuda_graph

_ARRAYS: dict[int, Any] = {}
#: What the runtime says of every engine instead of taking it.
refusal = ""
#: From this batch on, loading or running an engine runs out of memory.
LOAD_LIMIT = int(os.environ.get("STANDIN_LOAD_LIMIT", 10**9))
RUN_LIMIT = int(os.environ.get("STANDIN_RUN_LIMIT", 10**9))
#: The first output value is NaN.
poison = bool(os.environ.get("STANDIN_POISON"))
STRONGLY_TYPED = 1
VERSIONS = {8: "8.6.0", 10: "10.16.1", 11: "11.4.0"}
TABLE = b"TRT-8600-EntropyCalibration2\nimage: 3c010a14\n(Unnamed Layer* 0) [Convolution]_output: 3d0a\n"
#: Calibrate whatever table there is.
ignores_tables = False
#: As TensorRT 10 and later.
shares_profiles = False
#: Threads in which the context is current.
pushed: set[int] = set()
#: What ran, on which stream, in which context; and what a CUDA graph was asked for.
calls: list[tuple[Any, ...]] = []
#: What a capture that is under way has recorded.
recording: list[Any] | None = None
#: What the parser has no importer for.
UNSUPPORTED = ("Det", "NonMaxSuppression")


class BuilderFlag(IntEnum):
    TF32 = 0
    FP16 = 1
    INT8 = 2


class _Config:
    builder_optimization_level = 3
    int8_calibrator: Any = None

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[Any] = []
        self.cache = b""

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def get_flag(self, flag: Any) -> bool:
        return flag in self.flags

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return 0

    def set_calibration_profile(self, profile: Any) -> bool:
        return True

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: content + b"t")

    def set_timing_cache(self, cache: Any, ignore: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class _Profile:
    def set_shape(self, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self.shapes = (smallest, best, largest)


class _Network:
    num_inputs = num_outputs = 1
    path = ""

    def __init__(self, strong: bool) -> None:
        self.strong = strong

    @property
    def num_layers(self) -> int:
        return len(onnx.load(self.path).graph.node)

    def get_layer(self, index: int) -> Any:
        kinds = {"QuantizeLinear": LayerType.QUANTIZE, "DequantizeLinear": LayerType.DEQUANTIZE}
        return SimpleNamespace(type=kinds.get(onnx.load(self.path).graph.node[index].op_type))

    def _tensor(self, found: Any) -> Any:
        shape = tuple(extent if isinstance(extent, int) else -1 for extent in found.shape)
        return SimpleNamespace(name=found.name, shape=shape, dtype=DataType.FLOAT)

    def get_input(self, _index: int) -> Any:
        return self._tensor(onnxruntime.InferenceSession(self.path).get_inputs()[0])

    def get_output(self, _index: int) -> Any:
        return self._tensor(onnxruntime.InferenceSession(self.path).get_outputs()[0])


class LayerType(Enum):
    QUANTIZE, DEQUANTIZE = range(2)


class Builder:
    #: From this batch on, a build runs out of memory.
    limit = int(os.environ.get("STANDIN_BUILD_LIMIT", 10**9))
    built = 0

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Any:
        return _Network(bool(flags & 1 << STRONGLY_TYPED))

    def create_builder_config(self) -> Any:
        return _Config()

    def create_optimization_profile(self) -> Any:
        return _Profile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        Builder.built += 1
        if config.profiles[0].shapes[2][0] >= Builder.limit:
            self._logger.log(ILogger.Severity.ERROR, "Error Code 2: OutOfMemory (no further information)")
            return None
        if network.strong and config.flags - {BuilderFlag.TF32}:
            self._logger.log(ILogger.Severity.ERROR, "a strongly typed network takes no precision flag")
            return None
        calibrator = config.int8_calibrator
        if calibrator is not None and (ignores_tables or calibrator.read_calibration_cache() is None):
            while calibrator.get_batch(["input"]) is not None:
                pass
            calibrator.write_calibration_cache(TABLE)
        with open(network.path, "rb") as stream:
            head = {"flags": sorted(int(f) for f in config.flags), "build": Builder.built, "strong": network.strong}
            head["batch"] = config.profiles[0].shapes[2][0]
            head["profiles"] = len(config.profiles)
            return json.dumps(head).encode() + b"\n" + stream.read()


class OnnxParser:
    def __init__(self, network: Any, _logger: Any) -> None:
        self._network = network
        self._errors: list[Any] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        self._network.path = path
        try:
            nodes = onnx.load(path).graph.node
        except Exception as error:  # noqa: BLE001 - protobuf's own kinds
            self._errors = [_error(0, "MODEL_DESERIALIZE_FAILED", str(error), "", "")]
            return False
        self._errors = [
            _error(i, "UNSUPPORTED_NODE", f"no importer registered for op: {node.op_type}", node.name, node.op_type)
            for i, node in enumerate(nodes)
            if node.op_type in UNSUPPORTED
        ]
        return not self._errors


def _error(node: int, code: str, words: str, name: str, operator: str) -> Any:
    told = {"node": node, "code": f"ErrorCode.{code}", "desc": words, "file": "ModelImporter.cpp", "line": 780}
    told |= {"node_name": name, "node_operator": operator}
    return SimpleNamespace(**{key: (lambda value=value: value) for key, value in told.items()})


class ILogger:
    Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO")


class DataType(Enum):
    FLOAT, HALF, INT8, INT32, BOOL = range(5)


class TensorIOMode(Enum):
    INPUT, OUTPUT = range(2)


class IProfiler:
    pass


class _Context:
    """`profile` is None until it is known; TensorRT before 10 lets no two contexts of an engine have the same."""

    def __init__(self, session: Any, engine: Any = None) -> None:
        self._session, self._bound, self._engine = session, {}, engine
        self._shape: Any = None
        self.profile = None if engine.contexts else 0
        engine.contexts.append(self)

    profiler: Any = None
    enqueue_emits_profile = True

    def report_to_profiler(self) -> bool:
        assert not self.enqueue_emits_profile, "TensorRT would have told while it ran"
        self.profiler.report_layer_time("conv + relu", 0.25)
        self.profiler.report_layer_time("linear", 0.125)
        return True

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        taken = any(c.profile == profile for c in self._engine.contexts if c is not self)
        if profile >= self._engine.num_optimization_profiles or (taken and not shares_profiles):
            return False
        self.profile = profile
        return True

    def set_input_shape(self, _name: str, shape: Any) -> bool:
        self._shape = shape
        return self.profile is not None

    def get_tensor_shape(self, _name: str) -> Any:
        return (self._shape[0], *self._session.get_outputs()[0].shape[1:])

    def set_tensor_address(self, name: str, address: int) -> None:
        self._bound[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        if recording is not None:
            bound = dict(self._bound)
            recording.append(lambda: self._execute(stream, bound))
            return True
        return self._execute(stream, self._bound)

    def _execute(self, stream: int, bound: dict[str, int]) -> bool:
        calls.append(("run", stream, self._engine.contexts.index(self)))
        if self._shape[0] >= RUN_LIMIT:
            Runtime.logger.log(ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
            return False
        feed = self._session.get_inputs()[0].name
        kind = "int32" if "int32" in self._session.get_inputs()[0].type else "float32"
        data = np.frombuffer(_ARRAYS[bound[feed]], kind).reshape(self._shape)
        (out,) = self._session.run(None, {feed: data})
        if poison:
            out.flat[0] = np.nan
        _ARRAYS[bound[self._session.get_outputs()[0].name]][:] = out.tobytes()
        return True


def _type_in(model: bytes) -> str:
    graph = onnx.load_from_string(model).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "Int8"
    return "FP16" if any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer) else ""


class _Engine:
    num_io_tensors = 2
    num_layers = 1
    device_memory_size = 2**20

    def __init__(self, content: bytes) -> None:
        head, _, model = content.partition(b"\n")
        self._session = onnxruntime.InferenceSession(model)
        told = json.loads(head)
        self.num_optimization_profiles = told["profiles"]
        self.contexts: list[_Context] = []
        flags = told["flags"]
        held = "Int8" if BuilderFlag.INT8 in flags else "FP16" if BuilderFlag.FP16 in flags else ""
        if told["strong"]:
            held = _type_in(model)
        self._information = {
            "Layers": [{"Name": "conv + relu", "Outputs": [{"Format/Datatype": held or "Row major linear FP32"}]}]
        }

    def get_tensor_name(self, index: int) -> str:
        return str((self._session.get_inputs() + self._session.get_outputs())[index].name)

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name == self._session.get_inputs()[0].name else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, _name: str) -> Any:
        return DataType.FLOAT

    def create_execution_context(self) -> Any:
        return _Context(self._session, self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _form: json.dumps(self._information))


class Runtime:
    logger: Any = None

    def __init__(self, logger: Any) -> None:
        Runtime.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        told = refusal
        if json.loads(content.partition(b"\n")[0])["batch"] >= LOAD_LIMIT:
            told = "Requested amount of GPU memory (8589934592 bytes) could not be allocated."
        if told:
            Runtime.logger.log(ILogger.Severity.ERROR, told)
            return None
        return load(content)


def load(content: bytes) -> Any:
    """Take an engine: what must never happen to a foreign one."""
    return _Engine(content)


class _Calibrator:
    pass


def tensorrt(generation: int = 8) -> Any:
    """The module as a generation of TensorRT has it: 10 has strong typing, 11 nothing else."""
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)  # PyTorch's compiler looks for it with find_spec
    fields = {
        "__version__": VERSIONS[generation],
        "Builder": Builder,
        "BuilderFlag": BuilderFlag,
        "OnnxParser": OnnxParser,
        "IProfiler": IProfiler,
        "ILogger": ILogger,
        "DataType": DataType,
        "TensorIOMode": TensorIOMode,
        "IBuilderConfig": _Config,
        "IExecutionContext": _Context,
        "IInt8EntropyCalibrator2": _Calibrator,
        "IInt8MinMaxCalibrator": _Calibrator,
        "NetworkDefinitionCreationFlag": SimpleNamespace(EXPLICIT_BATCH=0),
        "LayerType": LayerType,
        "ProfilingVerbosity": SimpleNamespace(DETAILED=1),
        "LayerInformationFormat": SimpleNamespace(JSON=1),
        "Runtime": Runtime,
    }
    if generation >= 10:
        fields["NetworkDefinitionCreationFlag"] = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=STRONGLY_TYPED)
    if generation >= 11:
        fields["NetworkDefinitionCreationFlag"] = SimpleNamespace(STRONGLY_TYPED=STRONGLY_TYPED)
        fields["BuilderFlag"] = SimpleNamespace(TF32=BuilderFlag.TF32)
        del fields["IInt8EntropyCalibrator2"], fields["IInt8MinMaxCalibrator"]
    vars(module).update(fields)
    return module


_handles = itertools.count(7)


def _stream(_flags: int = 0) -> Any:
    return SimpleNamespace(handle=next(_handles), synchronize=lambda: None)


class _CudaContext:
    """Current in the threads that pushed it."""

    def push(self) -> None:
        pushed.add(threading.get_ident())

    def pop(self) -> None:
        pushed.remove(threading.get_ident())


def pycuda_driver() -> Any:
    """The module: device memory is host memory under made-up addresses."""
    module = ModuleType("pycuda.driver")

    class Allocation:
        def __init__(self, size: int) -> None:
            self.address = 4096 + len(_ARRAYS)
            _ARRAYS[self.address] = bytearray(size)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            pass

    def h2d(address: int, array: Any, _stream: Any) -> None:
        assert threading.get_ident() in pushed, "no context is current in this thread"
        _ARRAYS[address][:] = array.tobytes()

    def d2h(array: Any, address: int, _stream: Any) -> None:
        array[...] = np.frombuffer(_ARRAYS[address], array.dtype).reshape(array.shape)

    class Event:
        def __init__(self, _flags: int = 0) -> None:
            pass

        def synchronize(self) -> None:
            assert threading.get_ident() in pushed, "no context is current in this thread"

        def record(self, _stream: Any) -> None:
            self.at_ns = time.perf_counter_ns()

        def time_since(self, other: Any) -> float:
            return float((self.at_ns - other.at_ns) / 1e6)

    context = _CudaContext()
    device: Any = SimpleNamespace(retain_primary_context=lambda: context, get_attribute=lambda _which: 2**20)
    kind = type("Device", (), {"count": staticmethod(lambda: 1), "__new__": lambda _cls, _index: device})
    vars(module).update(
        Error=type("Error", (Exception,), {}),
        init=lambda: None,
        Device=kind,
        Event=Event,
        event_flags=SimpleNamespace(DISABLE_TIMING=2),
        Stream=_stream,
        mem_alloc=Allocation,
        pagelocked_empty=lambda shape, dtype: np.empty(shape, dtype),
        memcpy_htod_async=h2d,
        memcpy_dtoh_async=d2h,
        device_attribute=SimpleNamespace(L2_CACHE_SIZE=1),
    )
    return module


class DriverGraphs:
    """`cuda_graph.DriverGraphs` without a driver: what a capture records runs when its graph is launched."""

    #: What a capture fails with.
    refuses = ""

    def capture(self, stream: int, work: Any) -> Any:
        """As the driver does: nothing runs, and the addresses are those of now."""
        global recording
        if DriverGraphs.refuses:
            raise cuda_graph.not_captured(DriverGraphs.refuses)
        calls.append(("capture", stream))
        recording = recorded = []
        work()
        recording = None
        return SimpleNamespace(nodes=3, launch=lambda on: self._launch(on, stream, recorded), close=lambda: None)

    def _launch(self, on: int, stream: int, recorded: list[Any]) -> None:
        assert on == stream
        calls.append(("launch", stream))
        for work in recorded:
            work()
