# SPDX-License-Identifier: Apache-2.0
"""A worker as its operator sees it: a process that serves one device, survives, refuses, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery

from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url
from farm.broker.embedded import EmbeddedBroker
from farm.broker.jobs import JobState, JobStore, JobView
from farm.broker.register import TAKEN_FOR_S, DeviceEntry, Register
from farm.contract.job import JobSpec
from farm.contract.names import EVENTS_FILE, TASK_RUN_JOB, device_queue
from farm.contract.outcome import Outcome
from farm.settings import Settings
from farm.store import Store
from scheduler.reconcile import settle
from tests.workers.support import fake_job, is_alive, marked, wait_until
from workers.daemon.host import boot_id
from workers.daemon.lock import Holder, device_lock_path, hold
from workers.daemon.probe import find_device

pytestmark = pytest.mark.long
SERVE = [
    sys.executable,
    "-c",
    "from workers.daemon.serve import serve; from farm.settings import *; serve(load_settings())",
]


class Host:
    """A farm's host: a broker, a store, and workers that are started and killed at will."""

    def __init__(self, settings: Settings, client: redis.Redis, log: Path) -> None:
        self.settings = settings
        self.device = find_device(settings).device_id
        self.client = client
        self.jobs = JobStore(client)
        self.register = Register(client)
        self.store = Store(settings.store_dir)
        self.store.create()
        self.log = log
        self.celery: Celery = make_app(settings, broker_url(settings))
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        # An interpreter without torch: a stack that is probed in a moment.
        stacks = {"default": {"python": str(Path(sys._base_executable).resolve())}}  # type: ignore[attr-defined]
        return os.environ | self.settings.environment() | {"FARM_STACKS": json.dumps(stacks)}

    def start(self) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it has announced its device."""
        with self.log.open("ab") as log:
            worker = subprocess.Popen(SERVE, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.workers.append(worker)

        def is_online() -> bool:
            assert worker.poll() is None, self.log.read_text()
            return any(entry.online and entry.announcement.pid == worker.pid for entry in self.register.devices())

        wait_until(is_online, "online worker")
        return worker

    def child_of(self, worker: subprocess.Popen[bytes]) -> int:
        """The pool process of a worker."""
        children = psutil.Process(worker.pid).children()
        assert len(children) == 1
        return int(children[0].pid)

    def submit(self, job: JobSpec) -> None:
        self.jobs.submit(job.sweep_id, job.sweep_name, 5, [job])
        self.send(job.job_id)

    def send(self, job_id: str, **options: Any) -> None:
        self.jobs.dispatch(job_id, self.device)
        self.celery.send_task(TASK_RUN_JOB, [job_id], queue=device_queue(self.device), **options)

    def job(self, job_id: str) -> JobView:
        view = self.jobs.get(job_id)
        assert view is not None
        return view

    def wait(self, job_id: str, state: JobState, limit_s: float = 180) -> JobView:
        wait_until(lambda: self.job(job_id).state is state, f"{job_id} {state}", limit_s)
        return self.job(job_id)

    def in_stage(self, job_id: str, stage: str) -> None:
        wait_until(lambda: self.job(job_id).progress.get("stage") == stage, f"{job_id} in {stage}")

    def entry(self) -> DeviceEntry:
        (entry,) = self.register.devices()
        return entry

    def runners(self) -> list[int]:
        return marked(f"INFERFARM_LOCK={device_lock_path(self.settings.lock_dir, self.device)}")


@pytest.fixture
def host(settings: Settings, broker: EmbeddedBroker, client: redis.Redis, tmp_path: Path) -> Iterator[Host]:
    settings.lease_s = 60.0
    host = Host(settings, client, tmp_path / "worker.log")
    yield host
    for worker in host.workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait(timeout=120)
    wait_until(lambda: host.runners() == [], "end of all runners")


def test_a_worker_serves_announces_and_ends_with_its_job_finished(host: Host) -> None:
    worker = host.start()
    entry = host.entry()
    assert entry.announcement.device.device_id == host.device
    assert [stack.name for stack in entry.announcement.stacks] == ["default"]
    host.submit(fake_job("a", host.device, (1, 2)))
    view = host.wait("a", JobState.DONE)
    assert view.summary["outcomes"] == {"ok": 2}
    host.submit(fake_job("b", host.device, latency_ms=100.0))
    host.in_stage("b", "measure")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=120) == 0
    assert host.job("b").state is JobState.DONE
    assert not host.entry().online
    records = [record for record in host.store.records.iterate()]
    assert len(records) == 3
    assert all("git_revision" in record.provenance for record in records)  # type: ignore[union-attr]


def test_a_worker_told_to_end_hands_its_job_back_when_the_limit_is_over(host: Host) -> None:
    host.settings.drain_limit_s = 0.5
    worker = host.start()
    host.submit(fake_job("long", host.device, latency_ms=4000.0))
    host.in_stage("long", "measure")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=120) == 0
    view = host.job("long")
    assert (view.state, view.attempt, view.reason) == (
        JobState.QUEUED,
        0,
        "its worker was told to end, or its device to stand still",
    )
    assert host.runners() == []
    assert list(host.store.records.iterate()) == []
    host.settings.drain_limit_s = None
    host.start()
    host.submit(fake_job("short", host.device))
    host.wait("short", JobState.DONE)


@pytest.mark.alone
def test_the_device_is_free_within_5_s_of_a_cancellation_also_from_a_job_that_will_not_end(host: Host) -> None:
    host.start()
    host.submit(fake_job("deaf", host.device, behaviour="ignore_sigterm"))
    host.in_stage("deaf", "measure")
    path = device_lock_path(host.settings.lock_dir, host.device)
    host.jobs.cancel("deaf")
    with hold(path, Holder(os.getpid(), "test", "", 0.0), wait_s=5.0):
        assert host.runners() == []
    assert host.wait("deaf", JobState.CANCELLED).summary["outcomes"] == {"cancelled": 1}


def test_a_second_worker_for_the_device_is_refused_and_told_of_the_first(host: Host) -> None:
    first = host.start()
    second = subprocess.run(SERVE, env=host.environment, capture_output=True, text=True, timeout=120)
    assert second.returncode != 0
    assert f"{host.device} has a worker already: process {first.pid}" in second.stderr
    through_celery = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker"],
        env=host.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert through_celery.returncode == 3
    assert "has a worker already" in through_celery.stderr
    assert "Stop the other one" in through_celery.stderr
    assert first.poll() is None


def test_a_worker_of_a_release_too_far_back_takes_no_job_and_does_not_start_again(
    host: Host, client: redis.Redis
) -> None:
    worker = host.start()
    client.set("farm:scheduler", json.dumps({"version": "0.7.0"}))
    job = fake_job("too-new", host.device)
    host.submit(job)
    wait_until(lambda: "not run: the controller has inferfarm 0.7.0" in host.log.read_text(), "the refusal")
    assert host.job(job.job_id).state is JobState.DISPATCHED
    wait_until(lambda: "cannot be announced: the controller has" in host.log.read_text(), "the silence")
    worker.terminate()
    assert worker.wait(timeout=120) == 0
    again = subprocess.run(SERVE, env=host.environment, capture_output=True, text=True, timeout=120)
    assert again.returncode != 0 and "Upgrade the worker to 0.7" in again.stderr


def test_a_killed_worker_s_tree_dies_and_the_next_worker_does_its_job(host: Host) -> None:
    host.settings.lease_s = 3600.0
    worker = host.start()
    host.submit(fake_job("a", host.device, (1, 2), latency_ms=200.0))
    wait_until(lambda: host.job("a").progress.get("point") == 2, "second point")
    runners = wait_until(host.runners, "runner")
    worker.kill()
    worker.wait(timeout=120)
    wait_until(lambda: not any(map(is_alive, runners)), "end of the tree")
    host.start()
    wait_until(lambda: ("a", JobState.QUEUED) in host.jobs.reap(3), "the job's return, long before its lease ends")
    host.send("a")
    view = host.wait("a", JobState.DONE)
    assert (view.attempt, view.summary["outcomes"]) == (2, {"ok": 2})
    attempts = {record.batch_size: record.attempt for record in host.store.records.iterate()}  # type: ignore[union-attr]
    assert attempts == {1: 1, 2: 2}


def test_a_worker_killed_between_processes_makes_that_point_anew_and_no_other(host: Host) -> None:
    worker = host.start()
    job = fake_job("a", host.device, (1, 2), latency_ms=60.0, switches={"processes": 3})
    host.submit(job)

    def in_the_middle() -> bool:
        at = host.job("a").progress
        return at.get("point") == 2 and at.get("process") in ("process 2 of 3", "process 3 of 3")

    wait_until(in_the_middle, "a later process of the second point")
    worker.kill()
    worker.wait(timeout=120)
    host.start()
    wait_until(lambda: ("a", JobState.QUEUED) in host.jobs.reap(3), "the job's return")
    host.send("a")
    assert host.wait("a", JobState.DONE).summary["outcomes"] == {"ok": 2}
    first, second = (host.store.records.read(job.run_id(size)) for size in (1, 2))
    assert (first.attempt, second.attempt) == (1, 2)
    assert [len(record.processes) for record in (first, second)] == [3, 3]
    assert second.processes[0].started_at > first.finished_at
    assert list(host.store.verify()) == []


def test_a_killed_pool_process_costs_seconds_and_the_worker_goes_on(host: Host) -> None:
    worker = host.start()
    host.submit(fake_job("a", host.device, latency_ms=200.0))
    host.in_stage("a", "measure")
    runners = wait_until(host.runners, "runner")
    os.kill(host.child_of(worker), signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, runners)), "end of the tree")
    wait_until(lambda: ("a", JobState.QUEUED) in host.jobs.reap(3), "the job's return")
    assert worker.poll() is None
    host.send("a")
    assert host.wait("a", JobState.DONE).attempt == 2


def test_repeated_late_and_hostile_messages_do_no_harm(host: Host, client: redis.Redis) -> None:
    host.start()
    job = fake_job("a", host.device)
    host.jobs.submit(job.sweep_id, job.sweep_name, 5, [job])
    link = host.celery.signature("other.task", args=["stolen"], queue="elsewhere", immutable=True)
    host.send("a", link=link, link_error=link)
    for job_id in ("a", "a", "unknown", "../../etc", ""):
        host.send(job_id)
    queue = device_queue(host.device)
    for arguments in ([["not", "a", "text"]], [], ["a", "b"]):
        host.celery.send_task(TASK_RUN_JOB, arguments, queue=queue, link=link, link_error=link)
    host.celery.send_task("celery.chain", [], queue=queue)
    host.submit(fake_job("b", host.device))
    host.wait("b", JobState.DONE)
    assert host.job("a").attempt == 1
    assert host.job("a").state is JobState.DONE
    assert client.llen("elsewhere") == 0
    assert len(list(host.store.records.iterate())) == 2


def test_a_broker_that_restarts_between_jobs_is_found_again(
    host: Host, broker: EmbeddedBroker, settings: Settings, client: redis.Redis
) -> None:
    worker = host.start()
    host.submit(fake_job("a", host.device))
    host.wait("a", JobState.DONE)
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    host.submit(fake_job("b", host.device))
    host.wait("b", JobState.DONE)
    assert worker.poll() is None


def test_celery_s_own_commands_work_and_know_one_task(host: Host) -> None:
    host.start()
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "inspect", "registered", "--json", "--timeout", "8"],
        env=host.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    ((name, tasks),) = json.loads(done.stdout).items()
    assert name.startswith(f"{host.device}@")
    assert tasks == [TASK_RUN_JOB]


def test_progress_reaches_those_who_listen_to_events(host: Host) -> None:
    seen: list[dict[str, Any]] = []
    host.start()
    with host.celery.connection() as connection:
        receiver = host.celery.events.Receiver(connection, handlers={"*": seen.append})

        def listen() -> None:
            for _ in receiver.consume(limit=None, timeout=120, wakeup=True):
                if any(event["type"] == "task-succeeded" for event in seen):
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        wait_until(lambda: any(event["type"] == "worker-heartbeat" for event in seen), "heartbeat")
        host.submit(fake_job("a", host.device, latency_ms=50.0))
        listener.join(timeout=120)
    assert any(event["type"] == "task-started" and event.get("name") == "nothing/fake/fp32" for event in seen)
    assert any(event["type"] == "task-progress" and "'stage': 'measure'" in event["kwargs"] for event in seen)


def test_without_a_broker_the_application_says_so(settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "inspect", "ping"],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "no broker: FARM_BROKER_URL is not set" in done.stdout + done.stderr


@contextmanager
def namesake(host: Host) -> Iterator[None]:
    """Another machine that announces this host's device, as often as it is asked whether it lives."""
    over = threading.Event()

    def announce() -> None:
        key = f"farm:device:{host.device}"
        while not over.wait(0.05):
            host.client.hset(key, mapping={"machine": "another boot", "seen": int(time.time() * 1000)})

    beat = threading.Thread(target=announce)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()


def test_a_worker_whose_device_another_machine_serves_does_not_start(host: Host) -> None:
    with namesake(host):
        done = subprocess.run(SERVE, env=host.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"device {host.device} is served by another machine of this name" in done.stderr


def test_a_worker_ends_when_another_machine_takes_its_name_and_its_job_goes_back(host: Host) -> None:
    worker = host.start()
    host.submit(fake_job("a", host.device, latency_ms=1000.0))
    host.in_stage("a", "measure")
    with namesake(host):
        assert worker.wait(timeout=60) != 0
        host.wait("a", JobState.QUEUED)
    assert "is served by another machine of this name" in host.log.read_text()
    assert not host.client.hexists(f"farm:device:{host.device}", "withdrawn"), "it is the other's to withdraw"


def test_after_a_power_cut_a_worker_waits_only_until_its_former_boot_is_silent(host: Host) -> None:
    host.start().kill()
    host.workers[0].wait(timeout=20)
    key, silent_ms = f"farm:device:{host.device}", int(TAKEN_FOR_S * 1000) - 1500
    host.client.hset(key, mapping={"machine": "former boot", "seen": int(time.time() * 1000) - silent_ms})
    host.start()
    assert host.register.elsewhere(host.device, boot_id()) is None
    assert host.register.elsewhere(host.device, "former boot") is not None


def test_importing_the_application_needs_nothing(settings: Settings) -> None:
    done = subprocess.run([sys.executable, "-c", "import workers.app"], timeout=120, cwd="/", check=False)
    assert done.returncode == 0


def test_a_job_that_kills_its_worker_twice_leaves_the_logs_of_both_attempts_in_its_record(host: Host) -> None:
    worker = host.start()
    job = fake_job("a", host.device, latency_ms=200.0)
    host.submit(job)
    for attempt in (1, 2):
        events = host.settings.work_dir / host.device / f"a-a{attempt}" / job.run_id(1) / EVENTS_FILE
        wait_until(lambda at=events: at.exists() and "measure" in at.read_text(), "the attempt")  # type: ignore[misc]
        os.kill(host.child_of(worker), signal.SIGKILL)
        state = JobState.QUEUED if attempt == 1 else JobState.QUARANTINED
        end = ("a", state)
        wait_until(lambda end=end: end in host.jobs.reap(3), "its end")  # type: ignore[misc]
        settle(host.jobs, host.store, 0.0)
        if attempt == 1:
            host.send("a")
    assert settle(host.jobs, host.store) == 0
    record = host.store.records.read(job.run_id(None))
    assert record.failure is not None
    assert (record.outcome, record.failure.reference) == (Outcome.LOST, "killed-its-worker")
    kinds = [row.kind for row in host.store.artifacts(run_id=record.run_id)]
    assert kinds == ["failure:attempt-1", "failure:attempt-2", "log:attempt-1", "log:attempt-2"]
    for ref in record.artifacts:
        data = host.store.blobs.read(ref.sha256)
        if ref.kind.startswith("log:"):
            assert f"== {job.run_id(1)}\n".encode() in data
        else:
            facts = json.loads(data)
            assert facts["attempt"] == int(ref.kind[-1])
            assert facts["runs"][-1]["run_id"] == job.run_id(1)
            assert facts["runs"][-1]["last_stage"] == "measure"
    assert list(host.store.verify()) == []
    assert not list(host.settings.work_dir.glob("*/*"))
