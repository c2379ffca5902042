# SPDX-License-Identifier: Apache-2.0
"""A device in maintenance ends its job, takes none, speaks against nothing, and comes back with its canary first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from farm.broker.canaries import RESUMED, CanaryBook
from farm.broker.jobs import Claim, JobState, JobStore, RenewAnswer
from farm.broker.register import MAINTENANCE, DeviceEntry, Register
from farm.canary import CanaryState
from farm.settings import Settings
from farm.store import Store
from scheduler.canary_job import PRIORITY
from scheduler.dispatch import one_pass
from scheduler.main import Scheduler
from scheduler.maintenance import is_over, see_to_maintenance
from scheduler.submit import submit
from tests.scheduler.conftest import Sent, announcement, entry, make_spec, states

TakeClaim = Callable[..., Claim]


@pytest.fixture(autouse=True)
def _devices(register: Register) -> None:
    for device in ("a", "b"):
        register.announce(announcement(device))


def put(store: Store, jobs: JobStore, register: Register, name: str = "tiny", **keys: str) -> str:
    return submit(make_spec(name, **keys), store=store, jobs=jobs, register=register).sweep_id


def hold(register: Register, device: str = "a", *, left_s: float | None = 3600.0) -> None:
    until_s = None if left_s is None else register.now_s() + left_s
    register.set_state(device, MAINTENANCE, "new fan", by="ann@lab1", until_s=until_s)


def of(register: Register, device: str) -> DeviceEntry:
    return next(entry for entry in register.devices() if entry.device_id == device)


def see(register: Register, jobs: JobStore, *, canary: bool = True) -> bool:
    return see_to_maintenance(register, jobs, register.devices(), register.now_s(), canary=canary)


def test_its_jobs_wait_while_those_of_its_class_go_elsewhere(
    jobs: JobStore, register: Register, store: Store, sent: Sent
) -> None:
    hold(register)
    bound = put(store, jobs, register, "bound", devices="[{id: a}]")
    shared = put(store, jobs, register, "shared")
    one_pass(jobs, register, sent, window=2)
    assert states(jobs, bound) == [JobState.QUEUED]
    assert states(jobs, shared) == [JobState.DISPATCHED]
    assert {device for _, device in sent.take()} == {"b"}


def test_what_it_runs_goes_on_and_what_it_has_not_begun_steps_back(
    settings: Settings, client: redis.Redis, jobs: JobStore, register: Register, store: Store, claim: TakeClaim
) -> None:
    sweep = put(store, jobs, register, models="[resnet18, resnet34]", devices="[{id: a}]")
    scheduler = Scheduler(settings, client, store, Sent())
    scheduler.tick()
    first, _ = jobs.sweep_jobs(sweep)
    held = claim(first.job_id, "a")
    hold(register)
    scheduler.tick()
    assert states(jobs, sweep) == [JobState.RUNNING, JobState.QUEUED]
    assert jobs.renew(held, 60) is RenewAnswer.HELD
    assert jobs.finish(held, JobState.DONE, {})
    scheduler.tick()
    assert states(jobs, sweep) == [JobState.DONE, JobState.QUEUED]


def test_a_worker_with_a_drain_limit_is_told_to_hand_back(
    jobs: JobStore, register: Register, store: Store, claim: TakeClaim, client: redis.Redis
) -> None:
    sweep = put(store, jobs, register, devices="[{id: a}]")
    (view,) = jobs.sweep_jobs(sweep)
    assert jobs.dispatch(view.job_id, "a")
    held = claim(view.job_id, "a")
    assert jobs.renew(held, 60, 0.0) is RenewAnswer.HELD, "not in maintenance"
    hold(register)
    assert jobs.renew(held, 60, 30.0) is RenewAnswer.HELD
    client.hincrby("farm:device:a", "state_at", -40_000)
    assert jobs.renew(held, 60, 30.0) is RenewAnswer.HAND_BACK
    assert jobs.renew(held, 60) is RenewAnswer.HELD, "without a limit it goes on to its end"
    jobs.cancel(view.job_id)
    assert jobs.renew(held, 60, 30.0) is RenewAnswer.CANCEL


def test_a_lease_that_ends_meanwhile_counts_for_nothing(
    jobs: JobStore, register: Register, store: Store, claim: TakeClaim, client: redis.Redis
) -> None:
    sweep = put(store, jobs, register, devices="[{id: a}]")
    (view,) = jobs.sweep_jobs(sweep)
    for owner in ("first", "second", "third"):
        assert jobs.dispatch(view.job_id, "a")
        claim(view.job_id, "a")
        hold(register)
        assert jobs.disown("a", owner) == 1
        assert jobs.reap(max_attempts=1) == [(view.job_id, JobState.QUEUED)]
        (now,) = jobs.sweep_jobs(sweep)
        assert (now.attempt, now.kills, now.lost) == (0, 0, ())
        register.set_state("a", "ready", None)
    assert jobs.dispatch(view.job_id, "a")
    claim(view.job_id, "a")
    assert jobs.disown("a", "fourth") == 1
    assert jobs.reap(max_attempts=1) == [(view.job_id, JobState.QUARANTINED)], "and outside of one it does"


def test_it_comes_back_at_its_end_and_not_before(register: Register, jobs: JobStore, client: redis.Redis) -> None:
    hold(register)
    assert not see(register, jobs)
    assert (of(register, "a").state, of(register, "a").by, of(register, "a").reason) == (
        MAINTENANCE, "ann@lab1", "new fan",
    )  # fmt: skip
    hold(register, left_s=-1.0)
    client.rpush("farm:failed:a", "x")
    assert see(register, jobs)
    back = of(register, "a")
    assert (back.state, back.reason, back.until_s, back.back, back.canary.asked) == ("ready", None, None, True, RESUMED)
    assert not client.exists("farm:failed:a"), "who worked on it may have mended what failed"


def test_one_that_was_prolonged_meanwhile_stays(register: Register, jobs: JobStore) -> None:
    hold(register, left_s=-1.0)
    seen = register.devices()
    hold(register, left_s=3600.0)
    assert not see_to_maintenance(register, jobs, seen, register.now_s(), canary=True)
    assert of(register, "a").state == MAINTENANCE


def test_without_an_end_it_lasts_until_it_is_resumed(register: Register, jobs: JobStore) -> None:
    hold(register, left_s=None)
    assert not is_over(of(register, "a"), 1e12)
    register.set_state("a", "ready", None)
    assert of(register, "a").takes_jobs
    assert not of(register, "a").back


def test_its_canary_goes_first_and_the_rest_once_it_is_judged(
    jobs: JobStore, register: Register, store: Store, sent: Sent, client: redis.Redis
) -> None:
    book = CanaryBook(client)
    bound = put(store, jobs, register, "bound", devices="[{id: a}]", priority="9")
    hold(register, left_s=-1.0)
    assert see(register, jobs)
    one_pass(jobs, register, sent, window=2)
    assert sent.take() == [], "asked for, and not there yet"
    spec = make_spec("canary", devices="[{id: a}]")
    assert book.begin("a", spec.sweep_id, RESUMED, 1.0)
    submit(spec, store=store, jobs=jobs, register=register, priority=PRIORITY)
    one_pass(jobs, register, sent, window=2)
    (canary,) = jobs.sweep_jobs(spec.sweep_id)
    assert sent.take() == [(canary.job_id, "a")]
    assert states(jobs, bound) == [JobState.QUEUED]
    jobs.cancel(canary.job_id)
    book.judged("a", CanaryState(verdict="steady"))
    assert see(register, jobs)
    assert not of(register, "a").back
    one_pass(jobs, register, sent, window=2)
    assert states(jobs, bound) == [JobState.DISPATCHED]


def test_a_farm_without_canaries_takes_it_back_at_once(
    jobs: JobStore, register: Register, store: Store, sent: Sent
) -> None:
    bound = put(store, jobs, register, devices="[{id: a}]")
    hold(register, left_s=-1.0)
    assert see(register, jobs, canary=False)
    one_pass(jobs, register, sent, window=1)
    assert states(jobs, bound) == [JobState.DISPATCHED]


def test_its_state_in_words() -> None:
    known = entry("a", state=MAINTENANCE)
    assert known.standing == "in maintenance"
    told = replace(known, reason="new fan", by="ann@lab1", since_s=1.8e9, until_s=1.8e9 + 7200).standing
    assert told.startswith("in maintenance until 2027-01-1")
    assert told.endswith(" by ann@lab1: new fan")
    assert entry("a", online=False).standing == "offline"
    assert entry("a", state="drained").standing == "drained"
