# SPDX-License-Identifier: Apache-2.0
"""Scenarios and the energy pass through a whole run of the fake workflow."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.catalogue import WORKFLOWS
from farm.contract.codec import from_json, to_json
from farm.contract.job import JobSpec
from farm.contract.metrics import METRICS
from farm.contract.run import RunRequest, RunResult
from tests.factories import DEVICE
from tests.island.harness import Island, fake_job, with_protocol
from workers.runner import stages
from workers.workflows.base import Workflow
from workers.workflows.fake import Fake, FakeLane
from workers.workflows.registry import TABLE, workflow_class

STREAMED = ["start", "load_engine", "first_inference", "warm_up", "measure", "outputs", "finish"]


def streams(count: int, **options: Any) -> JobSpec:
    return with_protocol(fake_job(**options), scenario="streams", streams=count, min_iterations=12, max_iterations=12)


def test_streams_keep_every_lanes_samples_in_one_file_and_tell_whose_they_are(island: Island) -> None:
    finished = island.run(streams(3, latency_ms=2.0), 4)
    result = finished.ok()
    effective = result.effective
    assert [stage.name for stage in result.stages] == STREAMED
    assert (effective["scenario"], effective["streams"]) == ("streams", 3)
    assert sum(effective["lane_counts"]) == 12
    assert len(effective["lane_counts"]) == 3
    counts = {s.name: s.count for s in result.samples}
    assert counts["latency"] == 12
    assert counts["warm_up"] >= 6, "two of each lane"
    assert min(finished.samples()) >= 2_000_000
    wall_s = effective["timed_wall_ns"] / 1e9
    assert result.metrics["throughput_per_s"] == pytest.approx(12 * 4 / wall_s)
    assert effective["timed_iterations"] == 12
    assert effective["window_rates_per_s"] is None, "so few completions tell no rate"
    assert set(result.metrics) <= set(METRICS)
    assert "energy_inputs" not in effective


def test_streams_with_copies_and_a_steady_warm_up_run_too(island: Island) -> None:
    job = with_protocol(streams(2), boundary="end_to_end", warmup_rule="steady", warmup_max_s=1.2)
    effective = island.run(job, 1).ok().effective
    assert effective["boundary"] == "end_to_end"
    assert effective["warm_up_ended_by"] in ("steady", "max_s")
    assert effective["warm_up_wall_ns"] >= 0.9e9, "two passes of half a second at least"


def test_offline_has_a_throughput_and_no_latency(island: Island) -> None:
    job = with_protocol(fake_job(latency_ms=1.0), scenario="offline", min_iterations=40, max_iterations=40)
    result = island.run(job, 2).ok()
    assert [stage.name for stage in result.stages] == STREAMED
    assert [s.name for s in result.samples] == ["warm_up"]
    assert (result.effective["scenario"], result.effective["timed_iterations"]) == ("offline", 40)
    wall_s = result.effective["timed_wall_ns"] / 1e9
    assert wall_s >= 0.04
    assert result.metrics["throughput_per_s"] == pytest.approx(80 / wall_s)


@pytest.mark.parametrize("switches", [{}, {"scenario": "offline"}, {"scenario": "streams", "streams": 2}])
def test_the_energy_pass_is_a_stage_of_its_own_that_times_nothing(island: Island, switches: dict[str, Any]) -> None:
    job = with_protocol(fake_job(latency_ms=0.5), energy_s=0.2, **switches)
    result = island.run(job, 2).ok()
    names = [stage.name for stage in result.stages]
    assert names[names.index("measure") + 1 :] == ["energy", "outputs", "finish"]
    stage = next(stage for stage in result.stages if stage.name == "energy")
    assert stage.end_ns - stage.start_ns >= 200_000_000
    effective = result.effective
    assert effective["energy_inputs"] == 2 * effective["energy_iterations"] >= 2 * 32
    assert effective["energy_wall_ns"] >= 200_000_000
    assert not {"energy"} & {s.name for s in result.samples}


@pytest.mark.parametrize("stage", ["first_inference", "warm_up", "measure", "energy"])
def test_a_lane_that_fails_fails_the_run_in_its_stage(island: Island, stage: str) -> None:
    job = with_protocol(streams(2, behaviour="raise", stage=stage), energy_s=0.05)
    failure = island.run(job, 1).failed("failed", "unexpected-error").failure
    assert failure is not None
    assert failure.stage == stage


@pytest.mark.parametrize("switches", [{"scenario": "offline", "boundary": "end_to_end"}, {"streams": 2}])
def test_switches_that_do_not_go_together_are_refused(island: Island, switches: dict[str, Any]) -> None:
    island.run(with_protocol(fake_job(), **switches), 1).failed("failed", "bad-request")


class Meeting(Fake):
    """No request of any lane ends before one of every lane is there."""

    barrier: threading.Barrier

    def lanes(self, count: int) -> list[Any]:
        return [MeetingLane(self) for _ in range(count)]


class MeetingLane(FakeLane):
    def infer(self, batch: Any) -> None:
        if self._fake.ctx.stage_name() == "measure":
            Meeting.barrier.wait()


def in_this_process(job: JobSpec, directory: Path) -> RunResult:
    request = RunRequest("r", "measure", job, DEVICE, str(directory / "cache"), 1)
    (directory / "request.json").write_text(json.dumps(to_json(request)))
    stages.run_request(str(directory))
    return from_json(RunResult, json.loads((directory / "result.json").read_text()))


def test_requests_of_all_lanes_are_in_flight_at_once_in_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "workflow_class", lambda _name: Meeting)
    monkeypatch.setattr(Meeting, "barrier", threading.Barrier(4, timeout=120), raising=False)
    job = with_protocol(fake_job(), scenario="streams", streams=4, min_iterations=20, max_iterations=20)
    result = in_this_process(job, tmp_path)
    assert result.outcome == "ok", result.failure
    assert result.effective["lane_counts"] == [5, 5, 5, 5]


def test_a_workflow_without_lanes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Alone", (Fake,), {"lanes": Workflow.lanes})
    monkeypatch.setattr(stages, "workflow_class", lambda _name: kind)
    result = in_this_process(streams(2), tmp_path)
    assert result.failure is not None
    assert (result.outcome, result.failure.reference) == ("unsupported", "scenario-unsupported")


def test_what_the_catalogue_says_of_scenarios_is_refused_with_those_that_have_it(tmp_path: Path) -> None:
    job = replace(streams(2), workflow="torch_tensorrt", options={})
    request = RunRequest("r", "measure", job, replace(DEVICE, kind="gpu"), str(tmp_path / "cache"), 1)
    (tmp_path / "request.json").write_text(json.dumps(to_json(request)))
    stages.run_request(str(tmp_path))
    failure = from_json(RunResult, json.loads((tmp_path / "result.json").read_text())).failure
    assert failure is not None
    assert (failure.reference, failure.stage) == ("scenario-unsupported", "start")
    assert "onnx_tensorrt" in (failure.hint or "")
    assert "torch_tensorrt" not in (failure.hint or "")


@pytest.mark.parametrize("name", sorted(TABLE))
def test_workflows_that_say_streams_have_lanes(name: str) -> None:
    has = workflow_class(name).lanes is not Workflow.lanes
    assert has == ("streams" in WORKFLOWS[name].scenarios)
