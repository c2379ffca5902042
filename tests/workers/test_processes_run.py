# SPDX-License-Identifier: Apache-2.0
"""Points of several processes through the real runner, supervisor, server and store: one record, whatever happens."""

from __future__ import annotations

import array
import itertools
import os
import signal
import statistics
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from farm.broker.jobs import Claim, JobState, JobStore
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from tests.workers.support import Background, fake_job, records
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute
from workers.daemon.reporter import Progress

pytestmark = pytest.mark.alone
MakeClaim = Callable[[JobSpec], Claim]
THREE = {"processes": 3}


@pytest.fixture
def measured(bench: Bench, jobs: JobStore, claim: MakeClaim) -> Callable[..., Record]:
    """Execute a job of one point and return its record."""

    def do(**options: object) -> Record:
        job = fake_job("job", bench.device.device_id, **options)
        execute(bench, jobs, claim(job), boottime())
        (record,) = records(bench, job).values()
        return record

    return do


def test_three_processes_are_one_record_with_three_entries_and_three_sets_of_files(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    bench.settings.telemetry_hz = 10.0
    told: list[Progress] = []
    job = fake_job("job", bench.device.device_id, (1, 2), latency_ms=10.0, switches=THREE)
    execute(bench, jobs, claim(job), boottime(), told.append)
    found = records(bench, job)
    assert [record.ladder_stop for record in found.values()] == [None, "end"]
    for record in found.values():
        assert record.outcome is Outcome.OK, record.failure
        assert [(p.index, p.outcome, p.metrics["sample_count"]) for p in record.processes] == [
            (i, Outcome.OK, 12.0) for i in (1, 2, 3)
        ]
        assert record.started_at == record.processes[0].started_at
        assert record.processes[0].finished_at < record.processes[1].started_at
        assert record.intervals["latency_ms"].scope == "between 3 processes"
        medians = sorted(p.metrics["latency_ms"] or 0 for p in record.processes)
        assert record.metrics["latency_ms"] == medians[1]
        refs = [ref for ref in record.samples if ref.kind == "samples:latency"]
        assert [ref.process for ref in refs] == [1, 2, 3]
        assert len({ref.sha256 for ref in refs}) == 3
        samples = array.array("q", bench.store.blobs.read(refs[1].sha256))
        assert statistics.median(samples) / 1e6 == pytest.approx(record.processes[1].metrics["latency_ms"])
        assert [ref.process for ref in record.artifacts if ref.kind == "telemetry"] == [1, 2, 3]
        assert [ref.kind for ref in record.artifacts].count("fake_engine") == 1
    assert list(bench.store.verify()) == []
    said = {progress["process"] for progress in told if progress["stage"] == "measure"}
    assert said <= {f"process {i} of 3" for i in (1, 2, 3)}
    assert "process 3 of 3" in {progress["process"] for progress in told}
    assert {progress["process"] for progress in told if progress["batch_size"] is None} <= {None}


def test_each_process_is_one_of_its_own(measured: Callable[..., Record]) -> None:
    record = measured(switches=THREE)
    windows = [
        (min(stage.start_ns for stage in p.stages), max(stage.end_ns for stage in p.stages)) for p in record.processes
    ]
    assert windows == sorted(windows)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(windows))
    assert {stage.name for stage in record.processes[2].stages} >= {"start", "load_engine", "warm_up", "measure"}


def test_a_target_that_is_met_ends_the_point(measured: Callable[..., Record]) -> None:
    record = measured(switches={"processes": 2, "max_processes": 6, "processes_half_width": 0.99}, latency_ms=20.0)
    assert len(record.processes) < 6
    assert record.effective["processes_ended_by"] == "processes_half_width"


@pytest.fixture
def ever_slower(tmp_path: Path) -> Iterator[Path]:
    """A pace that grows all the time, so that no two processes have the same median, which would meet any target."""
    path, after, ended = tmp_path / "pace", tmp_path / "pace.new", threading.Event()
    path.write_text("1")

    def grow() -> None:
        for pace in itertools.count(1.0, 0.01):
            after.write_text(str(pace))
            after.replace(path)
            if ended.wait(0.02):
                return

    growing = threading.Thread(target=grow)
    growing.start()
    yield path
    ended.set()
    growing.join()


def test_a_target_out_of_reach_ends_with_the_largest_number_or_the_budget(
    bench: Bench, jobs: JobStore, claim: MakeClaim, ever_slower: Path
) -> None:
    aimed = {"processes": 2, "max_processes": 3, "processes_half_width": 1e-9}
    for name, switches, why in (
        ("most", aimed, "max_processes"),
        ("spent", aimed | {"processes_max_s": 0.1}, "processes_max_s"),
    ):
        job = fake_job(name, bench.device.device_id, switches=switches, pace_file=str(ever_slower))
        execute(bench, jobs, claim(job), boottime())
        (record,) = records(bench, job).values()
        assert record.effective["processes_ended_by"] == why
        assert len(record.processes) == (3 if name == "most" else 2)


def test_a_crash_in_the_second_process_ends_the_point_and_not_the_ladder(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    job = fake_job("job", bench.device.device_id, (1, 2), latency_ms=90.0, switches=THREE)
    work = Background(bench, jobs, claim(job))
    work.in_stage("measure", 1, "process 2 of 3")
    os.kill(work.runner_pid(1), signal.SIGKILL)
    work.join()
    crashed, fine = records(bench, job).values()
    assert (crashed.outcome, fine.outcome) == (Outcome.CRASHED, Outcome.OK)
    assert crashed.failure is not None
    assert crashed.failure.message.startswith("process 2 of 3: ")
    assert [p.outcome for p in crashed.processes] == [Outcome.OK, Outcome.CRASHED]
    assert crashed.processes[0].metrics["latency_ms"] is not None
    assert "latency_ms" not in crashed.metrics
    assert len(fine.processes) == 3


def test_memory_that_runs_out_in_any_process_ends_the_ladder_there(measured: Callable[..., Record]) -> None:
    record = measured(switches=THREE, behaviour="out_of_memory")
    assert (record.outcome, record.ladder_stop) == (Outcome.OUT_OF_MEMORY, "out_of_memory")
    assert len(record.processes) == 1


def test_a_cancellation_in_the_middle_keeps_what_was_measured_as_evidence(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    job = fake_job("job", bench.device.device_id, (1, 2), latency_ms=150.0, switches=THREE)
    work = Background(bench, jobs, claim(job))
    work.in_stage("measure", 1, "process 2 of 3")
    jobs.cancel("job")
    work.join()
    first, second = records(bench, job).values()
    assert (first.outcome, second.outcome) == (Outcome.CANCELLED, Outcome.CANCELLED)
    assert first.processes[0].outcome is Outcome.OK
    assert len(first.processes) < 3
    assert second.processes == []
    view = jobs.get("job")
    assert view is not None
    assert view.state is JobState.CANCELLED


def test_a_job_that_is_fenced_in_the_middle_records_nothing_of_the_point(
    bench: Bench, jobs: JobStore, claim: MakeClaim, client: redis.Redis
) -> None:
    bench.settings.lease_s = 3.0
    job = fake_job("job", bench.device.device_id, latency_ms=150.0, switches=THREE)
    work = Background(bench, jobs, claim(job))
    work.in_stage("measure", 1, "process 2 of 3")
    client.hset("farm:job:job", "token", "another attempt's")
    assert "lost" in work.join()
    assert records(bench, job) == {}


def test_an_accuracy_is_one_process_whatever_the_protocol(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    pytest.importorskip("numpy")
    job = fake_job("job", bench.device.device_id, accuracy=True, switches={"processes": 2})
    execute(bench, jobs, claim(job), boottime())
    assert bench.store.records.read(job.accuracy_run_id).processes == []
    assert len(bench.store.records.read(job.run_id(1)).processes) == 2
