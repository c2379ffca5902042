# SPDX-License-Identifier: Apache-2.0
"""A job's accuracy: one run after its ladder, with a record and an ending of its own, like any run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from farm.broker.jobs import Claim, JobStore
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from tests.workers.support import fake_job
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute
from workers.daemon.ladder import AccuracyStep, Point, accuracy_step

pytest.importorskip("numpy")

Evaluate = Callable[..., tuple[JobSpec, str]]


@pytest.fixture
def evaluate(bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim]) -> Evaluate:
    """Execute a fake job that asks for an accuracy; return it and how it went."""

    def do(sizes: tuple[int, ...] = (1,), **options: Any) -> tuple[JobSpec, str]:
        job = fake_job("job", bench.device.device_id, sizes, accuracy=True, **options)
        return job, execute(bench, jobs, claim(job), boottime())

    return do


def of(bench: Bench, job: JobSpec) -> Record:
    return bench.store.records.read(job.accuracy_run_id)


def test_it_comes_last_at_the_largest_batch_with_its_own_record(
    evaluate: Evaluate, bench: Bench, jobs: JobStore
) -> None:
    job, said = evaluate((1, 8))
    record, last = of(bench, job), bench.store.records.read(job.run_id(8))
    assert (record.outcome, record.point, record.batch_size) == (Outcome.OK, "accuracy", 8)
    assert record.metrics["top1"] == 0.1
    assert record.metrics["accuracy_samples"] == 360
    assert not any(name.startswith(("latency", "throughput", "load")) for name in record.metrics)
    assert (record.intervals["top1"].method, record.intervals["top1"].scope) == ("wilson", "this test set")
    assert record.intervals["top1"].low < 0.1 < record.intervals["top1"].high
    assert [stage.name for stage in record.stages] == ["start", "load_engine", "accuracy", "finish"]
    assert "build" in {stage.name for stage in record.prepare_stages}
    assert record.job.protocol.boundary == "compute"
    assert record.finished_at > last.finished_at
    assert (last.point, last.ladder_stop, record.ladder_stop) == ("latency", "end", None)
    view = jobs.get(job.job_id)
    assert view is not None
    assert view.summary["runs"] == list(job.run_ids())
    assert view.summary["outcomes"] == {"ok": 3}
    assert "3 ok" in said


def test_a_point_that_does_not_fit_leaves_it_to_a_smaller_one(evaluate: Evaluate, bench: Bench) -> None:
    job, _ = evaluate((1, 2, 4), behaviour="out_of_memory", from_batch=4)
    assert bench.store.records.read(job.run_id(4)).outcome is Outcome.OUT_OF_MEMORY
    assert (of(bench, job).outcome, of(bench, job).batch_size) == (Outcome.OK, 2)


def test_with_no_point_that_is_ok_it_is_recorded_as_not_run(evaluate: Evaluate, bench: Bench) -> None:
    job, _ = evaluate((1, 2), behaviour="raise")
    record = of(bench, job)
    assert (record.outcome, record.batch_size) == (Outcome.FAILED, None)
    assert record.failure is not None
    assert (record.failure.reference, record.stages) == ("accuracy-not-run", [])


def test_what_prevents_the_preparation_prevents_it_too(evaluate: Evaluate, bench: Bench) -> None:
    job, _ = evaluate((1, 2), behaviour="unsupported", stage="build")
    assert [bench.store.records.read(run_id).outcome for run_id in job.run_ids()] == [Outcome.UNSUPPORTED] * 3
    assert of(bench, job).point == "accuracy"


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [("segfault", Outcome.CRASHED), ("hang", Outcome.TIMED_OUT), ("out_of_memory", Outcome.OUT_OF_MEMORY)],
)
def test_it_may_end_as_any_run_may(evaluate: Evaluate, bench: Bench, behaviour: str, outcome: Outcome) -> None:
    limits = {"default": 60.0, "accuracy": 2.0 if behaviour == "hang" else 60.0}
    job, _ = evaluate((1,), behaviour=behaviour, stage="accuracy", limits=limits)
    assert bench.store.records.read(job.run_id(1)).outcome is Outcome.OK
    record = of(bench, job)
    assert record.outcome is outcome
    assert record.failure is not None
    assert record.failure.stage == "accuracy"
    assert "top1" not in record.metrics


def test_what_an_earlier_attempt_recorded_is_not_made_again(
    evaluate: Evaluate, bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim], client: redis.Redis
) -> None:
    job, _ = evaluate((1, 2))
    whole = {run_id: bench.store.records.read(run_id) for run_id in job.run_ids()}
    bench.store.records.path(job.accuracy_run_id).unlink()
    bench.store.records.day_path(whole[job.accuracy_run_id]).unlink()
    client.flushall()
    execute(bench, jobs, claim(job), boottime())
    again = {run_id: bench.store.records.read(run_id) for run_id in job.run_ids()}
    assert again[job.accuracy_run_id].finished_at > whole[job.accuracy_run_id].finished_at
    assert all(again[run_id] == whole[run_id] for run_id in job.run_ids()[:-1])
    client.flushall()
    execute(bench, jobs, claim(job), boottime())
    assert {run_id: bench.store.records.read(run_id) for run_id in job.run_ids()} == again


def test_the_largest_batch_that_was_ok_is_taken() -> None:
    points = [Point(1, Outcome.OK), Point(4, Outcome.OK), Point(8, Outcome.CRASHED)]
    assert accuracy_step(points) == AccuracyStep(4)
    assert accuracy_step(points[2:]) == accuracy_step([]) == AccuracyStep(None)
