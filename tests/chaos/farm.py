# SPDX-License-Identifier: Apache-2.0
"""The farm under test: a real broker, scheduler, Celery workers and runners on this host, and hands to hurt them with.

Three workers, each with a host name, a home and a network path of its own. Whoever dies is started again, as systemd
would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
import redis

from farm.api import Farm
from farm.broker.connection import connect
from farm.broker.embedded import EmbeddedBroker
from farm.broker.jobs import JobStore
from farm.broker.register import Register
from farm.contract.names import device_queue
from farm.contract.record import Record
from farm.errors import FarmError
from farm.settings import Settings, WarmPolicy
from farm.store import Store
from farm.sweep import SweepSpec
from scheduler.expand import jobs_at
from tests.chaos.invariants import Fact, Job, Line, parse_log
from tests.chaos.parts import Part, Worker
from tests.chaos.proxy import Proxy

LEASE_S = 3.0
WORKERS = 3
#: An interpreter without torch: a stack that is probed in a moment.
_PYTHON = str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]


@dataclass
class ChaosFarm:
    """Use as a context manager; call `keep_alive` often."""

    base: Path
    warm_runners: WarmPolicy = "auto"
    settings: Settings = field(init=False)
    workers: list[Worker] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    proxies: list[Proxy] = field(default_factory=list)
    broker_held: bool = False

    def __post_init__(self) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(home=self.base / "home", store=self.base / "store", lock_dir=self.base / "locks")
        self.broker = EmbeddedBroker(self.settings)
        self._read_to = 0
        self.lines: list[Line] = []
        self.damaged: list[str] = []

    def __enter__(self) -> ChaosFarm:
        try:
            self.broker.start()
            Store(self.settings.store_dir).create()
            self.log.touch()
            scheduler = self._part("scheduler", ["scheduler"], self._settings("scheduler"), self._proxy())
            self.parts.append(scheduler)
            for number in range(1, WORKERS + 1):
                self.workers.append(self._worker(number))
            for part in self.parts:
                part.spawn()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> Path:
        """What the runners write as they run."""
        return self.base / "executions.jsonl"

    @property
    def full(self) -> Path:
        """While this file exists, the store's disk is full."""
        return self.base / "disk-full"

    @property
    def scheduler(self) -> Part:
        """The scheduler."""
        return self.parts[0]

    @property
    def devices(self) -> list[str]:
        """The devices' ids."""
        return [worker.device_id for worker in self.workers]

    @cached_property
    def client(self) -> redis.Redis:
        """The suite's own connection, straight to Redis; it opens again by itself."""
        return connect(self.settings)

    @property
    def jobs(self) -> JobStore:
        """The job states."""
        return JobStore(self.client)

    @cached_property
    def api(self) -> Farm:
        """The farm as people use it, with a connection of its own."""
        return Farm(self.settings)

    def keep_alive(self) -> None:
        """Start again what has died."""
        if not self.broker_held and not self.broker.alive():
            self.start_broker()
        for part in self.parts:
            part.keep_alive()

    def start_broker(self) -> None:
        """Start Redis again on its append-only file; the proxies know it by its port."""
        self.broker.start()
        for proxy in self.proxies:
            proxy.target_port = self.broker.port

    def kill_broker(self) -> None:
        """SIGKILL Redis."""
        if self.broker.pid is not None:
            os.kill(self.broker.pid, signal.SIGKILL)
            while self.broker.alive():
                time.sleep(0.005)

    def online(self) -> bool:
        """Whether every device is announced."""
        with contextlib.suppress(redis.RedisError):
            return set(self.devices) <= {entry.device_id for entry in Register(self.client).devices() if entry.online}
        return False

    def queue(self, worker: Worker) -> str:
        """The Redis list that holds the messages to a worker."""
        return device_queue(worker.device_id)

    def write_kill(self, run_id: str, device: str, pid: int) -> None:
        """Put into the execution log that a run's process was killed: it may not have logged its start yet."""
        line = {"event": "kill", "run_id": run_id, "job_id": "", "device": device, "execution": "", "pid": pid}
        line |= {"monotonic_ns": time.monotonic_ns(), "boot": ""}
        with self.log.open("ab", buffering=0) as stream:
            stream.write(json.dumps(line).encode() + b"\n")

    def read_log(self) -> list[Line]:
        """The lines since the last call. A line without its end is left for the next."""
        with self.log.open("rb") as stream:
            stream.seek(self._read_to)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        lines, damaged = parse_log(whole.decode())
        self.lines += lines
        self.damaged += damaged
        return lines

    def submitted(self) -> list[Job]:
        """Every job of every sweep in the store."""
        return [
            Job(job.job_id, tuple(job.run_ids()), job.run_id(None))
            for document in Store(self.settings.store_dir).sweeps.list()
            for job in jobs_at(
                SweepSpec.from_document(document), document.get("places", ()), document.get("narrowed", {})
            )
        ]

    def facts(self) -> list[Fact]:
        """Every record in the store, by file: two of one run are two."""
        return [_fact(found) for found in Store(self.settings.store_dir).records.iterate()]

    def states(self) -> dict[str, str]:
        """What Redis says of each job that it knows."""
        return {
            view.job_id: str(view.state)
            for sweep in self.jobs.sweeps()
            for view in self.jobs.sweep_jobs(sweep.sweep_id)
        }

    def spooled(self) -> list[str]:
        """Files that wait in the workers' spools, or were given up there, and logs of lost attempts that wait."""
        spooled = [str(path) for worker in self.workers for path in _spool_files(worker.settings.spool_dir)]
        return spooled + [str(path) for worker in self.workers for path in worker.settings.work_dir.glob("*/*.lost")]

    def stop(self, limit_s: float) -> None:
        """End all parts but the broker as an operator would; kill what takes longer."""
        for part in self.parts:
            part.held = True
            part.signal(signal.SIGTERM)
        until = time.monotonic() + limit_s
        for part in self.parts:
            if part.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    part.process.wait(timeout=max(0.1, until - time.monotonic()))

    def kill(self) -> None:
        """End everything at once. Harmless when repeated."""
        for worker in self.workers:
            for process in worker.everything():
                with contextlib.suppress(psutil.Error):
                    process.kill()
        for part in self.parts:
            if part.process is not None:
                part.process.kill()
                part.process.wait(timeout=20)
        for process in left_processes(self):
            with contextlib.suppress(psutil.Error):
                process.kill()
        if "client" in self.__dict__:
            self.client.close()
        for proxy in self.proxies:
            proxy.close()
        self.broker.stop()

    def _settings(self, name: str) -> Settings:
        return Settings(
            home=self.base / name,
            store=self.settings.store_dir,
            lock_dir=self.settings.lock_dir,
            lease_s=LEASE_S,
            device_wait_s=20.0,
            telemetry_hz=0,
            idle_wait_s=0,
            cool_down_s=0,
            suspect_retries=0,
            warm_runners=self.warm_runners,
        )

    def _proxy(self) -> Proxy:
        proxy = Proxy(self.broker.port)
        self.proxies.append(proxy)
        return proxy

    def _worker(self, number: int) -> Worker:
        # The id holds this process's, so that two suites on one host do not take each other's runs for their own.
        host, proxy = f"chaos{os.getpid()}w{number}", self._proxy()
        settings = self._settings(host)
        if number == 1:
            # The others finish their job when they are told to end; this one hands it back.
            settings.drain_limit_s = 0.2
        part = self._part(f"worker-{number}", ["worker", host], settings, proxy)
        self.parts.append(part)
        return Worker(part, proxy, settings, f"{host}-cpu", Path(part.env["CHAOS_CLOCK"]))

    def _part(self, name: str, words: list[str], settings: Settings, proxy: Proxy) -> Part:
        stack = {"python": _PYTHON, "env": {"INFERFARM_FAKE_LOG": str(self.log)}}
        env = {key: value for key, value in os.environ.items() if not key.startswith("FARM_")}
        env |= settings.environment() | {
            "FARM_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "FARM_BROKER_PASSWORD_FILE": str(self.settings.home / "broker/password"),
            "FARM_STACKS": json.dumps({"default": stack}),
            "CHAOS_FULL": str(self.full),
            "CHAOS_CLOCK": str(self.base / f"{name}.clock"),
        }
        argv = [sys.executable, "-m", "tests.chaos.part", *words]
        return Part(name, argv, env, self.base / f"{name}.log")


def left_processes(farm: ChaosFarm) -> list[psutil.Process]:
    """Living processes of the farm, its broker and this one excepted: its directory is in their environment."""
    mark, own = str(farm.base).encode(), {os.getpid(), farm.broker.pid}
    return [p for p in psutil.process_iter() if p.pid not in own and mark in _environment(p.pid)]


def leftovers(farm: ChaosFarm) -> list[str]:
    """What should not be there after the farm has stopped: processes, held locks, spool and work files."""
    found = [f"process {one.pid} ({' '.join(_words(one))[:120]})" for one in left_processes(farm)]
    found += [f"lock {path} is held" for path in sorted(farm.settings.lock_dir.glob("*")) if _is_held(path)]
    found += [f"in a spool: {path}" for path in farm.spooled()]
    for worker in farm.workers:
        found += [f"in a work directory: {path}" for path in worker.settings.work_dir.glob("*/*")]
    return found


def held_in_redis(farm: ChaosFarm) -> list[str]:
    """Leases and windows that Redis still holds."""
    leases = [f"lease of job {job}" for job in farm.client.zrange("farm:leases", 0, -1)]
    windows = [f"{device}'s window holds {view.job_id}" for device in farm.devices for view in farm.jobs.window(device)]
    return leases + windows


def _fact(found: object) -> Fact:
    if not isinstance(found, Record):
        raise FarmError(f"a record of the store is damaged: {found}")
    token = found.effective.get("execution")
    return Fact(
        found.run_id,
        found.job.job_id,
        str(found.outcome),
        str(token) if token else None,
        found.device.device_id if found.device else None,
        found.failure.reference if found.failure else None,
        found.ladder_stop,
    )


def _spool_files(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (path for path in sorted(root.iterdir()) if path.name not in (".lock", ".putting"))


def _is_held(path: Path) -> bool:
    import fcntl

    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
