# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs as a variant that was asked for: captured for certain, or the run says that it was not.

A graph holds the addresses that it was captured with. So each input that stays on the device has a graph of its own;
inputs that are copied in (`end_to_end`) share one memory, and so one graph.
"""

import ctypes
from typing import Any, Callable, Dict, Optional

from workers.workflows.errors import GraphNotCaptured, Unsupported, is_out_of_memory

OPTION = "cuda_graph"
#: CU_STREAM_CAPTURE_MODE_THREAD_LOCAL of cuda.h: what other threads do is no concern of the capture.
_THREAD_LOCAL = 1
_LIBRARY = "libcuda.so.1"
_HINT = "Leave the option `cuda_graph` out for this model: without it, it runs."

EACH_INPUT = "one graph for each input"
ONE_MEMORY = "one graph; each input is copied into its memory, as the boundary has it"
COPIED = "one graph; each input is copied into its memory on the device, inside of the sample"


def asked(options: Dict[str, Any]) -> bool:
    """Whether a job asks for CUDA graphs. Raises Unsupported for a value that is neither true nor false."""
    value = options.get(OPTION, False)
    if not isinstance(value, bool):
        raise Unsupported("option {} is true or false, not {!r}".format(OPTION, value))
    return value


def facts(graphs: int, inputs: str, evidence: str) -> Dict[str, Any]:
    """What a record holds of a run that asked for graphs and launched nothing else. `evidence` says how that is known.

    Raises:
        GraphNotCaptured: there are none, whatever else is said.
    """
    if not graphs:
        raise not_captured("no input was given one")
    return {"asked": True, "captured": True, "why": evidence, "graphs": graphs, "inputs": inputs}


def not_captured(why: str) -> GraphNotCaptured:
    """The failure of a run whose graph could not be had."""
    return GraphNotCaptured("a CUDA graph was asked for and not captured: {}".format(why), _HINT)


def explained(error: Exception) -> Exception:
    """What capturing raised, in the farm's terms."""
    return error if is_out_of_memory(error) else not_captured(" ".join(str(error).split())[:600])


class DriverGraphs:
    """Capture and launch through the CUDA driver's own interface, in the calling thread's current context.

    Streams are integers, the driver's and the runtime's alike.
    """

    def __init__(self, library: str = _LIBRARY) -> None:
        try:
            self._driver: Any = ctypes.CDLL(library)
        except OSError as error:
            raise not_captured("the driver's library cannot be loaded: {}".format(error)) from error
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        for name, types in (
            ("cuStreamBeginCapture_v2", [pointer, ctypes.c_int]),
            ("cuStreamEndCapture", [pointer, ctypes.POINTER(pointer)]),
            ("cuGraphGetNodes", [pointer, pointer, ctypes.POINTER(size)]),
            ("cuGraphInstantiateWithFlags", [ctypes.POINTER(pointer), pointer, ctypes.c_ulonglong]),
            ("cuGraphLaunch", [pointer, pointer]),
            ("cuGraphExecDestroy", [pointer]),
            ("cuGraphDestroy", [pointer]),
        ):
            if not hasattr(self._driver, name):
                raise not_captured("this driver has no {}".format(name))
            getattr(self._driver, name).argtypes = types

    def capture(self, stream: int, work: Callable[[], Any]) -> "DriverGraph":
        """Record what `work` puts on a stream, without running it.

        Raises:
            GraphNotCaptured: it does something that a graph cannot hold, or nothing.
        """
        self._check(self._driver.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL), "the capture could not begin")
        raised: Optional[Exception] = None
        graph = ctypes.c_void_p()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told below: first the stream has to be taken out of its capture
            raised = error
        code = self._driver.cuStreamEndCapture(stream, ctypes.byref(graph))
        if raised is not None:
            raise explained(raised) from raised
        self._check(code, "the capture was broken off")
        return self._instantiated(graph)

    def _instantiated(self, graph: Any) -> "DriverGraph":
        nodes, executable = ctypes.c_size_t(0), ctypes.c_void_p()
        try:
            self._check(self._driver.cuGraphGetNodes(graph, None, ctypes.byref(nodes)), "the graph cannot be read")
            if not nodes.value:
                raise not_captured("the graph is empty")
            code = self._driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, 0)
            self._check(code, "the graph could not be instantiated")
        finally:
            self._driver.cuGraphDestroy(graph)
        return DriverGraph(self._driver, executable, int(nodes.value))

    def _check(self, code: int, what: str) -> None:
        if code == 2:  # CUDA_ERROR_OUT_OF_MEMORY
            raise MemoryError("out of memory: {}".format(what))
        if code:
            raise not_captured("{}: the driver answers with error {}".format(what, code))


class DriverGraph:
    """An instantiated graph of `nodes` nodes."""

    def __init__(self, driver: Any, executable: Any, nodes: int) -> None:
        self._launch, self._destroy, self._executable = driver.cuGraphLaunch, driver.cuGraphExecDestroy, executable
        self.nodes = nodes

    def launch(self, stream: int) -> None:
        """Put it on a stream. Raises GraphNotCaptured where the driver refuses."""
        code = self._launch(self._executable, stream)
        if code:
            raise not_captured("launching it fails with error {}".format(code))

    def close(self) -> None:
        """Free it, once no launch of it is under way."""
        self._destroy(self._executable)
