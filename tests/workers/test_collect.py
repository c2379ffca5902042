# SPDX-License-Identifier: Apache-2.0
"""From what a runner left to a record: what was measured is kept, what is doubtful is flagged, nothing is made up."""

from __future__ import annotations

import array
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.contract.outcome import Failure, Outcome
from farm.store.schema import decode_record, encode_record
from tests.factories import DEVICE, STACK, make_job
from workers.daemon.collect import Collected, JobFacts, RunFacts, collect, not_run
from workers.daemon.control import Control, read_result
from workers.daemon.launch import Ended, ExitReport
from workers.daemon.preflight import Preflight

NOW = "2026-03-01T10:00:00.000000+00:00"
REPORT = ExitReport(0, None, None, None, 123456, 1.0, 0.5, 0, 0, 10)
Finished = Callable[..., RunFacts]


@pytest.fixture
def facts(tmp_path: Path) -> JobFacts:
    return JobFacts(make_job(), 2, DEVICE, STACK, {"runner_digest": "d"}, tmp_path / "cache")


@pytest.fixture
def finished(control: Control) -> Finished:
    """A run that left a sound result; keyword arguments change the result's document."""

    def make(**changes: Any) -> RunFacts:
        samples = array.array("q", [1_000_000 + i * 1000 for i in range(20)])
        (control.path / "samples/latency.i64").write_bytes(samples.tobytes())
        document: dict[str, Any] = {
            "run_id": "r",
            "outcome": "ok",
            "stages": [{"name": "measure", "start_ns": 0, "end_ns": 25_000_000}],
            "metrics": {"load_ms": 5.0},
            "samples": [{"name": "latency", "path": "samples/latency.i64", "count": 20}],
            "effective": {"precision": "fp32"},
            "environment": {"torch": "2.8"},
        }
        control.result.write_text(json.dumps(document | changes))
        control.log.write_text("a line\n")
        read = read_result(control, measured=True)
        assert read.fault is None
        before = Preflight({"hostname": "box"}, [], {"cpu_load_before": 0.25})
        return RunFacts(Outcome.OK, None, NOW, NOW, control, Ended(REPORT, "finish"), read, before)

    return make


def test_times_of_the_device_are_metrics_of_their_own(finished: Finished, facts: JobFacts, control: Control) -> None:
    files = [{"name": "latency", "path": "samples/latency.i64", "count": 20}]
    for name, values in (("device", [2, 4, 3]), ("enqueue", [1, 1, 2])):
        content = array.array("q", [value * 1_000_000 for value in values])
        (control.path / f"samples/{name}.i64").write_bytes(content.tobytes())
        files.append({"name": name, "path": f"samples/{name}.i64", "count": 3})
    found = collect(facts, 1, finished(samples=files), None).record.metrics
    assert (found["device_latency_ms"], found["enqueue_ms"]) == (3.0, 1.0)
    assert "device_latency_ms" not in collect(facts, 1, finished(), None).record.metrics


def test_samples_too_short_for_the_clock_that_the_runner_found_are_flagged(finished: Finished, facts: JobFacts) -> None:
    """Samples of 1 ms: a hundred times 10 us, by the cost of a reading as by the step."""
    for name in ("timer_overhead_ns", "timer_resolution_ns"):
        for value, expected in ((9_000.0, []), (11_000.0, ["timer_too_coarse"])):
            record = collect(facts, 1, finished(metrics={name: value}), None).record
            assert [flag.name for flag in record.flags] == expected
            assert record.metrics[name] == value


def kinds(collected: Collected) -> list[str]:
    return [ref.kind for ref in collected.record.artifacts]


def test_a_record_holds_what_was_measured_and_can_be_stored(facts: JobFacts, finished: Finished) -> None:
    found = collect(facts, 2, finished(), None)
    record = found.record
    assert decode_record(encode_record(record)) == record
    assert (record.run_id, record.batch_size, record.attempt) == (facts.job.run_id(2), 2, 2)
    assert record.metrics["latency_ms"] == pytest.approx(1.0095)
    assert record.metrics["throughput_per_s"] == pytest.approx(20 * 2 / 0.025)
    assert record.metrics["load_ms"] == 5.0
    assert record.metrics["cpu_load_before"] == 0.25
    assert record.metrics["host_rss_peak_bytes"] == 123456
    assert record.intervals["latency_ms"].low < 1.0095 < record.intervals["latency_ms"].high
    assert "latency_p99_ms" in record.withheld
    assert record.provenance["protocol"] == "paper"
    assert record.provenance["exit"]["exit_code"] == 0
    assert record.host == {"hostname": "box"}


def test_every_file_that_a_record_names_comes_with_it_under_its_digest(facts: JobFacts, finished: Finished) -> None:
    found = collect(facts, 1, finished(), None)
    refs = [*found.record.samples, *found.record.artifacts]
    assert [ref.kind for ref in refs] == ["samples:latency", "log"]
    assert (refs[0].count, refs[0].unit, refs[0].size_bytes) == (20, "ns", 160)
    assert {file.sha256 for file in found.files} == {ref.sha256 for ref in refs}
    for file in found.files:
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256


def artifact(path: Path, **changes: object) -> dict[str, object]:
    content = path.read_bytes() if path.is_file() else b""
    sha256 = hashlib.sha256(content).hexdigest()
    return {"kind": "engine", "path": str(path), "sha256": sha256, "size_bytes": len(content)} | changes


def test_artifacts_come_from_the_run_and_the_cache(facts: JobFacts, finished: Finished, control: Control) -> None:
    (control.path / "artifacts/a").write_text("a")
    facts.cache_dir.mkdir()
    (facts.cache_dir / "b").write_text("b")
    artifacts = [
        artifact(control.path / "artifacts/a") | {"path": "artifacts/a"},
        artifact(facts.cache_dir / "b", kind="onnx", cached=True, build_s=3.0),
    ]
    found = collect(facts, 1, finished(artifacts=artifacts), None)
    assert kinds(found) == ["engine", "onnx", "log"]
    assert (found.record.artifacts[1].cached, found.record.artifacts[1].build_s) == (True, 3.0)
    assert found.record.flags == []


def test_an_artifact_that_the_store_has_is_not_carried_again(facts: JobFacts, finished: Finished) -> None:
    artifacts = [{"kind": "onnx", "path": str(facts.cache_dir / "gone"), "sha256": "a" * 64, "size_bytes": 5}]
    found = collect(facts, 1, finished(artifacts=artifacts), None, lambda sha256: sha256 == "a" * 64)
    assert kinds(found) == ["onnx", "log"]
    assert "a" * 64 not in {file.sha256 for file in found.files}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"path": "/etc/passwd"}, "lies outside"),
        ({"path": "../../../../etc/passwd"}, "is refused"),
        ({"path": "a\0b"}, "is refused"),
        ({"path": "x" * 300}, "is refused"),
        ({"path": "artifacts/мodel.onnx"}, "is refused"),
        ({"path": "artifacts/none"}, "is not there"),
        ({"sha256": "b" * 64}, "has other bytes"),
    ],
)
def test_an_artifact_that_is_not_what_it_says_is_a_flag_and_not_kept(
    facts: JobFacts, finished: Finished, control: Control, changes: dict[str, object], problem: str
) -> None:
    (control.path / "artifacts/a").write_text("a")
    given = artifact(control.path / "artifacts/a") | {"path": "artifacts/a"} | changes
    found = collect(facts, 1, finished(artifacts=[given]), None)
    assert kinds(found) == ["log"]
    (flag,) = [flag for flag in found.record.flags if flag.name == "artifact_missing"]
    assert problem in flag.evidence


def test_a_crashed_run_keeps_its_log_and_its_stages(facts: JobFacts, control: Control, finished: Finished) -> None:
    prepared = finished()
    control.result.unlink()
    ended = Ended(REPORT, "build", stages=prepared.read.result.stages if prepared.read.result else [])
    failure = Failure("build", "sigsegv", "died")
    run = RunFacts(Outcome.CRASHED, failure, NOW, NOW, control, ended, read_result(control, measured=True))
    record = collect(facts, 1, run, prepared).record
    assert record.metrics == {"host_rss_peak_bytes": 123456}
    assert [stage.name for stage in record.stages] == ["measure"]
    assert record.environment == {"torch": "2.8"}
    assert record.failure == failure
    assert [ref.kind for ref in record.artifacts] == ["log:prepare", "log"]


def test_a_point_that_was_not_tried_has_a_record_with_the_reason_and_the_log(
    facts: JobFacts, finished: Finished
) -> None:
    failure = Failure("build", "no-memory", "no room")
    found = not_run(facts, 4, Outcome.OUT_OF_MEMORY, failure, NOW, finished())
    assert decode_record(encode_record(found.record)) == found.record
    assert (found.record.outcome, found.record.failure) == (Outcome.OUT_OF_MEMORY, failure)
    assert kinds(found) == ["log:prepare"]
    assert found.record.metrics == {}
    assert not_run(facts, 4, Outcome.CANCELLED, failure, NOW).files == []
