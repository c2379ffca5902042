# SPDX-License-Identifier: Apache-2.0
"""What is done at once when something changed, what is left to the whole pass, how little an idle scheduler does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.register import Register
from farm.settings import Settings
from farm.store import Store
from scheduler.dispatch import one_pass
from scheduler.expand import expand
from scheduler.main import Scheduler
from scheduler.match import match
from tests.scheduler.conftest import Sent, announcement, make_spec

MANY = "[resnet18, resnet34, resnet50, resnet101, resnet152, alexnet]"


def queue(jobs: JobStore, register: Register, name: str, **keys: str) -> list[str]:
    spec = make_spec(name, **keys)
    made = match(spec, expand(spec), register.devices())
    jobs.submit(spec.sweep_id, spec.name, 5, made.jobs)
    return [job.job_id for job in made.jobs]


def scheduler(settings: Settings, client: redis.Redis, store: Store, sent: Sent) -> Scheduler:
    made = Scheduler(settings, client, store, sent)
    made.tick()
    return made


def test_an_idle_device_gets_its_job_before_the_whole_pass(
    settings: Settings, client: redis.Redis, store: Store, register: Register, jobs: JobStore, sent: Sent
) -> None:
    register.announce(announcement("d"))
    at_work = scheduler(settings, client, store, sent)
    ids = queue(jobs, register, "s", models=MANY)
    assert at_work.wait()
    at_work.hurry()
    assert sent.take() == [(ids[0], "d"), (ids[1], "d")]


def test_a_device_that_stands_otherwise_than_at_the_last_pass_is_left_to_the_next(
    settings: Settings, client: redis.Redis, store: Store, register: Register, jobs: JobStore, sent: Sent
) -> None:
    for device in "abc":
        register.announce(announcement(device))
    at_work = scheduler(settings, client, store, sent)
    register.announce(announcement("new"))
    register.set_state("a", "drained", "fan")
    client.hset("farm:device:b", "canary_asked", "due")
    client.rpush("farm:failed:c", "some-job")
    queue(jobs, register, "s", models=MANY)
    at_work.hurry()
    assert sent.take() == []
    at_work.tick()
    assert {device for _, device in sent.take()} == {"b", "c", "new"}


def test_a_pass_in_a_hurry_fills_no_busy_device(
    settings: Settings,
    client: redis.Redis,
    store: Store,
    register: Register,
    jobs: JobStore,
    sent: Sent,
    claim: Callable[..., Claim],
) -> None:
    register.announce(announcement("d"))
    at_work = scheduler(settings, client, store, sent)
    (first,) = queue(jobs, register, "one")
    at_work.hurry()
    claim(first, "d")
    queue(jobs, register, "more", models=MANY)
    sent.take()
    at_work.hurry()
    assert sent.take() == []


def test_an_idle_scheduler_sleeps(
    settings: Settings, client: redis.Redis, store: Store, register: Register, sent: Sent
) -> None:
    """It blocks on its key, and asks little of Redis when nothing has happened."""
    for i in range(20):
        register.announce(announcement(f"d{i:02d}"))
    at_work = scheduler(settings, client, store, sent)
    while at_work.wait():
        at_work.tick()
    began, used = time.monotonic(), time.process_time()
    assert not at_work.wait()
    slept_s, used_s = time.monotonic() - began, time.process_time() - used
    assert slept_s > 0.9
    assert used_s < 0.1 * slept_s, "it must not poll"
    before = client.info("stats")["total_commands_processed"]
    at_work.tick()
    assert client.info("stats")["total_commands_processed"] - before < 300


def test_a_pass_costs_one_look_at_all_lines_however_many_jobs_it_sends(
    client: redis.Redis, register: Register, jobs: JobStore, sent: Sent
) -> None:
    for i in range(8):
        register.announce(announcement(f"d{i}"))
    for name in ("one", "two", "three"):
        queue(jobs, register, name, models=MANY)
    client.config_resetstat()
    report = one_pass(jobs, register, sent, 2)
    assert len(report.sent) == 16
    # One look, one dispatch for each job; twice as many where the server has not seen the scripts.
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] <= 1 + 16 + 2
    assert {view.state for view in jobs.window("d0")} == {JobState.DISPATCHED}


def test_in_a_hurry_three_round_trips_lie_between_a_change_and_the_job_that_goes(
    settings: Settings,
    client: redis.Redis,
    store: Store,
    register: Register,
    jobs: JobStore,
    sent: Sent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register.announce(announcement("d"))
    at_work = scheduler(settings, client, store, sent)
    ids = queue(jobs, register, "s")
    trips: list[str] = []
    ask, execute = redis.Redis.execute_command, redis.client.Pipeline.execute
    monkeypatch.setattr(redis.Redis, "execute_command", lambda *a, **k: trips.append(str(a[1])) or ask(*a, **k))
    monkeypatch.setattr(redis.client.Pipeline, "execute", lambda *a, **k: trips.append("pipeline") or execute(*a, **k))
    at_work.hurry()
    assert sent.take() == [(ids[0], "d")]
    assert trips == ["pipeline", "pipeline", "EVALSHA"], "the devices, what they hold with all lines, the dispatch"


def test_a_server_that_forgot_its_scripts_is_told_them_again(
    settings: Settings, client: redis.Redis, store: Store, register: Register, jobs: JobStore, sent: Sent
) -> None:
    register.announce(announcement("d"))
    at_work = scheduler(settings, client, store, sent)
    ids = queue(jobs, register, "s")
    client.script_flush()
    at_work.hurry()
    assert sent.take() == [(ids[0], "d")]


def test_a_message_goes_with_the_dispatch_and_only_with_one(client: redis.Redis, register: Register) -> None:
    jobs = JobStore(client, lambda job_id, queue, name: f"{job_id} {queue} {name}")
    register.announce(announcement("d"))
    ids = queue(jobs, register, "s", models=MANY)
    (head,) = jobs.heads()
    first = jobs.dispatch_head(head, "d")
    assert (first.done, first.sent) == (True, True)
    assert client.lrange("dev.d", 0, -1) == [f"{ids[0]} dev.d {first.name}"]
    again = jobs.dispatch_head(head, "d")
    assert (again.done, again.sent) == (False, False)
    assert client.llen("dev.d") == 1
    assert first.behind is not None
    assert jobs.dispatch_head(first.behind, "d").sent
    assert client.lindex("dev.d", 0) == f"{ids[1]} dev.d {first.behind.name}"
