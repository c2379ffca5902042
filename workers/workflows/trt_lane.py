# SPDX-License-Identifier: Apache-2.0
"""One execution context of a TensorRT engine with its buffers and stream; with CUDA graphs, one for each input."""

from typing import Any, Dict, List, Optional, Tuple

from workers.workflows import cuda_graph
from workers.workflows.base import Lane
from workers.workflows.trt_compat import Engine
from workers.workflows.trt_memory import Mark, Memory


class Placed:
    """One input on the device, the pinned copy that it came from and, where there are any, its graph."""

    def __init__(self, memory: Memory, host_input: Any) -> None:
        self.staged = memory.pinned(host_input.shape, host_input.dtype.name)
        self.address = memory.allocate(host_input.nbytes)
        self.graph: Any = None


class TrtLane(Lane):
    """`engine` is one context, bound here to outputs in `memory`, on whose stream it runs.

    `reuse`: all inputs go through the memory of the first, which is then filled while the stream is at work.
    `turns`: the stream is shared, and this is what all of its lanes hold while they put one request on it; each then
    waits for a mark behind its own request, since the stream may go on with those of others for ever.
    """

    def __init__(self, engine: Engine, memory: Memory, reuse: bool, turns: Any = None) -> None:
        self._engine: Any = engine
        self._turns: Any = turns
        self._mark: Optional[Mark] = None if turns is None else memory.mark()
        self._memory, self._reuse, self._stream = memory, reuse, memory.stream
        self._reused: Optional[Placed] = None
        self._outputs: Dict[str, Tuple[Any, int]] = {}
        for name in engine.outputs:
            staged = memory.pinned(engine.output_shape(name), engine.numpy_type(name))
            self._outputs[name] = (staged, memory.allocate(staged.nbytes))
            engine.bind(name, self._outputs[name][1])

    def attach(self) -> None:
        """Make the GPU's context current in this thread."""
        self._memory.attach()

    def to_device(self, host_input: Any) -> Placed:
        """Copy the input to device memory of its own, or always to the same, through pinned memory."""
        placed = self._reused or Placed(self._memory, host_input)
        self._reused = placed if self._reuse else None
        placed.staged[...] = host_input
        self._memory.to_device(placed.address, placed.staged)
        if not self._reuse:
            self._memory.synchronize()
        return placed

    def infer(self, batch: Placed) -> None:
        """Put one inference on the stream."""
        if self._mark is None:
            self._enqueue(batch)
            return
        with self._turns:
            self._enqueue(batch)
            self._mark.put()

    def _enqueue(self, batch: Placed) -> None:
        self._engine.bind(self._engine.input, batch.address)
        self._engine.run(self._stream)

    def synchronize(self) -> None:
        """Wait for the stream, or of a shared one for this lane's last request."""
        if self._mark is None:
            self._memory.synchronize()
        else:
            self._mark.wait()

    def outputs(self) -> List[Tuple[str, Any]]:
        """Copies of the last inference's outputs."""
        for staged, address in self._outputs.values():
            self._memory.to_host(staged, address)
        if self._mark is not None:
            self._mark.put()
        self.synchronize()
        return [(name, staged.copy()) for name, (staged, _) in self._outputs.items()]

    def graph_facts(self) -> List[int]:
        """How many nodes each captured graph has: no graphs, none."""
        return []

    def detach(self) -> None:
        """Leave the GPU's context."""
        self._memory.detach()

    def let_go(self) -> None:
        """Free the context, which goes before the memory that it is bound to."""
        self._engine = self._reused = self._mark = None
        self._outputs = {}

    def close(self) -> None:
        """Free that memory, too."""
        self.let_go()
        self._memory.close()


class TrtGraphLane(TrtLane):
    """As `TrtLane`, with a CUDA graph of each input's inference, which is all that `infer` launches."""

    def __init__(self, engine: Engine, memory: Memory, reuse: bool, turns: Any = None) -> None:
        super().__init__(engine, memory, reuse, turns)
        self._graphs = cuda_graph.DriverGraphs()
        self._captured: List[Any] = []

    def to_device(self, host_input: Any) -> Placed:
        """As without graphs; an input at a new address gets its graph. Raises GraphNotCaptured."""
        placed = super().to_device(host_input)
        if placed.graph is None:
            placed.graph = self._capture(placed)
        return placed

    def _enqueue(self, batch: Placed) -> None:
        batch.graph.launch(self._stream)

    def graph_facts(self) -> List[int]:
        """How many nodes each captured graph has."""
        return [graph.nodes for graph in self._captured]

    def let_go(self) -> None:
        """Free the graphs before what they run on."""
        for graph in self._captured:
            graph.close()
        self._captured = []
        super().let_go()

    def _capture(self, placed: Placed) -> Any:
        # TensorRT settles what depends on shapes and addresses at the first run, which a capture must not hold.
        super()._enqueue(placed)
        self._memory.synchronize()
        self._captured.append(self._graphs.capture(self._stream, lambda: self._engine.run(self._stream)))
        return self._captured[-1]
