# SPDX-License-Identifier: Apache-2.0
"""A farm that is not there, whose clock the test moves and whose process dies when the test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from farm.errors import UsageError
from farm.history.model import Event
from scheduler.nightly.world import CanaryWordOfDevice, Counted, OpenJob, Settled, Submitted

START = datetime(2026, 11, 21, 2, 0, 5, tzinfo=UTC)


class Killed(BaseException):
    """What SIGKILL is to the code under test: nothing after it runs."""


class FakeWorld:
    """Keeps what a farm would keep over a death. Each sweep has two jobs of `job_s` seconds, one after the other."""

    def __init__(self, *, job_s: float = 60.0, wants: int = 1, confirm_s: float = 0.0) -> None:
        self.at = START
        self.job_s = job_s
        self.wants = wants
        self.confirm_s = confirm_s
        self.kill_at = -1
        self.calls: list[str] = []
        self.begun: dict[str, datetime] = {}
        self.submissions: list[str] = []
        self.cancelled: set[str] = set()
        self.canary_until = START
        self.confirmed: list[float] = []
        self.messages: list[Mapping[str, Any]] = []
        self.reachable = True
        self.faults: dict[str, list[Exception]] = {}

    def _call(self, name: str) -> None:
        if len(self.calls) == self.kill_at:
            self.calls.append("killed")
            raise Killed
        self.calls.append(name)
        if self.faults.get(name):
            raise self.faults[name].pop(0)

    def now(self) -> datetime:
        return self.at

    def pause(self, seconds: float) -> None:
        self._call("pause")
        self.at += timedelta(seconds=max(seconds, 20))

    def ask_canaries(self) -> list[str]:
        self._call("ask_canaries")
        self.canary_until = self.at + timedelta(seconds=30)
        return ["lab1-cpu"]

    def canaries(self, devices: Sequence[str]) -> dict[str, CanaryWordOfDevice]:
        self._call("canaries")
        return {device: CanaryWordOfDevice(self.at < self.canary_until, False, "steady") for device in devices}

    def sweep_files(self, path: Path) -> list[Path]:
        if path.name == "none":
            raise UsageError(f"{path} has no sweeps")
        return [path / "a.yaml", path / "b.yaml"] if path.name == "several" else [path]

    def submit(self, path: Path, again: int, priority: int | None) -> Submitted:
        self._call("submit")
        if path.name == "bad.yaml":
            raise UsageError("not a valid sweep", problems=["line 1: no such model"])
        sweep = f"{path.stem}-{again}"
        if sweep not in self.begun:
            self.submissions.append(sweep)
            self.begun[sweep] = self.at
        self._call("submitted")
        return Submitted(sweep, path.stem, 2, 0)

    def open_jobs(self, sweeps: Sequence[str]) -> list[OpenJob]:
        self._call("open_jobs")
        found = []
        for sweep in sweeps:
            for i in range(2):
                job, start = f"{sweep}-{i}", self.begun[sweep] + timedelta(seconds=i * self.job_s)
                if self.at < start + timedelta(seconds=self.job_s) and job not in self.cancelled:
                    found.append(OpenJob(job, sweep, job, waiting=self.at < start))
        return found

    def cancel(self, job_ids: Sequence[str]) -> None:
        self._call("cancel")
        self.cancelled |= set(job_ids)

    def count(self, sweeps: Sequence[str]) -> Counted:
        self._call("count")
        return Counted({"ok": 2 * len(sweeps) - len(self.cancelled), "cancelled": len(self.cancelled)})

    def assess(self, night: str) -> Any:
        self._call("assess")
        return night

    def wanted(self, found: Any) -> int:
        return self.wants

    def confirm(self, found: Any, budget_s: float, until: datetime) -> Settled:
        self.at += timedelta(seconds=self.confirm_s)
        self._call("confirm")
        self.confirmed.append(budget_s)
        return Settled(spent_s=12.0)

    def conclude(self, found: Any, settled: Settled) -> None:
        self._call("conclude")

    def names(self, events: Sequence[Event]) -> Mapping[str, str]:
        return {}

    def report(self, night: str) -> str:
        self._call("report")
        return f"{night}/index.html"

    def tell(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._call("tell")
        if self.reachable:
            self.messages.append(message)
        return [{"target": "file", "ok": self.reachable, "tries": 1, "problem": ""}]

    def link(self, page: str) -> str:
        return f"https://farm/{page}"
