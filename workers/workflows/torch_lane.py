# SPDX-License-Identifier: Apache-2.0
"""Lanes and CUDA graphs of a PyTorch module: each thread has a stream, a mode of inference and threads of its own."""

from typing import Any, Callable, Dict, List, Optional, Tuple

from workers.workflows import cuda_graph
from workers.workflows.base import Lane
from workers.workflows.errors import SettingNotHeld

#: Runs on a side stream before a capture, so that libraries have taken the memory that they work in.
_WARM = 3


class GraphInput:
    """An input in memory that stays where it is, the graph of its inference, and where that leaves its output."""

    def __init__(self, tensor: Any, graph: Any, output: Any) -> None:
        self.tensor, self.output = tensor, output
        self.graph, self.replay = graph, graph.replay


class Graphed:
    """Called in the place of a module, with inputs that it placed: launches the graph that it captured for each.

    All its graphs share one pool of memory: one is launched at a time, on one stream, and each output is kept, so that
    the pool never gives its memory to another graph. `reuse`: all inputs go through the memory of the first.
    """

    def __init__(self, torch: Any, module: Any, reuse: bool) -> None:
        self._torch, self._module, self._reuse = torch, module, reuse
        self._pool = torch.cuda.graph_pool_handle()
        self._first: Optional[GraphInput] = None
        self.count = 0

    def place(self, tensor: Any) -> GraphInput:
        """An input that is on the device, with its graph. Raises GraphNotCaptured."""
        if self._reuse and self._first is not None:
            self._first.tensor.copy_(tensor)
            return self._first
        captured = self._capture(tensor)
        self._first = self._first or captured
        self.count += 1
        return captured

    def __call__(self, batch: GraphInput) -> Any:
        """Launch it on the current stream and return where its output will be."""
        batch.replay()
        return batch.output

    def facts(self) -> Dict[str, Any]:
        """For the record."""
        inputs = cuda_graph.ONE_MEMORY if self._reuse else cuda_graph.EACH_INPUT
        return cuda_graph.facts(self.count, inputs, "torch.cuda.CUDAGraph, replayed by each inference")

    def _capture(self, tensor: Any) -> GraphInput:
        torch = self._torch
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM):
                    self._module(tensor)
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                output = self._module(tensor)
        except Exception as error:
            raise cuda_graph.explained(error) from error
        return GraphInput(tensor, graph, output)


class TorchLane(Lane):
    """One thread's way to run a module. `call` is the module or its graphs; `place` makes what that takes."""

    def __init__(self, torch: Any, call: Any, place: Callable[[Any], Any], threads: int, on_gpu: bool) -> None:
        self._torch, self._call, self._place, self._threads = torch, call, place, threads
        self._stream = torch.cuda.Stream() if on_gpu else None
        self._modes: List[Any] = []
        self._last: Any = None

    def attach(self) -> None:
        """Enter what torch keeps for each thread: the number of threads, inference mode, the stream."""
        torch = self._torch
        torch.set_num_threads(self._threads)
        if torch.get_num_threads() != self._threads:
            raise SettingNotHeld("torch runs {} threads in a lane".format(torch.get_num_threads()))
        modes = [torch.inference_mode()]
        if self._stream is not None:
            modes.append(torch.cuda.stream(self._stream))
        for mode in modes:
            mode.__enter__()
            self._modes.append(mode)

    def to_device(self, host_input: Any) -> Any:
        """A tensor, there when this returns."""
        placed = self._place(host_input)
        self.synchronize()
        return placed

    def infer(self, batch: Any) -> None:
        """One forward on this lane's stream."""
        self._last = self._call(batch)

    def synchronize(self) -> None:
        """Wait for this lane's stream."""
        if self._stream is not None:
            self._stream.synchronize()

    def outputs(self) -> List[Tuple[str, Any]]:
        """The last forward's logits as float32."""
        return [("output", self._last.float().cpu().numpy())]

    def detach(self) -> None:
        """Leave them."""
        while self._modes:
            self._modes.pop().__exit__(None, None, None)
        self._last = None
