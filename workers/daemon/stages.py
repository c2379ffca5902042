# SPDX-License-Identifier: Apache-2.0
"""Which stage a run is in, since when, and whether that is too long. Pure: it is told events and the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farm.contract.protocols import STAGE_LIMITS_S
from farm.contract.run import STAGES, Event, StageTime

#: More ends of stages than any runner has reason to send.
_HISTORY = 200


@dataclass(frozen=True)
class Overdue:
    """A stage that has used up its time."""

    stage: str
    limit_s: float


class StageClock:
    """Follows the events of one run. Times are CLOCK_MONOTONIC in ns, which daemon and runner share.

    `start` runs from the process's start until the first event. Between two stages the `default` limit holds. A stage
    that starts a second time keeps its first clock, so that a runner in a loop runs out of time like any other.
    """

    def __init__(self, limits_s: Mapping[str, float], started_ns: int) -> None:
        self._limits_s = limits_s
        self._open = True
        self._started = {"start": started_ns}
        self.stage = "start"
        self.since_ns = started_ns
        self.fraction: float | None = None
        self._ended: list[StageTime] = []

    def see(self, event: Event, now_ns: int) -> bool:
        """Take in one event; return whether the stage changed."""
        if event.stage not in STAGES:
            return False
        if event.kind == "progress":
            self.fraction = event.fraction
            return False
        at_ns = min(max(event.monotonic_ns, self.since_ns), now_ns)
        if event.kind == "stage_end" and event.stage == self.stage and self._open:
            self._ended.append(StageTime(event.stage, self.since_ns, at_ns))
            self._open, self.since_ns = False, at_ns
        if event.kind != "stage_start":
            return False
        if self._open and self.stage == "start" != event.stage:
            self._ended.append(StageTime("start", self.since_ns, at_ns))
        changed = event.stage != self.stage
        self.stage, self._open, self.fraction = event.stage, True, None
        self.since_ns = self._started.setdefault(event.stage, at_ns)
        return changed

    def overdue(self, now_ns: int) -> Overdue | None:
        """The current stage, if its limit has passed."""
        limit_s = self.limit_s
        return Overdue(self.stage, limit_s) if now_ns - self.since_ns > limit_s * 1e9 else None

    def stages(self, now_ns: int) -> list[StageTime]:
        """The stages so far, an open one until now."""
        still = [StageTime(self.stage, self.since_ns, now_ns)] if self._open else []
        return (self._ended + still)[:_HISTORY]

    @property
    def limit_s(self) -> float:
        """The limit that holds now: the protocol's, else the farm's own."""
        for limits in (self._limits_s, STAGE_LIMITS_S):
            for key in (self.stage if self._open else "default", "default"):
                if key in limits:
                    return limits[key]
        return STAGE_LIMITS_S["default"]
