# SPDX-License-Identifier: Apache-2.0
"""What a night needs of the world, so that its course can be tried without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from farm.history.document import Missed
from farm.history.model import Confirmation, Event


class InterruptedNightError(BaseException):
    """The process was told to end, or is no longer the one that runs nights. The next one goes on from here.

    No `Exception`, as KeyboardInterrupt is none: whoever catches a step's failure must not catch this.
    """


@dataclass(frozen=True)
class OpenJob:
    """A job of the night without its results. `waiting`: no worker has it yet. `ended`: only its record is awaited."""

    job_id: str
    sweep_id: str
    name: str
    waiting: bool
    ended: bool = False


@dataclass(frozen=True)
class Submitted:
    """A sweep of the night as the farm took it."""

    sweep_id: str
    name: str
    jobs: int
    refused: int


@dataclass(frozen=True)
class CanaryWordOfDevice:
    """What a device's canary says now. `busy`: one waits or runs, and the device takes jobs."""

    busy: bool
    shifted: bool = False
    summary: str = ""


@dataclass(frozen=True)
class Settled:
    """What came of the wish to settle triggers: `spent_s` are seconds of device time."""

    confirmations: tuple[Confirmation, ...] = ()
    missed: tuple[Missed, ...] = ()
    spent_s: float = 0.0


@dataclass(frozen=True)
class Counted:
    """The records of some sweeps: how many of each outcome, and by sweep which outcomes are not ok."""

    outcomes: Mapping[str, int] = field(default_factory=dict)
    unsound: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class World(Protocol):
    """The farm, the clock, the judgement, the reports. Everything may be asked for again after a death.

    Methods raise `redis.RedisError` and `UnavailableError` for what is away and may come back, and any other
    `FarmError` for what stays wrong.
    """

    def now(self) -> datetime:
        """The time, with its zone."""

    def pause(self, seconds: float) -> None:
        """Wait; raise InterruptedNightError where the night must be left."""

    def ask_canaries(self) -> list[str]:
        """Ask for a canary on every device that takes jobs; return their ids."""

    def canaries(self, devices: Sequence[str]) -> dict[str, CanaryWordOfDevice]:
        """What their canaries say now."""

    def sweep_files(self, path: Path) -> list[Path]:
        """The sweep files that a path of the settings stands for."""

    def submit(self, path: Path, again: int, priority: int | None) -> Submitted:
        """Submit this repeat of a sweep. The same one twice adds nothing."""

    def open_jobs(self, sweeps: Sequence[str]) -> list[OpenJob]:
        """The jobs of these sweeps that have not ended, or whose records are still on their way."""

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs: those that wait at once, those that run as soon as they can stop."""

    def count(self, sweeps: Sequence[str]) -> Counted:
        """What came of these sweeps."""

    def assess(self, night: str) -> Any:
        """Judge the night; what is returned goes to `confirm` and `conclude` as it is."""

    def wanted(self, found: Any) -> int:
        """How many measurements a judgement asks for."""

    def confirm(self, found: Any, budget_s: float, until: datetime) -> Settled:
        """Measure what the judgement asks for, within seconds of device time."""

    def conclude(self, found: Any, settled: Settled) -> None:
        """Write events, states and causes into the night's document."""

    def names(self, events: Sequence[Event]) -> Mapping[str, str]:
        """What each event is about, for people, by its id."""

    def report(self, night: str) -> str:
        """Write the night's report and the index of nights; return the page, below the reports' directory."""

    def tell(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send a message to every target; return how each took it: {"target", "ok", "tries", "problem"}."""

    def link(self, page: str) -> str:
        """How people reach a page of the reports."""
