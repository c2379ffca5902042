# SPDX-License-Identifier: Apache-2.0
"""A whole farm on this machine: embedded broker, scheduler, workers, and Flower if asked, as child processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from farm.broker.connection import connect, redact
from farm.broker.embedded import EmbeddedBroker
from farm.broker.register import Register
from farm.errors import UnavailableError
from farm.settings import Settings
from farm.store import Store

#: A worker probes its stacks first, and importing torch from a cold disk takes its time.
READY_LIMIT_S = 180.0
_PR_SET_PDEATHSIG = 1


@dataclass
class Part:
    """One child process of a local farm."""

    name: str
    argv: list[str]
    log: Path
    is_worker: bool = False
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None


@dataclass
class LocalFarm:
    """Start the parts, wait until they are ready, stop everything that was started. Use it as a context manager.

    Raises (from `start`):
        UnavailableError: a part did not come up; the message ends with its log.
    """

    settings: Settings
    flower: bool = False
    #: Canaries by themselves: for a farm that is kept running. One that measures a sweep and ends makes none.
    canary: bool = False
    listen: str = "127.0.0.1"
    say: Callable[[str], None] = lambda _text: None
    #: The devices to serve, one worker each; none named: one worker for the settings' choice.
    devices: Sequence[str] = ()
    parts: list[Part] = field(default_factory=list)
    _broker: EmbeddedBroker | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(at_once=kind is not None)

    def start(self) -> None:
        """Make the store where there is none, start all parts, wait for every worker to announce its device."""
        try:
            Store(self.settings.store_dir).create()
            if not self.settings.broker_url:
                self._broker = EmbeddedBroker(self.settings, listen=self.listen)
                self._broker.start()
                self.say("broker: " + redact(f"redis://{self.listen}:{self._broker.port}/0"))
            self._make_parts()
            for part in self.parts:
                self._spawn(part)
            self._wait_ready()
        except BaseException:
            self.stop(at_once=True)
            raise

    def stop(self, *, at_once: bool = False, limit_s: float = 600.0) -> None:
        """Stop all parts: workers finish their jobs first, unless `at_once`. Repeating it is harmless."""
        for part in reversed(self.parts):
            if part.alive() and part.process:
                part.process.send_signal(signal.SIGKILL if at_once and part.is_worker else signal.SIGTERM)
        for part in reversed(self.parts):
            _reap(part, limit_s)
        if self._broker is not None:
            self._broker.stop()

    def watch_over(self, stop: Callable[[], bool]) -> None:
        """Keep the parts running until `stop()`: a part that ends is started again, at most once in 5 s."""
        last: dict[str, float] = {}
        while not stop():
            for part in self.parts:
                if not part.alive() and time.monotonic() - last.get(part.name, -5.0) >= 5.0:
                    last[part.name] = time.monotonic()
                    part.restarts += 1
                    self.say(f"{part.name} ended; starting it again (log: {part.log})")
                    self._spawn(part)
            if self._broker is not None and not self._broker.alive():
                self.say("the broker ended; starting it again")
                self._broker.start()
            time.sleep(0.5)

    def _make_parts(self) -> None:
        farm = [sys.executable, "-m", "farm.cli.main"]
        logs = self.settings.run_dir
        self.parts = [Part("scheduler", [*farm, "scheduler"], logs / "scheduler.log")]
        for device in self.devices or (None,):
            name = f"worker-{device}" if device else "worker"
            argv = [*farm, "worker", *(["--device", device] if device else [])]
            self.parts.append(Part(name, argv, logs / f"{name}.log", is_worker=True))
        if self.flower:
            self.parts.append(Part("flower", [*farm, "flower"], logs / "flower.log"))

    def _spawn(self, part: Part) -> None:
        part.log.parent.mkdir(parents=True, exist_ok=True)
        with part.log.open("ab") as log:
            part.process = subprocess.Popen(
                part.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.settings.environment() | {"FARM_CANARY": str(self.canary)},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _wait_ready(self) -> None:
        client = connect(self.settings)
        self.say("worker: probing this machine's stacks" if len(self.devices) < 2 else f"workers: {len(self.devices)}")
        register, deadline = Register(client), time.monotonic() + READY_LIMIT_S
        while time.monotonic() < deadline:
            for part in self.parts:
                if not part.alive():
                    raise UnavailableError(f"the {part.name} did not start; {part.log} ends:\n{_tail(part.log)}")
            if self._online(register):
                return
            time.sleep(0.1)
        raise UnavailableError(
            f"not every device came online within {READY_LIMIT_S:.0f} s; see {self.settings.run_dir}"
        )

    def _online(self, register: Register) -> bool:
        try:
            entries = register.devices()
        except redis.RedisError:
            return False
        pids = {part.process.pid for part in self.parts if part.is_worker and part.process}
        return pids <= {entry.announcement.pid for entry in entries if entry.online}


def _reap(part: Part, limit_s: float) -> None:
    if part.process is None:
        return
    try:
        part.process.wait(timeout=limit_s if part.is_worker else 20.0)
    except subprocess.TimeoutExpired:
        part.process.kill()
        part.process.wait(timeout=20)


def _die_with_parent() -> None:
    """Ask the kernel to end the child when its parent dies, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _tail(path: Path, lines: int = 15) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"
