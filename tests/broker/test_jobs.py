# SPDX-License-Identifier: Apache-2.0
"""Job states against a real server: every move is compare-and-set, fenced by the claim's token."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
import redis

from farm.broker.jobs import Claim, JobState, JobStore, RenewAnswer
from farm.contract.job import BatchLadder, JobSpec, ModelSpec, Target
from farm.contract.protocols import PROTOCOLS


def job(job_id: str, sweep: str = "s", device: str = "d") -> JobSpec:
    return JobSpec(
        job_id=job_id,
        sweep_id=sweep,
        sweep_name=sweep,
        model=ModelSpec(name="resnet18"),
        workflow="fake",
        precision="fp32",
        batches=BatchLadder((1, 2)),
        protocol=PROTOCOLS["quick"],
        target=Target(device_id=device),
    )


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    return JobStore(client)


def claimed(jobs: JobStore, job_id: str = "j1", lease_s: float = 30) -> Claim:
    jobs.submit("s", "s", 5, [job(job_id)])
    jobs.dispatch(job_id, "d")
    claim = jobs.claim(job_id, "d", "me", lease_s)
    assert isinstance(claim, Claim)
    return claim


def state(jobs: JobStore, job_id: str = "j1") -> JobState:
    view = jobs.get(job_id)
    assert view is not None
    return view.state


def test_submitting_twice_adds_nothing(jobs: JobStore) -> None:
    assert jobs.submit("s", "s", 5, [job("j1"), job("j2")]) == 2
    assert jobs.submit("s", "s", 5, [job("j1"), job("j2")]) == 0
    assert [view.job_id for view in jobs.sweep_jobs("s")] == ["j1", "j2"]


def test_a_job_goes_through_its_states_and_comes_back_as_it_was_sent(jobs: JobStore) -> None:
    claim = claimed(jobs)
    assert claim.job == job("j1")
    assert claim.attempt == 1
    assert jobs.running(claim)
    jobs.progress(claim, {"stage": "measure"})
    assert jobs.get("j1").progress == {"stage": "measure"}  # type: ignore[union-attr]
    assert jobs.finish(claim, JobState.DONE, {"ok": 2})
    view = jobs.get("j1")
    assert view is not None
    assert (view.state, view.summary) == (JobState.DONE, {"ok": 2})
    assert set(view.times) == {"queued", "dispatched", "claimed", "running", "done"}
    assert jobs.window("d") == []


def test_a_repeated_message_claims_nothing(jobs: JobStore) -> None:
    claimed(jobs)
    assert "claimed, not dispatched" in str(jobs.claim("j1", "d", "other", 30))


def test_only_the_device_a_job_is_bound_to_may_claim_it(jobs: JobStore) -> None:
    jobs.submit("s", "s", 5, [job("j1")])
    jobs.dispatch("j1", "d")
    assert "bound to device d" in str(jobs.claim("j1", "elsewhere", "me", 30))


def test_an_unknown_job_is_refused_by_name(jobs: JobStore) -> None:
    assert "not known" in str(jobs.claim("nope", "d", "me", 30))


def test_of_many_claims_at_once_exactly_one_wins(jobs: JobStore, client: redis.Redis) -> None:
    jobs.submit("s", "s", 5, [job("j1")])
    jobs.dispatch("j1", "d")
    answers: list[Claim | str] = []
    gate = threading.Barrier(8)

    def contend() -> None:
        gate.wait(timeout=120)
        answers.append(jobs.claim("j1", "d", "me", 30))

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sum(isinstance(answer, Claim) for answer in answers) == 1


def test_an_expired_lease_is_queued_again_and_its_old_token_is_fenced(jobs: JobStore, client: redis.Redis) -> None:
    old = claimed(jobs)
    jobs.disown("d", "a worker that started later")
    assert jobs.reap(max_attempts=3) == [("j1", JobState.QUEUED)]
    assert jobs.renew(old, 30) is RenewAnswer.FENCED
    assert not jobs.finish(old, JobState.DONE, {})
    assert not jobs.running(old)
    jobs.dispatch("j1", "d")
    new = jobs.claim("j1", "d", "me", 30)
    assert isinstance(new, Claim)
    assert new.attempt == 2
    assert not jobs.finish(old, JobState.DONE, {})
    assert jobs.finish(new, JobState.DONE, {})


@pytest.mark.parametrize("lost", ["attempt", "state", "sweep", "order", "target"])
def test_a_job_of_which_a_part_is_lost_goes_and_stops_no_other(jobs: JobStore, client: redis.Redis, lost: str) -> None:
    claimed(jobs)
    claimed(jobs, "j2")
    client.set("farm:rebuilt", 1)
    jobs.disown("d", "later")
    client.hdel("farm:job:j1", lost)
    assert jobs.reap(max_attempts=3) == [("j2", JobState.QUEUED)]
    assert jobs.get("j1") is None
    assert client.zrange("farm:leases", 0, -1) == []
    assert not client.exists("farm:rebuilt")  # so the scheduler reads the stored sweeps
    assert jobs.submit("s", "s", 5, [job("j1"), job("j2")]) == 1
    assert state(jobs) is JobState.QUEUED


def test_a_job_that_loses_its_worker_too_often_is_quarantined(jobs: JobStore) -> None:
    claimed(jobs)
    jobs.disown("d", "later")
    assert jobs.reap(max_attempts=1) == [("j1", JobState.QUARANTINED)]
    assert jobs.heads() == []


def test_a_lease_that_holds_is_not_reaped(jobs: JobStore) -> None:
    claim = claimed(jobs)
    assert jobs.reap(max_attempts=3) == []
    assert jobs.renew(claim, 30) is RenewAnswer.HELD


def test_leases_longer_than_the_server_is_up_are_left_alone(jobs: JobStore, client: redis.Redis) -> None:
    claimed(jobs, lease_s=3600)
    client.zadd("farm:leases", {"j1": 1})
    assert jobs.reap(max_attempts=3) == []
    assert state(jobs) is JobState.CLAIMED


@pytest.mark.parametrize("dispatched", [False, True])
def test_what_has_not_started_is_cancelled_at_once(jobs: JobStore, dispatched: bool) -> None:
    jobs.submit("s", "s", 5, [job("j1")])
    if dispatched:
        jobs.dispatch("j1", "d")
    assert jobs.cancel("j1") is JobState.CANCELLED
    assert jobs.heads() == []
    assert jobs.window("d") == []
    assert isinstance(jobs.claim("j1", "d", "me", 30), str)


def test_what_runs_learns_of_its_cancellation_at_the_next_renewal(jobs: JobStore) -> None:
    claim = claimed(jobs)
    assert jobs.cancel("j1") is JobState.CLAIMED
    assert jobs.renew(claim, 30) is RenewAnswer.CANCEL
    assert jobs.finish(claim, JobState.CANCELLED, {})
    assert jobs.cancel("j1") is JobState.CANCELLED


def test_cancelling_an_unknown_job_says_so(jobs: JobStore) -> None:
    assert jobs.cancel("nope") is None


def test_a_released_job_waits_again_in_its_old_place_and_the_attempt_does_not_count(jobs: JobStore) -> None:
    jobs.submit("s", "s", 5, [job("j1"), job("j2")])
    jobs.dispatch("j1", "d")
    claim = jobs.claim("j1", "d", "me", 30)
    assert isinstance(claim, Claim)
    assert jobs.release(claim, "device busy")
    assert [head.job_id for head in jobs.heads()] == ["j1"]
    view = jobs.get("j1")
    assert view is not None
    assert (view.attempt, view.reason) == (0, "device busy")


def test_a_recalled_job_cannot_be_claimed_by_its_old_message(jobs: JobStore) -> None:
    jobs.submit("s", "s", 5, [job("j1")])
    jobs.dispatch("j1", "d")
    assert jobs.recall("j1")
    assert isinstance(jobs.claim("j1", "d", "me", 30), str)
    assert state(jobs) is JobState.QUEUED


def test_heads_carry_priority_and_what_the_sweep_was_served(jobs: JobStore) -> None:
    jobs.submit("a", "a", 3, [job("a1", "a"), job("a2", "a")], [10.0, 20.0])
    jobs.dispatch("a1", "d")
    jobs.set_priority("a", 8)
    (head,) = jobs.heads()
    assert (head.job_id, head.priority, head.served_s, head.predicted_s) == ("a2", 8, 10.0, 20.0)


def test_a_sweep_that_joins_late_starts_level_with_the_least_served(jobs: JobStore) -> None:
    jobs.submit("a", "a", 5, [job("a1", "a"), job("a2", "a")], [100.0, 100.0])
    jobs.dispatch("a1", "d")
    jobs.submit("b", "b", 5, [job("b1", "b")])
    assert {head.sweep_id: head.served_s for head in jobs.heads()} == {"a": 100.0, "b": 100.0}


def test_counts_follow_the_states(jobs: JobStore) -> None:
    jobs.submit("s", "s", 5, [job(f"j{i}") for i in range(4)])
    jobs.dispatch("j0", "d")
    claim = jobs.claim("j0", "d", "me", 30)
    assert isinstance(claim, Claim)
    jobs.finish(claim, JobState.FAILED, {})
    jobs.cancel("j1")
    (sweep,) = jobs.sweeps()
    assert sweep.counts == {"failed": 1, "cancelled": 1, "queued": 2}


def test_only_an_ended_job_can_be_retried_and_its_generation_is_new(jobs: JobStore) -> None:
    claim = claimed(jobs)
    again = dataclasses.replace(job("j1"), generation=1)
    assert jobs.retry(again) == "claimed"
    jobs.finish(claim, JobState.FAILED, {})
    assert jobs.retry(again) == "queued"
    view = jobs.get("j1")
    assert view is not None
    assert (view.state, view.attempt, view.spec.generation) == (JobState.QUEUED, 0, 1)
    assert again.run_id(1) != job("j1").run_id(1)


def test_a_large_sweep_is_submitted_in_order(jobs: JobStore) -> None:
    many = [job(f"j{i:04}") for i in range(1203)]
    assert jobs.submit("s", "s", 5, many) == 1203
    assert [view.job_id for view in jobs.sweep_jobs("s")] == [spec.job_id for spec in many]


def test_a_job_that_kills_its_worker_twice_is_quarantined_and_its_attempts_are_told(jobs: JobStore) -> None:
    claimed(jobs)
    jobs.disown("d", "the next worker")
    assert jobs.reap(max_attempts=9) == [("j1", JobState.QUEUED)]
    jobs.dispatch("j1", "d")
    assert isinstance(jobs.claim("j1", "d", "the next worker", 30), Claim)
    jobs.disown("d", "the one after it")
    assert jobs.reap(max_attempts=9) == [("j1", JobState.QUARANTINED)]
    (view,) = jobs.owed()
    assert (view.job_id, view.kills) == ("j1", 2)
    assert [(lost["attempt"], lost["device"], lost["how"]) for lost in view.lost] == [
        (1, "d", "worker died"),
        (2, "d", "worker died"),
    ]
    assert jobs.retry(view.spec) == "queued"
    again = jobs.get("j1")
    assert again is not None
    assert (again.kills, again.lost, jobs.owed()) == (0, (), [])


def test_a_lease_that_ended_is_no_killed_worker(jobs: JobStore) -> None:
    claimed(jobs, lease_s=0.05)
    ended: list[tuple[str, JobState]] = []
    until = time.monotonic() + 120
    while not ended and time.monotonic() < until:
        ended = jobs.reap(max_attempts=4)
    assert ended == [("j1", JobState.QUEUED)]
    view = jobs.get("j1")
    assert view is not None
    assert (view.kills, [lost["how"] for lost in view.lost]) == (0, ["lease ended"])


def test_failures_in_a_row_are_counted_by_job_until_one_is_done(jobs: JobStore) -> None:
    def end(job_id: str, state: JobState) -> None:
        assert jobs.finish(claimed(jobs, job_id), state, {})

    end("a", JobState.FAILED)
    end("b", JobState.FAILED)
    jobs.retry(job("b"))
    jobs.dispatch("b", "d")
    again = jobs.claim("b", "d", "me", 30)
    assert isinstance(again, Claim)
    assert jobs.finish(again, JobState.FAILED, {})
    end("c", JobState.CANCELLED)
    assert {view.job_id for view in jobs.failures("d")} == {"a", "b"}
    end("e", JobState.DONE)
    assert jobs.failures("d") == []
