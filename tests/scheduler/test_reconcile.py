# SPDX-License-Identifier: Apache-2.0
"""Lost messages are sent again, dead leases end, and an emptied Redis is filled again from the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import redis

from farm.broker.jobs import Claim, JobState, JobStore, JobView
from farm.broker.register import Register
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import Record
from farm.store import Store
from scheduler.choose import Slot
from scheduler.dispatch import one_pass
from scheduler.expand import jobs_at
from scheduler.reconcile import Resender, end_leases, lost, outstanding, rebuild, settle
from scheduler.records import cancelled_records
from scheduler.submit import submit
from tests.factories import make_job
from tests.scheduler.conftest import Sent, announcement, make_spec, states

NOW = "2026-03-01T10:00:00.000000+00:00"


def view(job_id: str, state: JobState, sent_s: float) -> JobView:
    times = {"dispatched": sent_s}
    return JobView(job_id, "name", "s", state, "cls:x", "d", 0, 5, 1.0, 0, {}, {}, times, None, make_job(job_id=job_id))


def slot(*views: JobView) -> Slot:
    return Slot("d", "x", views)


WAITS, RUNS = JobState.DISPATCHED, JobState.RUNNING


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ([view("a", WAITS, 100.0)], []),
        ([view("a", WAITS, 85.0)], ["a"]),
        ([view("a", WAITS, 85.0), view("b", WAITS, 95.0)], ["a"]),
        ([view("r", RUNS, 10.0), view("a", WAITS, 20.0)], []),
        ([view("r", RUNS, 30.0), view("a", WAITS, 20.0)], ["a"]),
        ([view("r", JobState.CLAIMED, 99.0), view("a", WAITS, 98.0)], []),
    ],
    ids=["just sent", "idle for long", "idle, one just sent", "waits behind a job", "passed by", "passed by just now"],
)
def test_a_message_is_lost_when_an_idle_device_or_a_later_job_says_so(
    window: list[JobView], expected: list[str]
) -> None:
    assert [job_id for job_id, _ in lost(slot(*window), 100.0, 10.0)] == expected


def test_a_lost_message_is_sent_again_with_growing_pauses(sent: Sent) -> None:
    resender = Resender(after_s=10)
    window = slot(view("a", WAITS, 0.0))
    times = [t for t in range(11, 200) if resender.resend([window], sent, float(t))]
    assert times == [11, 21, 41, 81, 161]
    assert sent.messages[0] == ("a", "dev.d", "name")
    assert resender.resend([slot()], sent, 300.0) == []
    assert resender.resend([window], sent, 301.0) == ["a"], "once it was claimed, it starts anew"


def test_a_job_that_waited_behind_a_long_one_is_not_sent_again_when_that_one_ends(sent: Sent) -> None:
    resender = Resender(after_s=10)
    behind = view("a", WAITS, 1.0)
    assert resender.resend([slot(view("r", RUNS, 0.0), behind)], sent, 60.0) == []
    assert resender.resend([slot(behind)], sent, 61.0) == [], "the device has just become free"
    assert resender.resend([slot(behind)], sent, 71.0) == ["a"], "it stayed idle"


def test_a_message_lost_on_the_way_is_sent_again_and_the_job_runs(
    client: redis.Redis, jobs: JobStore, register: Register, sent: Sent, store: Store
) -> None:
    register.announce(announcement("d"))
    submit(make_spec(), store=store, jobs=jobs, register=register)
    one_pass(jobs, register, lambda *_: None, 2)
    seconds, _ = client.time()
    window = Slot("d", "cpu-x", tuple(jobs.window("d")))
    assert Resender().resend([window], sent, float(seconds)) == []
    ((job_id),) = Resender().resend([window], sent, seconds + 15.0)
    assert isinstance(jobs.claim(job_id, "d", "worker", 60), Claim)


def test_a_job_whose_worker_died_is_queued_again_and_in_the_end_recorded_as_lost(
    client: redis.Redis, jobs: JobStore, register: Register, sent: Sent, store: Store, claim: Callable[..., Claim]
) -> None:
    register.announce(announcement("d"))
    submission = submit(make_spec(), store=store, jobs=jobs, register=register)
    for attempt in (1, 2):
        one_pass(jobs, register, sent, 1)
        ((job_id, _),) = sent.take()
        assert claim(job_id, "d").attempt == attempt
        jobs.disown("d", "nobody")  # ends the lease without waiting for it
        ended = end_leases(jobs, max_attempts=2)
        settle(jobs, store)
    assert ended == [(job_id, JobState.QUARANTINED)]
    (record,) = [r for r in store.records.iterate(submission.sweep_id) if isinstance(r, Record)]
    assert (record.outcome, record.attempt) == (Outcome.LOST, 2)
    assert record.failure is not None
    assert record.failure.hint


def test_all_that_has_no_result_is_queued_again_after_redis_lost_everything(
    client: redis.Redis, jobs: JobStore, register: Register, store: Store
) -> None:
    register.announce(announcement("a"))
    register.announce(announcement("b", "cpu-y", libraries={}))
    spec = make_spec(models="[resnet18, resnet34, resnet50, alexnet]", workflows="[fake, pytorch]", priority="8")
    first = submit(spec, store=store, jobs=jobs, register=register)
    before = {v.job_id: v.spec for v in jobs.sweep_jobs(first.sweep_id)}
    assert (first.new, len(first.refusals)) == (12, 4)
    whole, stopped, part = list(before)[:3]
    for job_id, sizes, stop in ((whole, (1, 2), None), (stopped, (1,), "out_of_memory"), (part, (1,), None)):
        for size in sizes:
            write(store, before[job_id], size, stop)
    client.flushall()
    register.announce(announcement("late", "cpu-z"))
    (left,) = outstanding(store)
    assert left.spec.sweep_id == first.sweep_id
    assert rebuild(store, jobs) == 10
    after = {v.job_id: v.spec for v in jobs.sweep_jobs(first.sweep_id)}
    assert after == {job_id: spec for job_id, spec in before.items() if job_id not in (whole, stopped)}
    assert jobs.sweeps()[0].priority == 8
    assert rebuild(store, jobs) == 0


def test_a_job_is_outstanding_until_its_accuracy_is_recorded(
    client: redis.Redis, jobs: JobStore, register: Register, store: Store
) -> None:
    register.announce(announcement("a"))
    spec = make_spec(weights="digits:0", accuracy="{dataset: digits}")
    (job,) = (v.spec for v in jobs.sweep_jobs(submit(spec, store=store, jobs=jobs, register=register).sweep_id))
    write(store, job, 1, None)
    write(store, job, 2, None)
    assert [left.jobs for left in outstanding(store)] == [(job,)]
    assert store.records.write(
        Record(job.accuracy_run_id, Outcome.OK, job, 2, 1, NOW, NOW, metrics={"top1": 0.5}, point="accuracy")
    )
    assert list(outstanding(store)) == []


def test_a_job_cancelled_while_it_waited_has_a_record_for_each_run_also_the_accuracy() -> None:
    spec = make_spec(weights="digits:0", accuracy="{dataset: digits}")
    (job,) = jobs_at(spec, ["cls:cpu-x"], {})
    found = cancelled_records(job, 0, NOW)
    assert tuple(record.run_id for record in found) == job.run_ids()
    assert [(record.point, record.ladder_stop) for record in found] == [
        ("latency", None),
        ("latency", "cancelled"),
        ("accuracy", None),
    ]


def test_a_repeated_sweep_comes_back_under_its_own_id(
    client: redis.Redis, jobs: JobStore, register: Register, store: Store
) -> None:
    register.announce(announcement("a"))
    submit(make_spec(), store=store, jobs=jobs, register=register)
    second = submit(make_spec(), store=store, jobs=jobs, register=register, again=True)
    before = {v.job_id for v in jobs.sweep_jobs(second.sweep_id)}
    client.flushall()
    assert rebuild(store, jobs) == 2
    assert {v.job_id for v in jobs.sweep_jobs(second.sweep_id)} == before


def test_a_bound_job_comes_back_bound_to_its_device(
    client: redis.Redis, jobs: JobStore, register: Register, store: Store
) -> None:
    register.announce(announcement("able"))
    register.announce(announcement("bare", libraries={}))
    submission = submit(make_spec(workflows="[pytorch]"), store=store, jobs=jobs, register=register)
    client.flushall()
    rebuild(store, jobs)
    assert [v.target_key for v in jobs.sweep_jobs(submission.sweep_id)] == ["dev:able"]


def test_a_stored_sweep_that_cannot_be_read_does_not_stop_the_others(
    client: redis.Redis, jobs: JobStore, register: Register, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    register.announce(announcement("a"))
    submit(make_spec(), store=store, jobs=jobs, register=register)
    store.sweeps.write("future-1", {"schema": 99, "sweep_id": "future-1", "name": "future"})
    store.sweeps.write("odd-1", make_spec("odd").document() | {"sweep_id": "odd-1", "places": ["moon"]})
    (store.sweeps.root / "torn-1.json").write_text("{")
    client.flushall()
    assert rebuild(store, jobs) == 1
    assert "future-1" in caplog.text
    assert "moon" in caplog.text


def test_sweeps_submitted_after_the_loss_are_left_to_their_submitter(
    client: redis.Redis, jobs: JobStore, register: Register, store: Store
) -> None:
    register.announce(announcement("a"))
    submission = submit(make_spec(), store=store, jobs=jobs, register=register)
    written = store.sweeps.read(submission.sweep_id)["submitted_at"]
    client.flushall()
    assert rebuild(store, jobs, before_s=written) == 0
    assert rebuild(store, jobs, before_s=written + 0.001) == 1
    assert states(jobs, submission.sweep_id) == [JobState.QUEUED]


def write(store: Store, job: object, size: int, ladder_stop: str | None) -> None:
    failure = Failure("measure", "out-of-memory", "too large") if ladder_stop else None
    outcome = Outcome.OUT_OF_MEMORY if ladder_stop else Outcome.OK
    spec = dataclasses.replace(job)  # type: ignore[type-var]
    record = Record(spec.run_id(size), outcome, spec, size, 1, NOW, NOW, failure, ladder_stop=ladder_stop)  # type: ignore[attr-defined]
    assert store.records.write(record)


def test_a_job_given_up_while_the_store_was_away_is_recorded_when_it_is_back(
    client: redis.Redis, jobs: JobStore, register: Register, store: Store, claim: Callable[..., Claim], sent: Sent
) -> None:
    register.announce(announcement("a"))
    submission = submit(make_spec(), store=store, jobs=jobs, register=register)
    for owner in ("second", "third"):
        one_pass(jobs, register, sent, 1)
        claim(sent.take()[0][0], "a")
        jobs.disown("a", owner)
        away = store.root.rename(store.root.with_name("away"))
        ended = end_leases(jobs, max_attempts=9)
        settle(jobs, store)
        away.rename(store.root)
    assert [state for _, state in ended] == [JobState.QUARANTINED]
    assert list(store.records.iterate()) == []
    assert end_leases(jobs, max_attempts=9) == []
    settle(jobs, store)
    (record,) = [r for r in store.records.iterate(submission.sweep_id) if isinstance(r, Record)]
    assert record.failure is not None
    assert (record.outcome, record.failure.reference) == (Outcome.LOST, "killed-its-worker")
    assert record.job.job_id in record.failure.message
    assert record.job.name in record.failure.message
    assert "attempt 1 on a: its worker died" in (record.failure.detail or "")
    assert jobs.owed() == []


def test_a_cancelled_job_whose_worker_died_has_its_records(
    jobs: JobStore, register: Register, store: Store, claim: Callable[..., Claim], sent: Sent
) -> None:
    register.announce(announcement("a"))
    submission = submit(make_spec(), store=store, jobs=jobs, register=register)
    one_pass(jobs, register, sent, 1)
    held = claim(sent.take()[0][0], "a")
    write(store, held.job, 1, None)
    jobs.cancel(held.job.job_id)
    jobs.disown("a", "the next worker")
    assert end_leases(jobs, max_attempts=3) == [(held.job.job_id, JobState.CANCELLED)]
    settle(jobs, store)
    found = [r for r in store.records.iterate(submission.sweep_id) if isinstance(r, Record)]
    assert {r.batch_size: r.outcome for r in found} == {1: Outcome.OK, 2: Outcome.CANCELLED}


def test_what_no_worker_could_record_is_recorded_once_and_not_over_results(
    jobs: JobStore, register: Register, store: Store, claim: Callable[..., Claim], sent: Sent
) -> None:
    register.announce(announcement("a"))
    submit(make_spec(models="[resnet18, resnet34]"), store=store, jobs=jobs, register=register)
    one_pass(jobs, register, sent, 2)
    bare, full = (claim(job_id, "a") for job_id, _ in sent.take())
    write(store, full.job, 1, None)
    write(store, full.job, 2, None)
    for held in (bare, full):
        jobs.finish(held, JobState.FAILED, {"error": "OSError: no space"}, owed=True)
    assert settle(jobs, store) == 0
    record = store.records.read(bare.job.run_id(None))
    assert record.failure is not None
    assert (record.failure.reference, "no space" in record.failure.message) == ("farm-error", True)
    assert not store.records.exists(full.job.run_id(None))
