# SPDX-License-Identifier: Apache-2.0
"""A claim is kept alive on a real server, and its run ends when it is cancelled, fenced or cannot be renewed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis

from farm.broker.embedded import EmbeddedBroker
from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.register import MAINTENANCE, Register
from farm.contract.job import JobSpec
from tests.workers.support import fake_job, wait_until
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.lease import CANCELLED, EXPIRED, FENCED, HANDED_BACK, Lease
from workers.daemon.reporter import Reporter

MakeClaim = Callable[[JobSpec], Claim]


class Run:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []
        self.killed: list[str] = []

    def renew(self, deadline: float) -> None:
        self.deadlines.append(deadline)

    def kill(self, reason: str) -> None:
        self.killed.append(reason)


def test_a_lease_outlives_its_length_while_it_is_renewed(claim: MakeClaim, jobs: JobStore, bench: Bench) -> None:
    bench.settings.lease_s = 3.0
    claimed_at, run = boottime(), Run()
    held = claim(fake_job("j", bench.device.device_id))
    with Lease(jobs, held, 3.0, claimed_at) as lease:
        lease.bind(run)
        assert run.deadlines == [claimed_at + 0.8 * 3.0]
        wait_until(lambda: boottime() > claimed_at + 3.2, "the end of a lease that nobody renews")
        assert jobs.reap(3) == []
        assert lease.reason is None
    assert len(run.deadlines) > 2
    assert run.deadlines == sorted(run.deadlines)
    assert run.killed == []


def test_a_cancellation_ends_the_run_but_keeps_the_claim(claim: MakeClaim, jobs: JobStore, bench: Bench) -> None:
    held, run = claim(fake_job("j", bench.device.device_id)), Run()
    with Lease(jobs, held, 3.0, boottime()) as lease:
        lease.bind(run)
        jobs.cancel("j")
        assert lease.ended.wait(30)
        renewals = len(run.deadlines)
        wait_until(lambda: len(run.deadlines) > renewals, "a renewal after the cancellation")
        assert (lease.reason, lease.lost, run.killed) == (CANCELLED, False, [CANCELLED])
    assert jobs.finish(held, JobState.CANCELLED, {})


def test_a_fenced_claim_ends_the_run_even_if_it_was_cancelled_before(
    claim: MakeClaim, jobs: JobStore, bench: Bench, client: redis.Redis
) -> None:
    held, run = claim(fake_job("j", bench.device.device_id)), Run()
    with Lease(jobs, held, 3.0, boottime()) as lease:
        lease.bind(run)
        jobs.cancel("j")
        wait_until(lambda: lease.reason == CANCELLED, "cancellation")
        client.hset("farm:job:j", "token", "somebody else's")
        wait_until(lambda: lease.reason == FENCED, "fence")
        assert lease.lost
        assert run.killed == [CANCELLED, FENCED]


def test_a_broker_that_stays_away_ends_the_run_before_the_lease_does(
    claim: MakeClaim, jobs: JobStore, bench: Bench, broker: EmbeddedBroker
) -> None:
    claimed_at = boottime()
    held, run = claim(fake_job("j", bench.device.device_id)), Run()
    with Lease(jobs, held, 2.0, claimed_at) as lease:
        lease.bind(run)
        broker.stop()
        assert lease.ended.wait(30)
        assert (lease.reason, lease.lost, run.killed) == (EXPIRED, True, [EXPIRED])
        assert run.deadlines[-1] <= boottime()


def test_a_broker_that_comes_back_in_time_costs_nothing(
    claim: MakeClaim, jobs: JobStore, bench: Bench, client: redis.Redis
) -> None:
    held, run = claim(fake_job("j", bench.device.device_id)), Run()
    with Lease(jobs, held, 4.0, boottime()) as lease:
        lease.bind(run)
        cut_off_at = boottime()
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
        wait_until(lambda: run.deadlines[-1] > cut_off_at + 0.8 * 4.0, "a renewal after the cut")
        assert (lease.reason, run.killed) == (None, [])


def test_a_run_that_starts_after_the_end_is_killed_at_once(claim: MakeClaim, jobs: JobStore, bench: Bench) -> None:
    held, run = claim(fake_job("j", bench.device.device_id)), Run()
    with Lease(jobs, held, 30.0, boottime()) as lease:
        lease.end(CANCELLED)
        lease.bind(run)
        assert run.killed == [CANCELLED]


def test_only_the_latest_progress_is_told_and_a_sink_that_fails_harms_nobody() -> None:
    told: list[object] = []
    begun, gate = threading.Event(), threading.Event()

    def slow(progress: dict[str, object]) -> None:
        begun.set()
        gate.wait(30)
        told.append(progress["n"])

    def broken(progress: dict[str, object]) -> None:
        raise redis.ConnectionError("away")

    with Reporter(broken, slow) as reporter:
        reporter.tell({"n": 0})
        assert begun.wait(30)
        for n in range(1, 10):
            reporter.tell({"n": n})
        gate.set()
        wait_until(lambda: told[-1:] == [9], "latest progress")
    assert told == [0, 9]


def test_a_cancellation_is_heard_soon_however_long_the_lease(claim: MakeClaim, jobs: JobStore, bench: Bench) -> None:
    """At the next renewal, which a long lease does not put off. (How soon the device is free: test_service.)"""
    bench.settings.lease_s = 300.0
    held, run = claim(fake_job("j", bench.device.device_id)), Run()
    with Lease(jobs, held, 300.0, boottime()) as lease:
        lease.bind(run)
        jobs.cancel("j")
        assert lease.ended.wait(30), "a sixth of the lease would be 50 s"
        wait_until(lambda: run.killed == [CANCELLED], "the run told to end")


def test_maintenance_hands_a_job_back_once_the_workers_limit_is_over(
    claim: MakeClaim, jobs: JobStore, bench: Bench, client: redis.Redis
) -> None:
    held, run = claim(fake_job("j", bench.device.device_id)), Run()
    with Lease(jobs, held, 3.0, boottime(), drain_limit_s=0.5) as lease:
        lease.bind(run)
        Register(client).set_state(bench.device.device_id, MAINTENANCE, "new fan")
        assert lease.ended.wait(30)
        assert (lease.reason, lease.lost, run.killed) == (HANDED_BACK, True, [HANDED_BACK])
    assert jobs.release(held, "maintenance")
    view = jobs.get("j")
    assert view is not None
    assert (view.state, view.attempt) == (JobState.QUEUED, 0)
