# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: the driver's calls in order, a capture that fails, PyTorch's steps. Stand-ins, nothing of hardware."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from workers.workflows import cuda_graph
from workers.workflows.cuda_graph import DriverGraphs, asked, explained, facts
from workers.workflows.errors import GraphNotCaptured, Unsupported, is_out_of_memory
from workers.workflows.torch_lane import Graphed, TorchLane


class Driver:
    """libcuda's functions that take part; `fails` maps one to its error code."""

    def __init__(self, **fails: int) -> None:
        self.fails, self.calls, self.nodes = fails, list[str](), 5
        for name in (
            "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphGetNodes", "cuGraphInstantiateWithFlags",
            "cuGraphLaunch", "cuGraphExecDestroy", "cuGraphDestroy",
        ):  # fmt: skip
            setattr(self, name, self._function(name))

    def _function(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuGraphGetNodes":
                ctypes.cast(arguments[2], ctypes.POINTER(ctypes.c_size_t))[0] = self.nodes
            return self.fails.get(name, 0)

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: found)
    return found


def test_a_capture_becomes_an_executable_graph_that_is_launched(driver: Driver) -> None:
    graph = DriverGraphs().capture(7, lambda: driver.calls.append("work"))
    graph.launch(7)
    graph.launch(7)
    graph.close()
    assert driver.calls == [
        "cuStreamBeginCapture_v2", "work", "cuStreamEndCapture", "cuGraphGetNodes", "cuGraphInstantiateWithFlags",
        "cuGraphDestroy", "cuGraphLaunch", "cuGraphLaunch", "cuGraphExecDestroy",
    ]  # fmt: skip
    assert graph.nodes == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuStreamBeginCapture_v2", "could not begin"),
        ("cuStreamEndCapture", "broken off: the driver answers with error 901"),
        ("cuGraphInstantiateWithFlags", "could not be instantiated"),
        ("cuGraphGetNodes", "cannot be read"),
    ],
)
def test_what_the_driver_refuses_is_told_and_nothing_runs_without_a_graph(
    driver: Driver, name: str, words: str
) -> None:
    driver.fails = {name: 901}
    with pytest.raises(GraphNotCaptured, match=words) as caught:
        DriverGraphs().capture(7, lambda: None)
    assert caught.value.reference == "cuda-graph-not-captured"
    assert "cuGraphLaunch" not in driver.calls
    assert ("cuGraphDestroy" in driver.calls) == name.startswith("cuGraph")


def test_work_that_raises_inside_of_a_capture_ends_the_capture_first(driver: Driver) -> None:
    def work() -> None:
        raise RuntimeError("TensorRT did not run the engine")

    with pytest.raises(GraphNotCaptured, match="did not run"):
        DriverGraphs().capture(7, work)
    assert driver.calls == ["cuStreamBeginCapture_v2", "cuStreamEndCapture"]


def test_an_empty_graph_is_none(driver: Driver) -> None:
    driver.nodes = 0
    with pytest.raises(GraphNotCaptured, match="empty"):
        DriverGraphs().capture(7, lambda: None)


def test_memory_that_runs_out_stays_that(driver: Driver) -> None:
    driver.fails = {"cuGraphInstantiateWithFlags": 2}
    with pytest.raises(MemoryError) as caught:
        DriverGraphs().capture(7, lambda: None)
    assert is_out_of_memory(caught.value)
    assert isinstance(explained(MemoryError("out of memory")), MemoryError)


def test_a_launch_that_fails_is_no_silent_fall_back(driver: Driver) -> None:
    graph = DriverGraphs().capture(7, lambda: None)
    driver.fails = {"cuGraphLaunch": 400}
    with pytest.raises(GraphNotCaptured, match="400"):
        graph.launch(7)


def test_a_host_without_the_driver_captures_nothing() -> None:
    with pytest.raises(GraphNotCaptured, match="cannot be loaded"):
        DriverGraphs("libno-such-driver.so")


def test_captured_is_only_said_of_a_graph() -> None:
    assert facts(2, cuda_graph.EACH_INPUT, "seen")["captured"] is True
    with pytest.raises(GraphNotCaptured):
        facts(0, cuda_graph.EACH_INPUT, "seen")
    assert (asked({}), asked({"cuda_graph": True})) == (False, True)
    with pytest.raises(Unsupported):
        asked({"cuda_graph": "yes"})


class Tensor:
    """Something with an address that values are copied to."""

    def __init__(self, value: float) -> None:
        self.value = value

    def copy_(self, other: Tensor) -> None:
        self.value = other.value


class Torch:
    """What of torch takes part in a capture. Work that is captured runs at `replay`, on the same memory."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capturing: Any = None
        self.refuses = ""
        stream = SimpleNamespace(wait_stream=lambda _other: None, synchronize=lambda: self.calls.append("wait"))
        self.cuda = SimpleNamespace(
            graph_pool_handle=lambda: "pool", Stream=lambda: stream, current_stream=lambda: stream,
            stream=lambda _s: contextlib.nullcontext(), synchronize=lambda: None, CUDAGraph=lambda: Graph(self),
            graph=self._graph,
        )  # fmt: skip

    @contextlib.contextmanager
    def _graph(self, graph: Graph, pool: str) -> Iterator[None]:
        assert pool == "pool"
        self.capturing = graph
        yield
        self.capturing = None

    def module(self, tensor: Tensor) -> Tensor:
        """Twice the input."""
        output = Tensor(0.0)

        def work() -> None:
            output.value = 2 * tensor.value

        self.calls.append("capture" if self.capturing else "run")
        if self.capturing is not None:
            if self.refuses:
                raise RuntimeError(self.refuses)
            self.capturing.work = work
        else:
            work()
        return output


class Graph:
    def __init__(self, torch: Torch) -> None:
        self._torch = torch
        self.work: Any = None

    def replay(self) -> None:
        self._torch.calls.append("replay")
        self.work()


def test_each_input_has_a_graph_and_only_graphs_are_launched() -> None:
    torch = Torch()
    graphed = Graphed(torch, torch.module, reuse=False)
    placed = [graphed.place(Tensor(value)) for value in (1.0, 5.0)]
    assert torch.calls == ["run"] * 3 + ["capture"] + ["run"] * 3 + ["capture"]
    torch.calls.clear()
    assert [graphed(batch).value for batch in (*placed, placed[0])] == [2.0, 10.0, 2.0]
    assert torch.calls == ["replay"] * 3
    assert graphed.facts() == {
        "asked": True,
        "captured": True,
        "why": "torch.cuda.CUDAGraph, replayed by each inference",
        "graphs": 2,
        "inputs": cuda_graph.EACH_INPUT,
    }


def test_inputs_that_are_copied_in_share_one_graph() -> None:
    torch = Torch()
    graphed = Graphed(torch, torch.module, reuse=True)
    first = graphed.place(Tensor(1.0))
    assert graphed(first).value == 2.0
    assert graphed.place(Tensor(7.0)) is first
    assert graphed(first).value == 14.0
    assert (graphed.facts()["graphs"], graphed.facts()["inputs"]) == (1, cuda_graph.ONE_MEMORY)


def test_a_module_that_cannot_be_captured_is_refused_with_torchs_words() -> None:
    torch = Torch()
    torch.refuses = "CUDA error: operation not permitted when stream is capturing"
    with pytest.raises(GraphNotCaptured, match="not permitted when stream is capturing"):
        Graphed(torch, torch.module, reuse=False).place(Tensor(1.0))


def test_a_lane_of_a_gpu_enters_its_stream_and_waits_for_it_alone() -> None:
    entered: list[str] = []

    @contextlib.contextmanager
    def mode(name: str) -> Iterator[None]:
        entered.append(name)
        yield
        entered.append(f"end of {name}")

    torch: Any = Torch()
    torch.set_num_threads = lambda count: entered.append(f"{count} threads")
    torch.get_num_threads = lambda: 3
    torch.inference_mode = lambda: mode("inference")
    torch.cuda.stream = lambda _stream: mode("stream")
    lane = TorchLane(torch, torch.module, Tensor, 3, on_gpu=True)
    lane.attach()
    lane.infer(lane.to_device(4.0))
    lane.synchronize()
    lane.detach()
    assert entered == ["3 threads", "inference", "stream", "end of stream", "end of inference"]
    assert torch.calls == ["wait", "run", "wait"]
    with pytest.raises(Exception, match="3 threads"):
        TorchLane(torch, torch.module, Tensor, 2, on_gpu=False).attach()
