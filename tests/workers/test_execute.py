# SPDX-License-Identifier: Apache-2.0
"""Whole jobs through the real runner, supervisor, server and store: every ending has its outcome and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from farm.broker.jobs import Claim, JobState, JobStore
from farm.contract.job import JobSpec, ModelSpec
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from tests.factories import make_job
from tests.island.harness import require_python
from tests.workers.support import Background, fake_job, marked, records
from workers.daemon import control, lock
from workers.daemon.attempts import keep_lost, lost_of
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute

MakeClaim = Callable[[JobSpec], Claim]
SHORT = {"measure": 1.0, "default": 60.0}


@pytest.fixture(autouse=True)
def nothing_is_left(bench: Bench) -> Iterator[None]:
    """After every job: no process, no working directory, a free device."""
    yield
    assert marked(f"INFERFARM_LOCK={bench.lock_path}") == []
    work = bench.settings.work_dir
    assert list(work.glob("*/*")) == []
    with lock.hold(bench.lock_path, lock.Holder(1, "test", "x", 0.0), wait_s=0):
        pass


@pytest.fixture
def run(bench: Bench, jobs: JobStore, claim: MakeClaim) -> Callable[..., dict[int | None, Record]]:
    """Claim and execute a fake job; return its records by batch size."""

    def do(sizes: tuple[int, ...] = (1,), **options: Any) -> dict[int | None, Record]:
        job = fake_job(options.pop("job_id", "job"), bench.device.device_id, sizes, **options)
        execute(bench, jobs, claim(job), boottime())
        return records(bench, job)

    return do


Run = Callable[..., dict[int | None, Record]]


def test_a_ladder_is_measured_point_by_point_and_recorded(run: Run, bench: Bench, jobs: JobStore) -> None:
    found = run((1, 2, 4))
    assert [record.outcome for record in found.values()] == [Outcome.OK] * 3
    assert [record.ladder_stop for record in found.values()] == [None, None, "end"]
    record = found[2]
    assert record.metrics["sample_count"] == 12
    assert 1.0 <= (record.metrics["latency_ms"] or 0) < 200
    assert record.effective["precision"] == "fp32"
    assert record.stack is not None
    assert record.stack.name == "default"
    assert {stage.name for stage in record.prepare_stages} >= {"start", "build", "finish"}
    assert {stage.name for stage in record.stages} >= {"start", "warm_up", "measure", "finish"}
    assert record.provenance["runner_digest"] == bench.island.digest
    assert {"fake_engine"} <= {ref.kind for ref in record.artifacts}
    assert list(bench.store.verify()) == []
    view = jobs.get("job")
    assert view is not None
    assert view.state is JobState.DONE
    assert view.summary == {"outcomes": {"ok": 3}, "runs": [r.run_id for r in found.values()], "attempt": 1}
    assert view.progress["points"] == 3


ENDINGS: list[tuple[dict[str, Any], Outcome, str, str]] = [
    ({"behaviour": "raise"}, Outcome.FAILED, "measure", ""),
    ({"behaviour": "segfault"}, Outcome.CRASHED, "measure", "sigsegv"),
    ({"behaviour": "exit_without_result"}, Outcome.FAILED, "measure", "no-result"),
    ({"behaviour": "half_result"}, Outcome.FAILED, "measure", "damaged-result"),
    ({"behaviour": "hang", "limits": SHORT}, Outcome.TIMED_OUT, "measure", "stage-limit"),
    ({"behaviour": "ignore_sigterm", "limits": SHORT}, Outcome.TIMED_OUT, "measure", "stage-limit"),
    ({"behaviour": "unsupported"}, Outcome.UNSUPPORTED, "measure", ""),
    ({"behaviour": "out_of_memory"}, Outcome.OUT_OF_MEMORY, "measure", ""),
]


@pytest.mark.parametrize(
    ("options", "outcome", "stage", "reference"), ENDINGS, ids=[ending[0]["behaviour"] for ending in ENDINGS]
)
def test_each_way_to_go_wrong_has_its_outcome_and_a_job_after_a_kill_runs(
    run: Run, jobs: JobStore, options: dict[str, Any], outcome: Outcome, stage: str, reference: str
) -> None:
    (record,) = run(**options).values()
    assert record.outcome is outcome, record.failure
    assert record.failure is not None
    assert record.failure.stage == stage
    assert record.failure.message
    assert reference in ("", record.failure.reference)
    view = jobs.get("job")
    assert view is not None
    ends_well = outcome in (Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY)
    assert view.state is (JobState.DONE if ends_well else JobState.FAILED)
    if outcome in (Outcome.CRASHED, Outcome.TIMED_OUT):
        (after,) = run(job_id="next").values()
        assert after.outcome is Outcome.OK


@pytest.mark.parametrize("behaviour", ["noise", "grandchild"])
def test_noise_and_stray_children_do_not_spoil_a_good_run(run: Run, behaviour: str, bench: Bench) -> None:
    (record,) = run(behaviour=behaviour).values()
    assert record.outcome is Outcome.OK, record.failure
    if behaviour == "grandchild":
        assert record.provenance["exit"]["killed_stragglers"] == 2
    else:
        (log,) = [ref for ref in record.artifacts if ref.kind == "log"]
        assert log.size_bytes > 5_000_000


def test_one_bad_point_does_not_stop_the_others(run: Run) -> None:
    found = run((1, 2, 4), behaviour="segfault", from_batch=2)
    assert [record.outcome for record in found.values()] == [Outcome.OK, Outcome.CRASHED, Outcome.CRASHED]


def test_out_of_memory_ends_the_ladder_and_says_so(run: Run) -> None:
    found = run((1, 2, 4, 8), behaviour="out_of_memory", from_batch=2)
    assert {size: record.outcome for size, record in found.items()} == {1: Outcome.OK, 2: Outcome.OUT_OF_MEMORY}
    assert [record.ladder_stop for record in found.values()] == [None, "out_of_memory"]


def test_a_preparation_that_fails_gives_every_point_its_outcome(run: Run, jobs: JobStore, bench: Bench) -> None:
    found = run((1, 2, 4), behaviour="segfault", stage="build")
    assert {record.outcome for record in found.values()} == {Outcome.CRASHED}
    assert {record.failure.stage for record in found.values() if record.failure} == {"build"}
    assert [record.ladder_stop for record in found.values()] == [None, None, "failed"]
    for record in found.values():
        (log,) = record.artifacts
        assert log.kind == "log:prepare"
        assert b"Segmentation fault" in bench.store.blobs.read(log.sha256)
    view = jobs.get("job")
    assert view is not None
    assert (view.state, view.summary["outcomes"]) == (JobState.FAILED, {"crashed": 3})


def test_a_workflow_that_no_stack_can_run_is_unsupported_with_the_reason(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    job = make_job(job_id="job", workflow="pytorch", target=fake_job("x", bench.device.device_id).target)
    execute(bench, jobs, claim(job), boottime())
    found = records(bench, job)
    assert len(found) == 3
    assert {record.outcome for record in found.values()} == {Outcome.UNSUPPORTED}
    assert all(record.failure and "torch" in record.failure.message for record in found.values())


def test_a_stack_that_could_not_be_probed_runs_nothing(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    bench.stacks[0] = bench.stacks[0].__class__("default", "/nowhere/python", "", problems={"python": "gone"})
    job = fake_job("job", bench.device.device_id)
    execute(bench, jobs, claim(job), boottime())
    assert {record.outcome for record in records(bench, job).values()} == {Outcome.UNSUPPORTED}


def test_an_interpreter_that_vanished_since_is_named(bench: Bench, run: Run) -> None:
    bench.settings.stacks["default"].python = "/nowhere/python"
    (record,) = run().values()
    assert record.failure is not None
    assert (record.outcome, record.failure.reference) == (Outcome.FAILED, "interpreter-missing")


def test_a_model_that_the_store_lacks_is_a_failure_that_names_it(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    model = ModelSpec("mine", source="onnx", onnx_sha256="ab" * 32)
    job = fake_job("job", bench.device.device_id).__class__(
        **{**fake_job("job", bench.device.device_id).__dict__, "model": model}
    )
    execute(bench, jobs, claim(job), boottime())
    (record,) = records(bench, job).values()
    assert record.failure is not None
    assert record.failure.reference == "model-missing"
    assert "ab" * 32 in record.failure.message


@pytest.mark.alone
def test_a_killed_runner_is_a_crash_and_the_other_points_are_ok(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    job = fake_job("job", bench.device.device_id, (1, 2, 4), latency_ms=60.0)
    work = Background(bench, jobs, claim(job))
    work.in_stage("measure", 2)
    os.kill(work.runner_pid(2), signal.SIGKILL)
    work.join()
    found = records(bench, job)
    assert [record.outcome for record in found.values()] == [Outcome.OK, Outcome.CRASHED, Outcome.OK]
    assert found[2].failure is not None
    assert found[2].failure.reference == "sigkill"


@pytest.mark.alone
def test_a_cancelled_job_ends_soon_and_says_so_for_every_point(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    job = fake_job("job", bench.device.device_id, (1, 2, 4), behaviour="hang", from_batch=2)
    work = Background(bench, jobs, claim(job))
    work.in_stage("measure", 2)
    start = time.monotonic()
    jobs.cancel("job")
    work.join()
    assert time.monotonic() - start < 12
    found = records(bench, job)
    assert [record.outcome for record in found.values()] == [Outcome.OK, Outcome.CANCELLED, Outcome.CANCELLED]
    assert found[4].ladder_stop == "cancelled"
    view = jobs.get("job")
    assert view is not None
    assert view.state is JobState.CANCELLED


@pytest.mark.alone
def test_a_fenced_job_is_killed_and_records_nothing_more(
    bench: Bench, jobs: JobStore, claim: MakeClaim, client: redis.Redis
) -> None:
    bench.settings.lease_s = 3.0
    job = fake_job("job", bench.device.device_id, (1, 2, 4), behaviour="hang", from_batch=2)
    work = Background(bench, jobs, claim(job))
    work.in_stage("measure", 2)
    client.hset("farm:job:job", "token", "another attempt's")
    assert "lost" in work.join()
    assert list(records(bench, job)) == [1]
    assert client.hget("farm:job:job", "state") == "running"


def test_a_second_attempt_measures_only_what_has_no_record(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    job = fake_job("job", bench.device.device_id, (1, 2, 4))
    first = claim(job)
    execute(bench, jobs, first, boottime())
    before = records(bench, job)
    path = bench.store.records.path(job.run_id(2))
    bench.store.records.day_path(before[2]).unlink()
    path.unlink()
    blobs = {info.sha256 for info in bench.store.blobs.list()}
    jobs.retry(job)
    jobs.dispatch("job", bench.device.device_id)
    second = jobs.claim("job", bench.device.device_id, "test", 30.0)
    assert isinstance(second, Claim)
    execute(bench, jobs, second, boottime())
    after = records(bench, job)
    assert (after[1], after[4]) == (before[1], before[4])
    assert after[2].started_at > before[4].finished_at
    fresh = {info.sha256 for info in bench.store.blobs.list()} - blobs
    assert fresh <= {ref.sha256 for ref in (*after[2].samples, *after[2].artifacts)}
    view = jobs.get("job")
    assert view is not None
    assert view.summary["outcomes"] == {"ok": 3}


def test_a_device_that_others_hold_hands_the_job_back(
    bench: Bench, jobs: JobStore, claim: MakeClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.settings.device_wait_s = 0.3
    monkeypatch.setattr("workers.daemon.execute._HAND_BACK_S", 0.5)
    held = claim(fake_job("job", bench.device.device_id))
    with lock.hold(bench.lock_path, lock.Holder(77, "job of another farm", "/other", time.time()), wait_s=0):
        said = execute(bench, jobs, held, boottime())
    assert said.startswith("handed back")
    view = jobs.get("job")
    assert view is not None
    assert view.state is JobState.QUEUED
    assert view.reason is not None
    assert "process 77 (job of another farm, farm home /other)" in view.reason


def test_who_waits_for_the_device_says_for_whom_and_can_be_cancelled(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    job = fake_job("job", bench.device.device_id)
    with lock.hold(bench.lock_path, lock.Holder(77, "job of another farm", "/other", time.time()), wait_s=0):
        work = Background(bench, jobs, claim(job))
        work.in_stage("wait_device")
        view = jobs.get("job")
        assert view is not None
        assert "job of another farm" in view.progress["note"]
        jobs.cancel("job")
        work.join()
    assert {record.outcome for record in records(bench, job).values()} == {Outcome.CANCELLED}


def test_a_straggler_of_this_device_is_killed_before_the_job_and_others_are_let_be(bench: Bench, run: Run) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours = subprocess.Popen(sleep, env={**os.environ, **bench.marks})
    other = subprocess.Popen(sleep, env={**os.environ, **bench.marks, "INFERFARM_LOCK": "/another/lock"})
    with ours, other:
        (record,) = run().values()
        assert record.outcome is Outcome.OK
        assert ours.poll() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_a_store_that_is_away_delays_the_record_and_nothing_else(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    job = fake_job("job", bench.device.device_id, (1, 2))
    away = bench.store.root.rename(bench.store.root.with_name("away"))
    execute(bench, jobs, claim(job), boottime())
    view = jobs.get("job")
    assert view is not None
    assert (view.state, view.summary["outcomes"]) == (JobState.DONE, {"ok": 2})
    assert len(bench.spool.entries()) == 2
    away.rename(bench.store.root)
    assert bench.spool.flush(bench.store) == 0
    assert len(records(bench, job)) == 2
    assert list(bench.store.verify()) == []


def test_a_job_brings_what_an_ended_worker_of_its_device_left(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    work, device_id = bench.settings.work_dir, bench.device.device_id
    left = control.job_dir(work, device_id, "earlier", 1) / "run" / "samples"
    left.mkdir(parents=True)
    execute(bench, jobs, claim(fake_job("job", device_id)), boottime())
    assert [path.name for path in lost_of(work, device_id)] == ["earlier-a1.lost"]
    assert keep_lost(work, device_id, bench.store, jobs) == 0


def test_trouble_of_the_farm_itself_fails_the_job_with_its_cause(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    bench.settings.work_dir.parent.mkdir(parents=True, exist_ok=True)
    bench.settings.work_dir.write_text("a file where the work directory should be")
    job = fake_job("job", bench.device.device_id, (1, 2))
    execute(bench, jobs, claim(job), boottime())
    bench.settings.work_dir.unlink()
    found = records(bench, job)
    assert {record.failure.reference for record in found.values() if record.failure} == {"farm-error"}
    view = jobs.get("job")
    assert view is not None
    assert view.state is JobState.FAILED
    assert "NotADirectoryError" in view.summary["error"]


def test_a_job_that_this_hosts_disk_does_not_take_is_owed_its_records(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    bench.settings.spool_dir.parent.mkdir(parents=True, exist_ok=True)
    bench.settings.spool_dir.write_text("a file where the spool should be")
    execute(bench, jobs, claim(fake_job("job", bench.device.device_id)), boottime())
    (view,) = jobs.owed()
    assert (view.job_id, view.state) == ("job", JobState.FAILED)
    assert "FileExistsError" in view.summary["error"]


def test_an_old_interpreter_that_still_fits_measures_as_well(bench: Bench, run: Run) -> None:
    """Python 3.8, where there is one: the island's own floor."""
    python = str(require_python("3.8"))
    bench.settings.stacks["default"].python = python
    bench.stacks[0] = bench.stacks[0].__class__("default", python, "3.8")
    (record,) = run().values()
    assert record.outcome is Outcome.OK, record.failure
    assert record.environment["python"].startswith("3.8.")
