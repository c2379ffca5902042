# SPDX-License-Identifier: Apache-2.0
"""The scheduler as a process of its own, against a real broker."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from farm.broker.connection import broker_url, connect
from farm.broker.embedded import EmbeddedBroker
from farm.broker.jobs import JobState, JobStore
from farm.broker.register import Register
from farm.settings import Settings
from farm.store import Store
from scheduler.leader import KEY, Leader
from scheduler.submit import submit
from tests.scheduler.conftest import announcement, make_spec, states

CODE = """
import sys
from farm.errors import FarmError
from farm.settings import load_settings
from scheduler.main import serve
try:
    serve(load_settings())
except FarmError as error:
    print(error.message, error.hint, file=sys.stderr)
    sys.exit(error.exit_code)
"""

Start = Callable[[], subprocess.Popen[str]]


def until(condition: Callable[[], object], what: str, limit_s: float = 180) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        time.sleep(0.02)
    pytest.fail(f"{what}: not within {limit_s} s")


@pytest.fixture
def client(broker: EmbeddedBroker, settings: Settings) -> Iterator[redis.Redis]:
    """A connection to a server of this test's own: some of these tests stop it."""
    connection = connect(settings)
    yield connection
    connection.close()


@pytest.fixture
def start(settings: Settings, broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Start]:
    """Start a scheduler and wait until it is at work, or has ended; its log is in `tmp_path`."""
    started: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        log = tmp_path / f"scheduler-{len(started)}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", CODE], env=os.environ | settings.environment(), stderr=stderr, text=True
            )
        started.append(process)
        until(lambda: "at work" in log.read_text() or process.poll() is not None, "a scheduler at work")
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=120)


@pytest.fixture
def ready(client: redis.Redis, settings: Settings) -> Store:
    """A store, and a device that waits for work."""
    store = Store(settings.store_dir)
    store.create()
    Register(client).announce(announcement("d"))
    return store


def put(client: redis.Redis, store: Store, name: str = "tiny", **keys: str) -> str:
    return submit(make_spec(name, **keys), store=store, jobs=JobStore(client), register=Register(client)).sweep_id


def test_a_submitted_job_is_sent_as_a_message_that_only_names_it(
    start: Start, client: redis.Redis, ready: Store
) -> None:
    start()
    sweep_id = put(client, ready)
    until(lambda: client.llen("dev.d"), "a message")
    message = json.loads(client.lindex("dev.d", 0))  # type: ignore[arg-type]
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    (view,) = JobStore(client).sweep_jobs(sweep_id)
    assert view.state is JobState.DISPATCHED
    assert (args, kwargs) == ([view.job_id], {})
    assert message["headers"]["task"] == "workers.run_job"
    assert message["headers"]["shadow"] == "resnet18/fake/fp32"
    assert message["headers"]["ignore_result"] is True


def test_sigterm_ends_it_cleanly_and_a_successor_may_start_at_once(
    start: Start, client: redis.Redis, ready: Store
) -> None:
    first = start()
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) == 0
    assert client.get(KEY) is None
    second = start()
    second.send_signal(signal.SIGINT)
    assert second.wait(timeout=120) == 0


def test_a_second_scheduler_is_told_who_is_at_work_and_ends_with_3(
    start: Start, client: redis.Redis, ready: Store, tmp_path: Path
) -> None:
    first, second = start(), start()
    assert second.wait(timeout=120) == 3
    assert f"process {first.pid} on" in (tmp_path / "scheduler-1.log").read_text()
    assert first.poll() is None


def test_the_lock_of_a_killed_scheduler_is_taken_over_at_once(start: Start, client: redis.Redis, ready: Store) -> None:
    first = start()
    first.kill()
    first.wait(timeout=120)
    assert client.get(KEY) is not None
    assert start().poll() is None


def test_a_lock_held_from_another_host_is_respected_until_it_ends(client: redis.Redis) -> None:
    other = json.dumps({"token": "t", "pid": 1, "host": ["elsewhere", "pid:[1]"]})
    client.set(KEY, other, px=60_000)
    with pytest.raises(Exception, match="process 1 on elsewhere"):
        Leader(client).hold()
    client.pexpire(KEY, 100)
    until(lambda: client.get(KEY) is None, "the end of the lock")
    leader = Leader(client)
    leader.hold()
    leader.hold()
    leader.free()
    assert client.get(KEY) is None


def test_it_outlives_a_restart_of_the_broker_and_goes_on(
    start: Start, settings: Settings, broker: EmbeddedBroker, client: redis.Redis, ready: Store, tmp_path: Path
) -> None:
    process = start()
    put(client, ready, "before")
    until(lambda: client.llen("dev.d") == 1, "the first message")
    broker.stop()
    until(lambda: "broker is away" in (tmp_path / "scheduler-0.log").read_text(), "a word about the broker")
    broker.start()
    fresh = connect(settings, url=broker_url(settings))
    until(lambda: "broker is back" in (tmp_path / "scheduler-0.log").read_text(), "recovery")
    put(fresh, ready, "after")
    until(lambda: fresh.llen("dev.d") == 2, "the second message")
    assert process.poll() is None
    fresh.close()


def test_after_redis_lost_everything_the_stored_sweeps_are_queued_again(
    start: Start, client: redis.Redis, ready: Store
) -> None:
    start()
    sweep_id = put(client, ready, models="[resnet18, resnet34, resnet50]")
    until(lambda: client.llen("dev.d"), "a message")
    client.flushall()
    until(lambda: len(states(JobStore(client), sweep_id)) == 3, "the jobs")
    assert set(states(JobStore(client), sweep_id)) == {JobState.QUEUED}
    Register(client).announce(announcement("d"))
    until(lambda: JobState.DISPATCHED in states(JobStore(client), sweep_id), "dispatch once the device is back")


def test_a_drained_device_loses_what_it_has_not_started_and_gets_it_back(
    start: Start, client: redis.Redis, ready: Store
) -> None:
    start()
    sweep_id = put(client, ready)
    jobs, register = JobStore(client), Register(client)
    until(lambda: states(jobs, sweep_id) == [JobState.DISPATCHED], "dispatch")
    register.set_state("d", "drained", "maintenance")
    until(lambda: states(jobs, sweep_id) == [JobState.QUEUED], "recall")
    register.set_state("d", "ready", None)
    until(lambda: states(jobs, sweep_id) == [JobState.DISPATCHED], "dispatch")


def test_an_idle_scheduler_hardly_uses_the_processor(start: Start, client: redis.Redis, ready: Store) -> None:
    process = psutil.Process(start().pid)

    def spent() -> tuple[float, int]:
        return sum(process.cpu_times()[:2]), client.info("stats")["total_commands_processed"]

    def quiet(window_s: float = 2.5) -> bool:
        """One window without work; the first ones still hold the start, longer on a busy machine."""
        (cpu_s, calls), begin = spent(), time.monotonic()
        until(lambda: time.monotonic() - begin > window_s, "the end of the window")
        later_s, later = spent()
        return later_s - cpu_s < 0.5 and later - calls < 80

    until(lambda: client.exists("farm:rebuilt"), "its first tick")
    until(quiet, "a quiet window")


def test_a_held_lock_is_not_written_again_at_every_turn(client: redis.Redis) -> None:
    leader = Leader(client, ttl_s=20.0)
    leader.keep()
    left_ms = client.pttl(KEY)
    writes = client.info("stats")["total_commands_processed"]
    for _ in range(5):
        leader.keep()
    assert client.info("stats")["total_commands_processed"] == writes + 1, "nothing but this question itself"
    assert 0 < left_ms <= 20_000


def test_a_lock_that_may_be_lost_is_taken_again_at_once(client: redis.Redis) -> None:
    leader = Leader(client, ttl_s=20.0)
    leader.keep()
    client.delete(KEY)
    leader.keep(sure=False)
    assert client.exists(KEY)


def test_a_lock_is_renewed_when_a_sixth_of_its_time_has_passed(client: redis.Redis) -> None:
    leader = Leader(client, ttl_s=0.6)
    leader.keep()
    client.delete(KEY)
    until(lambda: leader.keep() or client.exists(KEY), "the lock to be taken again")
