# SPDX-License-Identifier: Apache-2.0
"""How soon a job starts: on an idle worker, and behind another one; against Celery's own no-op on the same Redis.

Idle: from just before `submit` puts the job into Redis to the claim being granted, which is where its preflight
begins: submit, the scheduler's tick, dispatch, Celery's message, the worker, the claim. Busy: from the end of the last
runner of a job (its device does nothing from there) to the next job's claim, and from the job being done. The baseline
is a task that does nothing, sent with the same settings to a worker of the same kind (prefork, concurrency 1) on the
same server: from just before it is sent to its first line; and from its end to the first line of the next one.
    python -m benchmarks.speed.queue [--rounds N]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import redis

from benchmarks.speed.line import Line
from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url, connect
from farm.broker.jobs import JobStore, JobView
from farm.broker.register import Register
from farm.contract.job import BatchLadder, JobSpec, ModelSpec, Target
from farm.contract.protocols import PROTOCOLS
from farm.local import LocalFarm
from farm.settings import Settings, load_settings
from farm.store import Store

T = TypeVar("T")

TOPIC = "queue"
ROUNDS = 5
_TASK, _QUEUE, _STARTED = "noop", "noop", "bench:started"
_IDLE, _BUSY = 9, 8
_LIMIT_S = 120.0
#: Celery's worker drops a task of another name at a device's queue, so the baseline has a queue of its own.
_FAST = replace(
    PROTOCOLS["quick"], warmup_min_iterations=1, warmup_min_s=0.0, min_iterations=2, min_s=0.0, max_iterations=2
)


@dataclass(frozen=True)
class Round:
    """Medians of one round, in ms."""

    start: float
    celery_start: float
    after_done: float
    after_runner: float
    celery_next: float


def noop_worker() -> None:
    """The baseline's worker: the farm's Celery settings, one task that notes when it began and ended."""
    settings = load_settings()
    app = make_app(settings, broker_url(settings))
    clients: dict[int, redis.Redis] = {}

    @app.task(name=_TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def noop(_name: str) -> None:
        began = time.time()
        client = clients.setdefault(os.getpid(), clients.get(os.getpid()) or connect(settings))
        # Its end comes with the next one's start: a note more would be part of what is measured.
        client.rpush(_STARTED, json.dumps([began, time.time()]))

    app.worker_main(
        ["worker", "--concurrency=1", "--pool=prefork", "--without-gossip", "--without-mingle", "-Q", _QUEUE]
    )


@contextmanager
def _baseline(settings: Settings) -> Iterator[None]:
    argv = [sys.executable, "-m", "benchmarks.speed.queue", "--noop-worker"]
    with (settings.run_dir / "noop.log").open("wb") as log:
        worker = subprocess.Popen(argv, env=os.environ | settings.environment(), stdout=log, stderr=log)
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=30)


def _job(name: str, device_id: str) -> JobSpec:
    return JobSpec(
        job_id=name, sweep_id=f"sweep-{name}", sweep_name="queue", model=ModelSpec("nothing", "fake", (3, 8, 8)),
        workflow="fake", precision="fp32", batches=BatchLadder((1,)), protocol=_FAST,
        target=Target(device_id=device_id), options={"latency_ms": 1.0},
    )  # fmt: skip


class Bench:
    """A farm on this machine, and the baseline's worker beside it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._jobs = JobStore(self._client)
        self._device = Register(self._client).devices()[0].device_id
        self._app = make_app(settings, broker_url(settings))
        self._store = Store(settings.store_dir)
        self._names = (f"q{index}" for index in itertools.count())

    def round(self) -> Round:
        """Each of ours and the baseline's in turn, so that both see the same machine."""
        ours, theirs = [], []
        for _ in range(_IDLE):
            ours.append(self._start())
            theirs.append(self._celery([0])[0][0])
        after_done, after_runner = self._busy()
        chain = self._celery(range(_BUSY))
        gaps = [later[1] - earlier[2] for earlier, later in itertools.pairwise(chain)]
        medians = (statistics.median(values) * 1000 for values in (ours, theirs, after_done, after_runner, gaps))
        return Round(*medians)

    def warm_up(self) -> None:
        """Once each: connections, imports, the prepared model."""
        self._start()
        self._celery([0])

    def _start(self) -> float:
        name = next(self._names)
        job = _job(name, self._device)
        sent = time.time()
        self._jobs.submit(job.sweep_id, "queue", 5, [job])
        view = self._wait(lambda: self._ended(name))
        # Redis notes whole milliseconds, cut off: the start is taken for the end of that millisecond.
        return view.times["claimed"] + 0.001 - sent

    def _busy(self) -> tuple[list[float], list[float]]:
        names = [next(self._names) for _ in range(_BUSY)]
        jobs = [replace(_job(name, self._device), sweep_id=f"sweep-{names[0]}") for name in names]
        self._jobs.submit(jobs[0].sweep_id, "queue", 5, jobs)
        views = [self._wait(lambda name=name: self._ended(name)) for name in names]  # type: ignore[misc]
        views.sort(key=lambda view: view.times["claimed"])
        pairs = list(itertools.pairwise(views))
        done = [later.times["claimed"] + 0.001 - earlier.times["done"] for earlier, later in pairs]
        runner = [later.times["claimed"] + 0.001 - self._runner_end(earlier) for earlier, later in pairs]
        return done, runner

    def _runner_end(self, view: JobView) -> float:
        records = [self._store.records.read(run_id) for run_id in view.spec.run_ids()]
        return max(datetime.fromisoformat(record.finished_at).timestamp() for record in records)

    def _ended(self, name: str) -> JobView | None:
        view = self._jobs.get(name)
        return view if view is not None and view.state.ended else None

    def _celery(self, tasks: Sequence[int]) -> list[tuple[float, float, float]]:
        """For each task: seconds from its sending to its start, its start and its end."""
        self._client.delete(_STARTED)
        sent = []
        for index in tasks:
            sent.append(time.time())
            self._app.send_task(_TASK, args=[str(index)], queue=_QUEUE, ignore_result=True)
        self._wait(lambda: self._client.llen(_STARTED) == len(tasks))
        told = [json.loads(text) for text in self._client.lrange(_STARTED, 0, -1)]
        return [(began - at, began, ended) for at, (began, ended) in zip(sent, told, strict=True)]

    @staticmethod
    def _wait(condition: Callable[[], T | None]) -> T:
        until = time.monotonic() + _LIMIT_S
        while time.monotonic() < until:
            found = condition()
            if found:
                return found
            time.sleep(0.05)
        raise SystemExit(f"nothing came of it within {_LIMIT_S:.0f} s")


def measure(rounds: int) -> list[Line]:
    """The lines of the table."""
    stack = {"default": {"python": str(Path(sys.executable).resolve())}}
    with tempfile.TemporaryDirectory(prefix="farm-queue-") as directory:
        home = Path(directory)
        settings = Settings(
            home=home, lock_dir=home / "locks", canary=False, idle_wait_s=0, cool_down_s=0, suspect_retries=0,
            telemetry_hz=0, stacks=stack,
        )  # fmt: skip
        with LocalFarm(settings), _baseline(settings):
            bench = Bench(settings)
            bench.warm_up()
            found = [bench.round() for _ in range(rounds)]
    return _lines(found)


def _lines(found: Sequence[Round]) -> list[Line]:
    starts, celery = tuple(r.start for r in found), tuple(r.celery_start for r in found)
    noop = "Celery's no-op task, same server and settings"
    done, runner = tuple(r.after_done for r in found), tuple(r.after_runner for r in found)
    own = tuple(r.celery_next for r in found)
    return [
        Line(TOPIC, "idle worker: submit to start", "ms", starts, celery, noop, 2.0),
        Line(TOPIC, "idle worker: submit to start, held to 20 ms", "ms", starts, limit=20.0),
        Line(TOPIC, "busy device: records in the store to the next start (below 0: it had started)", "ms", done),
        Line(TOPIC, "busy device: last runner's end to the next start", "ms", runner, limit=50.0),
        Line(TOPIC, "one task's end to the next one's start, Celery alone", "ms", own),
    ]


def main() -> None:
    """Print the lines, or be the baseline's worker (used by itself)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--noop-worker", action="store_true")
    args = parser.parse_args()
    if args.noop_worker:
        noop_worker()
        return
    from benchmarks.speed.table import markdown

    print(markdown(measure(args.rounds), {}))


if __name__ == "__main__":
    main()
