# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sessions, opened the same way for measuring and for references: on the CPU unless told otherwise."""

from typing import Any, Callable, Dict, List, Optional, Tuple

from workers.workflows.base import Lane, require
from workers.workflows.errors import (
    DamagedModel,
    ProviderFellBack,
    SettingNotHeld,
    Unsupported,
    WorkflowError,
    is_out_of_memory,
)
from workers.workflows.ort_providers import CPU, strict_session

#: Providers in order of preference, each with its options.
Providers = List[Tuple[str, Dict[str, str]]]
_DAMAGED = ("InvalidProtobuf", "InvalidGraph", "NoModel")


def open_session(
    path: str,
    threads: int,
    providers: Optional[Providers] = None,
    profile: Optional[str] = None,
    inter_threads: Optional[int] = None,
) -> Any:
    """Open a session with `threads` intra-op threads and all graph optimisations, its operators one after another.

    With `inter_threads`, independent operators run side by side on as many threads. The first of `providers` is the
    one asked for; the CPU's takes what the others leave. With `profile`, the session writes a profile to a file whose
    path begins so, until its `end_profiling`.

    Raises:
        MissingLibrary: onnxruntime is not installed.
        DamagedModel, Unsupported, WorkflowError: this ONNX Runtime cannot open the file, by cause.
        ProviderFellBack, SettingNotHeld: it opened it in another way than asked.
    """
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    modes, several = ort.ExecutionMode, inter_threads is not None and inter_threads > 1
    # The pool of inter-op threads is used in parallel mode alone.
    options.inter_op_num_threads = inter_threads if several else 1
    options.execution_mode = modes.ORT_PARALLEL if several else modes.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    asked: Providers = (providers or []) + [(CPU, {})]
    try:
        session = strict_session(ort, path, options, asked)
    except Exception as error:
        raise _explained(error, path, ort.__version__) from error
    _assert_held(session, asked[0][0], threads, options.inter_op_num_threads)
    return session


def _explained(error: Exception, path: str, version: str) -> Exception:
    if is_out_of_memory(error):
        return error
    kind, text = type(error).__name__, str(error)
    if kind in _DAMAGED:
        return DamagedModel(
            "ONNX Runtime {} finds {} damaged: {}".format(version, path, text),
            "Export the model again, or fetch it again.",
        )
    if kind == "NotImplemented" or "opset" in text.lower() or "is not a registered" in text:
        return Unsupported(
            "ONNX Runtime {} cannot run {}: {}".format(version, path, text),
            "Export the model with an older opset, or use a stack with a newer ONNX Runtime.",
            "operator-unsupported",
        )
    return WorkflowError("ONNX Runtime {} cannot open {}: {}".format(version, path, text), None, "session-failed")


def _assert_held(session: Any, provider: str, threads: int, inter_threads: int) -> None:
    first = (session.get_providers() or ["none"])[0]
    if first != provider:
        raise ProviderFellBack(
            "ONNX Runtime runs {} instead of {}".format(first, provider),
            "Look at the runner's log for why the provider did not load.",
        )
    found = session.get_session_options()
    if found.intra_op_num_threads != threads:
        raise SettingNotHeld("ONNX Runtime runs {} threads instead of {}".format(found.intra_op_num_threads, threads))
    if found.inter_op_num_threads != inter_threads:
        held = found.inter_op_num_threads
        raise SettingNotHeld("ONNX Runtime runs {} inter-op threads instead of {}".format(held, inter_threads))


def dealt(opens: Callable[[], Any], first: Any, sessions: int, lanes: int) -> List[Any]:
    """The session of each of `lanes`: `first` and as many more as it takes for `sessions`, in turn."""
    opened = [first] + [opens() for _ in range(sessions - 1)]
    return [opened[lane % sessions] for lane in range(lanes)]


class Bound:
    """One input, placed, with somewhere for the outputs to go: what a timed inference is handed.

    `device` is `cpu`, or `cuda` for the one GPU that the process sees. Outputs whose shape follows from the batch size
    are allocated once; others by ONNX Runtime at each inference. Without `outputs` it is a placed input and no more.
    """

    def __init__(self, session: Any, host_input: Any, device: str = "cpu", outputs: bool = True) -> None:
        import numpy as np
        import onnxruntime as ort

        self.binding = session.io_binding()
        # On the CPU the value borrows the array's memory, so both are kept.
        self._host, self._input = host_input, ort.OrtValue.ortvalue_from_numpy(host_input, device, 0)
        self._outputs: List[Any] = []
        self.input_bytes = host_input.nbytes
        self.binding.bind_ortvalue_input(session.get_inputs()[0].name, self._input)
        for output in session.get_outputs() if outputs else ():
            shape = output_shape(output.shape, host_input.shape[0])
            if shape is None or output.type != "tensor(float)":
                self.binding.bind_output(output.name, device)
                continue
            self._outputs.append(ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0))
            self.binding.bind_ortvalue_output(output.name, self._outputs[-1])

    @property
    def address(self) -> int:
        """Where the input is."""
        return int(self._input.data_ptr())

    def is_fixed(self, session: Any) -> bool:
        """Whether all outputs stay where they are from run to run."""
        return len(self._outputs) == len(session.get_outputs())

    def fill_outputs(self, value: float) -> None:
        """Write a value to every element of the outputs that were allocated. Done when it returns."""
        import numpy as np

        for output in self._outputs:
            output.update_inplace(np.full(output.shape(), value, dtype=np.float32))

    def update(self, host_input: Any) -> None:
        """Copy another input of the same shape to where the first was placed. Done when it returns."""
        self._input.update_inplace(host_input)

    def outputs(self, session: Any) -> List[Tuple[str, Any]]:
        """Copies of the outputs of the last inference, by name."""
        names = [output.name for output in session.get_outputs()]
        return list(zip(names, self.binding.copy_outputs_to_cpu()))


class SessionLane(Lane):
    """Runs of a session by one thread, with what they are bound to. A session takes runs of several threads at once.

    ONNX Runtime waits for a run's own stream before it returns, so there is nothing left to wait for; asking the
    provider would wait for the whole device, other lanes with it. `reuse`: all inputs go through one memory.
    """

    def __init__(self, session: Any, device: str = "cpu", reuse: bool = False) -> None:
        self._session, self._device, self._reuse = session, device, reuse
        self._last: Optional[Bound] = None
        self._reused: Optional[Bound] = None

    def to_device(self, host_input: Any) -> Bound:
        """Bind the input, and outputs of its batch size."""
        if self._reused is not None:
            self._reused.update(host_input)
            return self._reused
        bound = Bound(self._session, host_input, self._device)
        self._reused = bound if self._reuse else None
        return bound

    def infer(self, batch: Bound) -> None:
        """Run the session; it is done when it returns."""
        self._session.run_with_iobinding(batch.binding)
        self._last = batch

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        return self._last.outputs(self._session) if self._last is not None else []

    def detach(self) -> None:
        """Free what was bound, before the session that it was bound to."""
        self._last = self._reused = None


def output_shape(declared: List[Any], batch_size: int) -> Any:
    """The shape of an output whose first dimension is the batch; None where another dimension is not known."""
    if not declared or any(not isinstance(extent, int) for extent in declared[1:]):
        return None
    if isinstance(declared[0], int) and declared[0] != batch_size:
        return None
    return [batch_size, *declared[1:]]
