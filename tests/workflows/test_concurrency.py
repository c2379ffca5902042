# SPDX-License-Identifier: Apache-2.0
"""Sessions and threads on real libraries on the CPU: what was asked for is what runs, and its outputs are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farm.contract.codec import to_json
from farm.contract.job import BatchLadder, JobSpec, ModelSpec
from farm.contract.run import RunRequest, RunResult
from tests.factories import DEVICE
from tests.island.harness import TINY, Island, model_job, with_protocol
from tests.workflows.onnx_models import save_model

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "given.onnx")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def session_job(graph: Path, **switches: Any) -> JobSpec:
    """A small ONNX file in ONNX Runtime, with several requests in flight."""
    from farm.contract.canonical import sha256_file

    made = model_job(ModelSpec("mine", "onnx", (3, 16, 16), onnx_sha256=sha256_file(str(graph))), "onnxruntime_cpu")
    switches = {"scenario": "streams", "threads": 1, "min_iterations": 24, "max_iterations": 24} | switches
    return replace(made, batches=BatchLadder((2,)), protocol=replace(TINY, **switches))


def run(job: JobSpec, graph: Path, cache: Path, control: Path, batch: int | None = None) -> RunResult:
    """Prepare (no batch) or measure in this process."""
    from farm.contract.codec import from_json
    from workers.runner.stages import run_request

    control.mkdir()
    mode = "prepare" if batch is None else "measure"
    request = RunRequest("r", mode, job, DEVICE, str(cache), batch, str(graph))
    (control / "request.json").write_text(json.dumps(to_json(request)))
    run_request(str(control))
    return from_json(RunResult, json.loads((control / "result.json").read_text()))


def measured(job: JobSpec, graph: Path, cache: Path, directory: Path) -> RunResult:
    prepared = run(job, graph, cache, directory / "prepare")
    assert prepared.outcome == "ok", prepared.failure
    result = run(job, graph, cache, directory / "measure", 2)
    assert result.outcome == "ok", result.failure
    return result


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sessions that ONNX Runtime opens from here on."""
    from workers.workflows import onnx_session

    found: list[Any] = []
    strict = onnx_session.strict_session

    def noted(*given: Any) -> Any:
        found.append(strict(*given))
        return found[-1]

    monkeypatch.setattr(onnx_session, "strict_session", noted)
    return found


def test_sessions_are_opened_and_dealt_out_to_the_requests(
    graph: Path, cache: Path, tmp_path: Path, opened: list[Any]
) -> None:
    job = session_job(graph, streams=3, sessions=2)
    prepared = run(job, graph, cache, tmp_path / "prepare")
    assert prepared.outcome == "ok", prepared.failure
    opened.clear()
    result = run(job, graph, cache, tmp_path / "measure", 2)
    assert len(opened) == 2
    effective = result.effective
    assert (effective["sessions"], effective["streams"], effective["in_flight"]) == (2, 3, 3)
    assert (effective["threads_at_work"], effective["processors"] >= 1) == (3, True), "the three that call, no pool"
    assert result.metrics["relative_l2_error"] < 1e-6
    assert sum(effective["lane_counts"]) == 24
    wall_s = effective["timed_wall_ns"] / 1e9
    assert result.metrics["requests_per_s"] == pytest.approx(24 / wall_s)
    assert result.metrics["throughput_per_s"] == pytest.approx(48 / wall_s)


def test_inter_op_threads_run_operators_side_by_side(
    graph: Path, cache: Path, tmp_path: Path, opened: list[Any]
) -> None:
    import onnxruntime

    result = measured(session_job(graph, streams=1, inter_threads=3, threads=2), graph, cache, tmp_path)
    options = opened[-1].get_session_options()
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 3)
    assert (result.effective["threads"], result.effective["inter_threads"]) == (2, 3)
    assert result.effective["threads_at_work"] == 3, "one of two and two of three, beside the caller"
    assert result.metrics["relative_l2_error"] < 1e-6


def test_without_them_operators_run_one_after_another(
    graph: Path, cache: Path, tmp_path: Path, opened: list[Any]
) -> None:
    import onnxruntime

    result = measured(session_job(graph, streams=2, threads=2), graph, cache, tmp_path)
    options = opened[-1].get_session_options()
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert (result.effective["sessions"], result.effective["inter_threads"]) == (1, 1)
    assert result.effective["threads_at_work"] == 3, "two callers and one of the pool that they share"


def test_each_session_of_real_onnxruntime_has_weights_of_its_own(graph: Path) -> None:
    from workers.workflows.onnx_session import SessionLane, dealt, open_session

    first = open_session(str(graph), 1)
    found = dealt(lambda: open_session(str(graph), 1), first, 2, 3)
    assert found[0] is found[2] is first
    assert found[1] is not first
    batch = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    outputs = []
    for session in found:
        lane = SessionLane(session)
        lane.infer(lane.to_device(batch))
        outputs.append(lane.outputs()[0][1])
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_replicas_of_a_module_share_no_memory_and_answer_the_same(shared: Island) -> None:
    job = with_protocol(
        model_job("squeezenet1_1", "pytorch"),
        scenario="streams",
        streams=2,
        sessions=2,
        threads=1,
        min_iterations=6,
        max_iterations=6,
    )
    shared.prepare(job)
    result = shared.measure(job, 1)
    assert (result.effective["sessions"], result.effective["in_flight"]) == (2, 2)
    assert result.effective["threads_at_work"] == 2
    assert result.mismatch[0].relative_l2_error < 1e-5


def test_a_replica_is_no_view_of_the_module() -> None:
    """What `sessions` promises: weights of its own. Shown on a module as `load` leaves it."""
    import torch

    from workers.workflows.pytorch import PyTorch

    workflow = PyTorch.__new__(PyTorch)
    module = torch.nn.Linear(3, 2).eval()
    device = type("Device", (), {"on_gpu": False, "synchronize": staticmethod(lambda: None)})
    protocol = replace(TINY, scenario="streams", streams=3, sessions=2)
    job = replace(model_job("resnet18", "pytorch"), protocol=protocol)
    context = type("Context", (), {"job": job, "threads": 1})
    vars(workflow).update(
        ctx=context, _module=module, _call=module, _device=device, _torch=torch, _cuda_graph=False, _replicas=[]
    )
    with torch.inference_mode():
        lanes: list[Any] = list(workflow.lanes(3))
        calls = [lane._call for lane in lanes]
        assert calls[0] is calls[2] is module
        assert calls[1].weight.data_ptr() != module.weight.data_ptr()
        given = torch.ones(1, 3)
        assert torch.equal(calls[1](given), module(given))


@pytest.mark.parametrize(
    ("workflow", "switches", "words"),
    [
        ("openvino", {"sessions": 2}, "share one compiled model"),
        ("pytorch", {"inter_threads": 2}, "one operator after another"),
        ("onnxruntime_cpu", {"contexts": 2}, "has no execution contexts"),
        ("onnxruntime_cpu", {"sessions": 3}, "1 of 3 sessions would stay idle"),
    ],
)
def test_what_a_workflow_cannot_do_is_refused_by_the_runner_too(
    graph: Path, cache: Path, tmp_path: Path, workflow: str, switches: dict[str, Any], words: str
) -> None:
    job = replace(session_job(graph, streams=2, **switches), workflow=workflow)
    result = run(job, graph, cache, tmp_path / "run")
    assert result.failure is not None
    assert (result.outcome, result.failure.reference) == ("unsupported", "concurrency-unsupported")
    assert words in result.failure.message
