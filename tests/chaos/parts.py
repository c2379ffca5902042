# SPDX-License-Identifier: Apache-2.0
"""The processes of the farm under test: the parts that are started again when they die, and a worker's descendants."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from farm.settings import Settings
from tests.chaos.proxy import Proxy
from workers.daemon.stragglers import RUN_ENV

ROOT = Path(__file__).parents[2]
_RESTART_AFTER_S = 0.3


@dataclass
class Part:
    """A process of the farm. `held`: it stays down until somebody lets it go."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    held: bool = False
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    _dead_since: float | None = None

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def spawn(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.starts += 1
        self._dead_since = None

    def keep_alive(self) -> None:
        """Start it again a moment after it ended."""
        if self.held or self.alive():
            return
        now = time.monotonic()
        self._dead_since = self._dead_since or now
        if now - self._dead_since >= _RESTART_AFTER_S:
            self.spawn()

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.process is not None and self.alive():
            self.process.send_signal(number)


@dataclass
class Worker:
    """A worker, its device, and its way to Redis."""

    part: Part
    proxy: Proxy
    settings: Settings
    device_id: str
    clock: Path

    def main(self) -> psutil.Process | None:
        """Celery's main process."""
        return _process(self.part.process.pid) if self.part.process and self.part.alive() else None

    def child(self) -> psutil.Process | None:
        """The pool's one process, which runs the jobs."""
        return _first(_children(self.main()), lambda _: True)

    def supervisor(self) -> psutil.Process | None:
        """The supervisor of the runner at work."""
        runner = self.runner()
        with contextlib.suppress(psutil.Error):
            return runner.parent() if runner else None
        return None

    def runner(self) -> psutil.Process | None:
        """The runner at work: started afresh or forked, it is the first to have the run's mark."""
        return _first(_descendants(self.child()), lambda p: RUN_ENV in p.environ())

    def grandchild(self) -> psutil.Process | None:
        """A process that the runner has started."""
        return _first(_children(self.runner()), lambda _: True)

    def everything(self) -> list[psutil.Process]:
        """All processes of this worker's host."""
        main = self.main()
        with contextlib.suppress(psutil.Error):
            return [main, *main.children(recursive=True)] if main else []
        return []


def _process(pid: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid)
    return None


def _children(process: psutil.Process | None) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children() if process else []
    return []


def _descendants(process: psutil.Process | None) -> list[psutil.Process]:
    """Its children, then theirs: a parent is always before its own."""
    found = _children(process)
    for each in found:
        found += _children(each)
    return found


def _first(processes: list[psutil.Process], fits: Callable[[psutil.Process], bool]) -> psutil.Process | None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and fits(process):
                return process
    return None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
