# SPDX-License-Identifier: Apache-2.0
"""TensorRT 8.5 to 11: the only module that calls it, and the only one that asks what a version can do.

`tools/check_trt_api.py` lists the names of each version's Python binding; a test holds the tables of `trt_names`
against those lists, and the calls in this file against the tables.
"""

import copy
import sys
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from workers.workflows.errors import ParserFailed, Unsupported, WorkflowError, is_out_of_memory

_NUMPY_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool"}
_CALIBRATORS = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
#: How TensorRT words that the GPU's memory is used up, beside what every allocator says.
_MEMORY_WORDS = ("outofmemory", "could not be allocated", "not enough free memory", "insufficient memory")
_WAY_OUT = (
    "A strongly typed network runs the types that its graph holds: set the option `quantization: explicit`, or use a "
    "stack with TensorRT 10 or older and `typing: weak`."
)


@dataclass(frozen=True)
class Plan:
    """What to build: `profile` is (smallest, best, largest) batch; None as `level`: the builder's own choice.

    `strong`: the network is strongly typed, so that no flag may name a precision. `profiles` is how often the profile
    is there, for as many contexts at once.
    """

    precision: str
    input_shape: Tuple[int, ...]
    profile: Tuple[int, int, int]
    level: Optional[int] = None
    allow_fp16: bool = False
    strong: bool = False
    profiles: int = 1


@dataclass(frozen=True)
class Built:
    """A serialised engine. `flags` are read back from the builder's configuration."""

    engine: bytes
    timing_cache: bytes
    flags: Dict[str, Optional[bool]]


def features(trt: Any) -> Dict[str, Any]:
    """What this TensorRT can do, found by looking at the names that it has."""
    flags = trt.BuilderFlag
    return {
        "tensorrt": trt.__version__,
        "fp16_flag": hasattr(flags, "FP16"),
        "implicit_int8": hasattr(flags, "INT8") and hasattr(trt, _CALIBRATORS["entropy"]),
        "strong_typing": hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        "strongly_typed_only": not hasattr(flags, "FP16"),
        "version_compatible_engines": hasattr(flags, "VERSION_COMPATIBLE"),
        "optimization_level": hasattr(trt.IBuilderConfig, "builder_optimization_level"),
        "named_tensors": hasattr(trt.IExecutionContext, "execute_async_v3"),
        # Before 10 only with a preview feature, and one context of a profile at a time without it. No name tells.
        "shared_profiles": int(trt.__version__.split(".")[0]) >= 10,
    }


def dla_cores(trt: Any) -> int:
    """How many deep-learning accelerators TensorRT finds: Jetson boards have some. Starts CUDA."""
    return int(trt.Runtime(Log(trt).logger).num_DLA_cores)


def check(trt: Any, level: Optional[int]) -> None:
    """Refuse what this version cannot do, before anything is made. Raises Unsupported, naming the way out."""
    able = features(trt)
    if not able["named_tensors"]:
        raise Unsupported(
            "TensorRT {} has no named-tensor API".format(trt.__version__),
            "Use a stack with TensorRT 8.5 or later.",
            "tensorrt-too-old",
        )
    if level is not None and not able["optimization_level"]:
        raise Unsupported(
            "TensorRT {} has no builder optimization level".format(trt.__version__),
            "Leave the option `optimization_level` out, or use a stack with TensorRT 8.6 or later.",
            "tensorrt-too-old",
        )


def check_implicit_int8(trt: Any, method: str, strong: bool = False) -> None:
    """Refuse calibration that this version, or any, does not have. Graphs with Q/DQ nodes need none."""
    if strong or not features(trt)["implicit_int8"]:
        what = "a strongly typed network" if strong else "this version"
        raise Unsupported(
            "TensorRT {}: {} has no implicit int8 calibration".format(trt.__version__, what),
            _WAY_OUT,
            "strongly-typed-only",
        )
    if method not in _CALIBRATORS:
        raise Unsupported(
            "TensorRT has no {} calibrator".format(method),
            "Use the calibration method `entropy` or `minmax`, or the option `quantization: explicit`.",
            "calibration-unsupported",
        )


def calibrator_base(trt: Any, method: str) -> Any:
    """TensorRT's class of calibrators that find ranges by this method."""
    check_implicit_int8(trt, method)
    return getattr(trt, _CALIBRATORS[method])


class Log:
    """TensorRT's messages: errors are kept, and with warnings go to the run's log. `logger` is what TensorRT takes."""

    def __init__(self, trt: Any) -> None:
        self.errors: List[str] = []
        errors = self.errors
        severities = trt.ILogger.Severity
        severe = (severities.INTERNAL_ERROR, severities.ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in severe:
                    errors.append(text)
                if severity in severe or severity == severities.WARNING:
                    sys.stderr.write("[TensorRT] {}\n".format(text))

        self.logger = Logger()

    def failure(self, what: str, hint: Optional[str] = None, reference: str = "tensorrt-failed") -> Exception:
        """The exception for a call that gave nothing: out of memory where the messages say so."""
        text = "; ".join(self.errors[-5:]) or "it says nothing about why"
        error = RuntimeError(text)
        if is_out_of_memory(error) or any(words in text.lower() for words in _MEMORY_WORDS):
            return MemoryError("{}: {}".format(what, text))
        return WorkflowError("{}: {}".format(what, text), hint, reference)


class Network:
    """An ONNX file, parsed, perhaps as a strongly typed network.

    Everything that TensorRT needs while it builds lives as long as this object.
    """

    def __init__(self, trt: Any, path: str, log: Log, strong: bool = False) -> None:
        self._trt, self._log = trt, log
        self._builder = trt.Builder(log.logger)
        flags = trt.NetworkDefinitionCreationFlag
        wanted = 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0
        if strong:
            wanted |= 1 << int(flags.STRONGLY_TYPED)
        self._network = self._builder.create_network(wanted)
        self._parser = trt.OnnxParser(self._network, log.logger)
        if not self._parser.parse_from_file(path):
            raise _parser_failed(trt, self._parser, log)

    def facts(self) -> Dict[str, Any]:
        """The input and what quantisation the graph holds, as `onnx_files.examine` names them.

        Raises:
            Unsupported: more than one input, or one that is not float32.
        """
        network, trt = self._network, self._trt
        names = [network.get_input(i).name for i in range(network.num_inputs)]
        if len(names) != 1:
            raise Unsupported(
                "the ONNX file has {} inputs ({}) and the farm feeds one".format(len(names), ", ".join(names)),
                "Export the model with one input.",
                "input-count",
            )
        tensor = network.get_input(0)
        if tensor.dtype != trt.DataType.FLOAT:
            raise Unsupported(
                "the ONNX file's input {!r} is {} and the farm feeds FLOAT".format(names[0], tensor.dtype),
                "Export the model with a float32 input.",
                "input-type",
            )
        kinds = [network.get_layer(i).type for i in range(network.num_layers)]
        return {
            "input": names[0],
            "input_shape": [extent if extent > 0 else None for extent in tensor.shape],
            "outputs": [network.get_output(i).name for i in range(network.num_outputs)],
            "quantize": sum(kind == trt.LayerType.QUANTIZE for kind in kinds),
            "dequantize": sum(kind == trt.LayerType.DEQUANTIZE for kind in kinds),
        }

    def build(self, plan: Plan, timing_cache: bytes = b"", calibrator: Any = None) -> Built:
        """Build an engine. Raises MemoryError where TensorRT says that memory ran out, else WorkflowError."""
        config = self._config(plan, calibrator)
        cache = config.create_timing_cache(timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        serialized = self._builder.build_serialized_network(self._network, config)
        if serialized is None:
            raise self._log.failure(
                "TensorRT built no engine", "The run's log has the builder's words.", "build-failed"
            )
        found = config.get_timing_cache()
        kept = bytes(found.serialize()) if found is not None else b""
        return Built(bytes(serialized), kept, _flags(self._trt, config))

    def _config(self, plan: Plan, calibrator: Any) -> Any:
        trt, name = self._trt, self._network.get_input(0).name
        config = self._builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if plan.level is not None:
            config.builder_optimization_level = plan.level
        _set(config, trt.BuilderFlag.TF32, plan.precision == "tf32")
        if hasattr(trt.BuilderFlag, "FP16"):
            _set(config, trt.BuilderFlag.FP16, not plan.strong and (plan.precision == "fp16" or plan.allow_fp16))
            _set(config, trt.BuilderFlag.INT8, not plan.strong and plan.precision == "int8")
        for _ in range(plan.profiles):
            config.add_optimization_profile(self._profile(name, plan.input_shape, plan.profile))
        if calibrator is not None:
            config.int8_calibrator = calibrator
            batch = calibrator.get_batch_size()
            config.set_calibration_profile(self._profile(name, plan.input_shape, (batch, batch, batch)))
        return config

    def _profile(self, name: str, shape: Tuple[int, ...], batches: Tuple[int, int, int]) -> Any:
        profile = self._builder.create_optimization_profile()
        smallest, best, largest = ((batch, *shape) for batch in batches)
        profile.set_shape(name, smallest, best, largest)
        return profile


def _set(config: Any, flag: Any, on: bool) -> None:
    if on:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)


def _flags(trt: Any, config: Any) -> Dict[str, Optional[bool]]:
    """The precision flags as the configuration holds them; None for one that this version does not have."""
    found: Dict[str, Optional[bool]] = {}
    for name in ("TF32", "FP16", "INT8"):
        flag = getattr(trt.BuilderFlag, name, None)
        found[name.lower()] = None if flag is None else bool(config.get_flag(flag))
    return found


def _parser_failed(trt: Any, parser: Any, log: Log) -> WorkflowError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    lines = [_error_text(error) for error in errors] or log.errors[-5:] or ["it says nothing about why"]
    codes = [str(error.code()) for error in errors]
    message = "TensorRT {} does not take the ONNX file, {} errors; the first: {}".format(
        trt.__version__, len(lines), lines[0]
    )
    if any("UNSUPPORTED" in code for code in codes):
        failed: WorkflowError = Unsupported(
            message,
            "Export the model with an older opset or without this operator, or use a newer TensorRT.",
            "parser-failed",
        )
    else:
        failed = ParserFailed(message, "Check the file with onnx.checker; the failure's detail has every error.")
    # The cause is in the failure's detail, so all errors are there, node by node.
    failed.__cause__ = RuntimeError("the parser's errors, node by node:\n" + "\n".join(lines))
    return failed


def _error_text(error: Any) -> str:
    """One error: the node by name and operator where the version tells them (10 and later), else by number."""
    where = "node {}".format(error.node())
    if hasattr(error, "node_name"):
        where += " {!r} ({})".format(error.node_name(), error.node_operator())
    return "{}: {}: {} [{}:{}]".format(where, error.code(), error.desc(), error.file(), error.line())


class Engine:
    """A loaded engine with an execution context, for one shape of its one input; `fork` makes further contexts."""

    def __init__(self, trt: Any, content: bytes, log: Log, input_shape: Sequence[int]) -> None:
        self._trt, self._log = trt, log
        self._runtime = trt.Runtime(log.logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise log.failure(
                "TensorRT {} does not take the engine".format(trt.__version__),
                "It is from another version or GPU: delete the kind `engine` from the worker's cache and run the job "
                "again, which builds it anew.",
                "engine-foreign",
            )
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.input = inputs[0]
        self.outputs = [name for name in names if name not in inputs]
        self._shape = tuple(input_shape)
        self._new_context()

    @property
    def profiles(self) -> int:
        """How many optimization profiles it was built with."""
        return int(self._engine.num_optimization_profiles)

    @property
    def context_bytes(self) -> int:
        """Device memory that a context takes for activations, by the profile that takes most."""
        engine = self._engine
        return int(
            engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
        )

    def fork(self, number: int, stream: int) -> "Engine":
        """The same engine with a further context, set up on a stream: with a profile of its own if there are so many.

        An engine for one shape alone, or one whose profiles are shared, has a single profile.
        """
        other = copy.copy(self)
        other._new_context(number if number < self.profiles else 0, stream)
        return other

    def _new_context(self, profile: Optional[int] = None, stream: int = 0) -> None:
        """The first context of an engine has its first profile; others are given theirs."""
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._log.failure("TensorRT made no execution context for the engine")
        if profile is not None and not self._context.set_optimization_profile_async(profile, stream):
            raise self._log.failure("a further execution context does not take profile {}".format(profile))
        if not self._context.set_input_shape(self.input, self._shape):
            raise self._log.failure("the engine does not take inputs of shape {}".format(self._shape))

    def output_shape(self, name: str) -> Tuple[int, ...]:
        """The shape of an output for the input's shape. Raises Unsupported where it depends on the data."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(extent < 0 for extent in shape):
            raise Unsupported(
                "the shape of output {!r} depends on the data: {}".format(name, shape),
                "Export the model with outputs whose shapes follow from the batch.",
                "output-type",
            )
        return shape

    def numpy_type(self, name: str) -> str:
        """numpy's name for a tensor's type. TensorRT's own `nptype` fails with newer versions of numpy."""
        found = self._engine.get_tensor_dtype(name)
        for mine, theirs in _NUMPY_TYPES.items():
            if found == getattr(self._trt.DataType, mine):
                return theirs
        raise Unsupported("tensor {!r} is of type {}".format(name, found), None, "output-type")

    def bind(self, name: str, address: int) -> None:
        """Say where a tensor is on the device."""
        self._context.set_tensor_address(name, address)

    def run(self, stream: int) -> None:
        """Put one inference on the stream. Raises what the messages say where TensorRT refuses."""
        if not self._context.execute_async_v3(stream):
            raise self._log.failure("TensorRT did not run the engine")

    def profile_layers(self) -> Callable[[], List[Tuple[str, float]]]:
        """Attach a profiler to the context; what is returned tells the last inference's layers, with times in ms.

        Asked once for each inference, after the wait for it. From here on the context is slower: never a measured one.
        """
        context, told = self._context, _layer_profiler(self._trt)
        context.profiler = told
        # Else each inference would wait for its own times, and what is profiled is not what is measured.
        context.enqueue_emits_profile = False

        def last() -> List[Tuple[str, float]]:
            told.found = []
            if not context.report_to_profiler():
                raise self._log.failure("TensorRT told no times of layers")
            return list(told.found)

        return last

    def information(self) -> str:
        """The engine inspector's description, JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def layers(self) -> int:
        """Layers after fusion."""
        return int(self._engine.num_layers)


def _layer_profiler(trt: Any) -> Any:
    """A profiler that keeps what it is told; the class it comes from is there only once TensorRT is imported."""

    class Told(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # the binding needs its own constructor, by name
            self.found: List[Tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT, once for each layer."""
            self.found.append((str(layer_name), float(ms)))

    return Told()
