# SPDX-License-Identifier: Apache-2.0
"""A CUDA graph inside of an ONNX Runtime session: captured by its first runs, at one input and one set of outputs.

The provider tells nobody from Python whether it captured. What can be seen: once it has, a run launches the graph and
looks at no binding, so outputs that are bound to other memory are not written. That is tried here.
"""

from typing import Any, Dict

from workers.workflows import cuda_graph
from workers.workflows.cuda_driver import DeviceCopy
from workers.workflows.errors import WorkflowError
from workers.workflows.onnx_session import Bound

#: Regular runs before a capture, the capture, and one more: 1.17 makes them all within the first.
_RUNS = 4
#: How ONNX Runtime words, in 1.17 and later, that a model cannot be captured.
_REFUSED = ("CUDA Graph feature", "graph capture feature", "Graph Capture feature")
_EVIDENCE = "a run with other outputs bound left them as they were, as a launched graph does"


class OrtGraph:
    """The captured graph of one session, for the thread that made it: the provider keeps one for each thread."""

    def __init__(self, session: Any, host_input: Any, copies: bool) -> None:
        self._session, self._copies = session, copies
        self.fixed = Bound(session, host_input, "cuda")
        if not self.fixed.is_fixed(session):
            raise cuda_graph.not_captured("the shape of an output is not known before it runs")
        try:
            for _ in range(_RUNS):
                session.run_with_iobinding(self.fixed.binding)
        except Exception as error:
            raise cuda_graph.explained(error) from error
        _assert_replayed(session, host_input)
        self._copy = DeviceCopy() if copies else None

    def place(self, host_input: Any, end_to_end: bool) -> Any:
        """The graph's own input, filled; where inputs are copied into it, one of its own."""
        if self._copies:
            return Bound(self._session, host_input, "cuda", outputs=False)
        if end_to_end:
            self.fixed.update(host_input)
        return self.fixed

    def run(self, batch: Any) -> None:
        """Launch the graph, with the input in place; done when it returns."""
        if self._copy is not None:
            self._copy(self.fixed.address, batch.address, batch.input_bytes)
        self._session.run_with_iobinding(self.fixed.binding)

    def facts(self, end_to_end: bool) -> Dict[str, Any]:
        """For the record."""
        inputs = cuda_graph.ONE_MEMORY if end_to_end else cuda_graph.COPIED if self._copies else cuda_graph.EACH_INPUT
        return cuda_graph.facts(1, inputs, _EVIDENCE)


def refused(error: WorkflowError) -> bool:
    """Whether a session could not be opened because its model cannot be captured."""
    return any(words in error.message for words in _REFUSED)


def _assert_replayed(session: Any, host_input: Any) -> None:
    """Raise GraphNotCaptured unless a run leaves outputs alone that the graph does not know."""
    import numpy as np

    other = Bound(session, host_input, "cuda")
    other.fill_outputs(np.nan)
    session.run_with_iobinding(other.binding)
    other.binding.synchronize_outputs()
    if not all(np.isnan(value).all() for _, value in other.outputs(session)):
        raise cuda_graph.not_captured("after {} runs ONNX Runtime still runs the model node by node".format(_RUNS))
