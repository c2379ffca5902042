# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: UP045 - the codec reads typing's Optional
"""Start one runner under its supervisor, follow its stages, and end it when a stage takes too long.

The only module that builds the runner's environment: what the stack needs, no setting or secret of the farm.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, Optional, Protocol

from farm.contract.codec import DecodeError, from_json
from farm.contract.device import DeviceInfo
from farm.contract.run import StageTime
from workers.daemon import supervise
from workers.daemon.control import Control, EventFollower, bound_log
from workers.daemon.stages import Overdue, StageClock
from workers.daemon.warm_parent import RefusedError

#: How long a runner that was asked to end may take, before the whole tree is killed.
GRACE_S = 2.0
#: How long the supervisor may take to end a tree before the device counts as stuck.
END_LIMIT_S = 30.0

# The processor may itself be what is measured: look seldom, and more seldom still while the clock runs.
_POLL_S = 0.2
_POLL_MEASURE_S = 0.5

#: How the log and the record tell the two ways of starting a runner apart.
FRESH, FORKED = "fresh", "forked"

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")


class Process(Protocol):
    """A supervisor's process, however it was started."""

    pid: int

    @property
    def stdin(self) -> IO[bytes] | None:
        """Where it listens."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """What ends with it."""

    def wait(self, timeout: float) -> object:
        """Wait until it is gone; raises subprocess.TimeoutExpired."""


class Started(NamedTuple):
    """How a runner was started: `start` is `fresh` or `forked`; `why` tells why it is not forked."""

    start: str
    why: str | None = None


#: Forks a supervisor, given the descriptors of the device's lock and of the log. Raises RefusedError.
Fork = Callable[[int, int], Process]


@dataclass(frozen=True)
class Plan:
    """One runner to start. `deadline` is CLOCK_BOOTTIME seconds: past it the supervisor ends the run by itself.

    `fork`: forks it from a warm parent; None: it is started afresh, `why_fresh`.
    """

    python: str
    bundle: Path
    control: Control
    env: Mapping[str, str]
    limits_s: Mapping[str, float]
    lock_fd: int
    deadline: float | None = None
    grace_s: float = GRACE_S
    fork: Fork | None = None
    why_fresh: str | None = None


@dataclass(frozen=True)
class ExitReport:
    """How a runner's tree ended, as its supervisor saw it. `reason`: why it was ended; None: it ended by itself."""

    exit_code: Optional[int]
    signal: Optional[int]
    reason: Optional[str]
    error: Optional[str]
    max_rss_bytes: Optional[int]
    user_s: Optional[float]
    system_s: Optional[float]
    killed_stragglers: int
    started_ns: int
    ended_ns: int


@dataclass(frozen=True)
class Ended:
    """All that is known about an ended runner. `report` is None if the supervisor itself was killed or is stuck.

    `stages` are as the events tell them, with what was open at the end: what is left where there is no result.
    """

    report: ExitReport | None
    last_stage: str
    overdue: Overdue | None = None
    damaged_events: int = 0
    stages: list[StageTime] = field(default_factory=list)
    started: Started = field(default_factory=lambda: Started(FRESH))


class Launched:
    """A running runner; leaving the `with` block ends what is left of it. Other threads may call `renew`, `kill`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._give_up: float | None = None
        self._process, self.started = _supervisor(plan)
        self._started_ns = time.monotonic_ns()
        self._say(json.dumps(_supervisor_plan(plan)._asdict()))

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            _close_quietly(self._process.stdin)
        until = time.monotonic() + END_LIMIT_S
        while time.monotonic() < until and not self._has_ended(_POLL_S):
            pass
        _close_quietly(self._process.stdout)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return

    def renew(self, deadline: float) -> None:
        """Move the deadline (CLOCK_BOOTTIME seconds)."""
        self._say(f"deadline {deadline:.3f}")

    def kill(self, reason: str) -> None:
        """End the run: TERM, a short grace, KILL for the whole tree. `reason` comes back in the exit report."""
        self._give_up = time.monotonic() + self._plan.grace_s + END_LIMIT_S
        self._say(f"kill {reason}")

    def follow(self, on_change: Callable[[StageClock], None]) -> Ended:
        """Wait until the tree is gone, holding each stage to its limit. `on_change` is called for stage and progress.

        Returns within the sum of the stage limits plus `END_LIMIT_S`, even when the tree cannot be killed.
        """
        clock = StageClock(self._plan.limits_s, self._started_ns)
        events = EventFollower(self._plan.control.events)
        overdue: Overdue | None = None
        while not self._has_ended(_POLL_MEASURE_S if clock.stage in ("measure", "energy") else _POLL_S):
            _take_in(events, clock, on_change)
            bound_log(self._plan.control)
            if overdue is None:
                overdue = clock.overdue(time.monotonic_ns())
                if overdue is not None:
                    self.kill("stage-limit")
            if self._give_up is not None and time.monotonic() > self._give_up:
                break
        _take_in(events, clock, on_change)
        return Ended(
            self._report(), clock.stage, overdue, events.damaged, clock.stages(time.monotonic_ns()), self.started
        )

    def _has_ended(self, limit_s: float) -> bool:
        # The supervisor's stdout ends with it: one wait in the kernel, no polling of the child.
        stdout = self._process.stdout
        if stdout is None or stdout.closed:
            return True
        ready, _, _ = select.select([stdout], [], [], limit_s)
        return bool(ready) and not os.read(stdout.fileno(), 512)

    def _say(self, line: str) -> None:
        with self._lock:
            stdin = self._process.stdin
            if stdin is None or stdin.closed:
                return
            try:
                stdin.write(line.encode("utf-8") + b"\n")
                stdin.flush()
            except OSError:
                return

    def _report(self) -> ExitReport | None:
        try:
            return from_json(ExitReport, json.loads(self._plan.control.exit.read_bytes()))
        except (OSError, ValueError, DecodeError, RecursionError):
            return None


def _supervisor(plan: Plan) -> tuple[Process, Started]:
    with plan.control.log.open("ab") as log:
        why = plan.why_fresh
        if plan.fork is not None:
            try:
                return plan.fork(plan.lock_fd, log.fileno()), Started(FORKED)
            except RefusedError as refused:
                why = str(refused)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervise.__file__, str(plan.lock_fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={key: os.environ[key] for key in _PASSED_ON if key in os.environ},
            pass_fds=(plan.lock_fd,),
            start_new_session=True,
        )
        return process, Started(FRESH, why)


def _take_in(events: EventFollower, clock: StageClock, on_change: Callable[[StageClock], None]) -> None:
    now_ns = time.monotonic_ns()
    changed = False
    for event in events.read():
        changed = clock.see(event, now_ns) or event.kind == "progress" or changed
    if changed:
        on_change(clock)


def _supervisor_plan(plan: Plan) -> supervise.Plan:
    path = plan.control.path
    return supervise.Plan(
        argv=[shutil.which(plan.python) or plan.python, "-I", str(plan.bundle), str(path)],
        env=runner_environment(plan.env) | {"TMPDIR": str(path / "tmp")},
        cwd=str(path),
        log=str(plan.control.log),
        exit_file=str(plan.control.exit),
        grace_s=plan.grace_s,
        deadline=plan.deadline,
    )


def runner_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a process of a stack gets: the few variables that any program needs, then `extra`."""
    return {key: os.environ[key] for key in _PASSED_ON if key in os.environ} | dict(extra)


def device_environment(device: DeviceInfo) -> dict[str, str]:
    """Which GPU a process of a run on `device` sees: its own by UUID, which no reordering changes; on a CPU none."""
    if device.kind == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    uuid = device.facts.get("uuid")
    return {"CUDA_VISIBLE_DEVICES": str(uuid)} if device.kind == "gpu" and uuid else {}


def _close_quietly(stream: IO[bytes] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except OSError:
        return
