# SPDX-License-Identifier: Apache-2.0
"""From all canaries of a device, in order of time, to what they say of it now. Pure.

The whole history is gone through each time, so that the same records always give the same state, whether Redis kept it
or lost it. A series is what ran with the same software: times are only compared within one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from farm.canary.judge import HISTORY, Judgement, judge
from farm.canary.state import BASELINE, SHIFTED, STEADY, UNCONFIRMED, CanaryState
from farm.thresholds import DEFAULTS, Limits

_Key = tuple[tuple[str, str], ...]
#: A new series names this many of the differences that began it.
_NAMED = 3


@dataclass(frozen=True)
class Point:
    """One canary of a device.

    Args:
        at: when it ended, UTC, ISO 8601.
        run_id: its record.
        latency_ms: its time; None where it has none.
        software: what must be the same for times to be compared.
        problem: why its time says nothing about the device, if it does not.
        clock_mhz: the device's clock meanwhile.
        settings: how the device was set: power mode, limits, governor.
        number: which of the series that the operator began.
    """

    at: str
    run_id: str
    latency_ms: float | None
    software: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    clock_mhz: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    number: int = 0

    @property
    def key(self) -> _Key:
        """What tells its series from others."""
        return (*sorted(self.software.items()), ("series", str(self.number)))


@dataclass(frozen=True)
class _Mark:
    """A confirmed shift, and the series in which it was found."""

    since: str
    key: _Key
    number: int
    change: float
    evidence: str


def assess(points: Iterable[Point], pool: float, limits: Limits = DEFAULTS) -> CanaryState:
    """What a device's canaries say, in the order in which they ran. `pool`: `judge.pooled` of its class."""
    course = _Course(pool, limits)
    for point in points:
        course.add(point)
    return course.state


class _Course:
    """Goes through the canaries one by one."""

    def __init__(self, pool: float, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._needed = max(int(limits["canary_min_points"]), 1)
        self._series: dict[_Key, list[Point]] = {}
        self._before: Point | None = None
        self._outlier: Point | None = None
        self._mark: _Mark | None = None
        self.state = CanaryState(needed=self._needed)

    def add(self, point: Point) -> None:
        """Take the next one into account."""
        self.state = replace(self.state, last_at=point.at, run_id=point.run_id, problem=point.problem)
        if point.problem or point.latency_ms is None:
            return
        self._enter(point)
        history = [p.latency_ms for p in self._series[point.key] if p.latency_ms is not None][-HISTORY:]
        if len(history) < self._needed:
            self._take(point)
            self._say(point, BASELINE)
            return
        judged = judge(history, point.latency_ms, self._pool, self._limits)
        if judged.out:
            self._out(point, judged)
        else:
            self._inside(point, judged)

    def _enter(self, point: Point) -> None:
        """Begin a series where this point is the first of one."""
        if self._before is not None and point.key != self._before.key:
            self._settle_outlier()
        if point.key not in self._series:
            self._series[point.key] = []
            note = "" if self._before is None else f"new series: {differences(self._before, point)}"
            self.state = replace(self.state, note=note)
        if self._mark is not None and point.number != self._mark.number:
            self._mark = None  # the operator said so
        self._before = point

    def _inside(self, point: Point, judged: Judgement) -> None:
        self._settle_outlier()
        self._take(point)
        if self._mark is not None and self._mark.key == point.key:
            self._mark = None
        self._say(point, STEADY, judged)

    def _out(self, point: Point, judged: Judgement) -> None:
        """A shift needs two in a row on the same side. What is beyond a confirmed one changes no baseline."""
        evidence = self._evidence(point, judged)
        if self._mark is not None and self._mark.key == point.key:
            self._mark = replace(self._mark, change=judged.change, evidence=evidence)
            return self._say(point, SHIFTED, judged, evidence)
        first = self._outlier
        if first is not None and first.latency_ms is not None and (first.latency_ms > judged.centre) == (judged.z > 0):
            self._outlier = None
            self._mark = _Mark(first.at, point.key, point.number, judged.change, evidence)
            return self._say(point, SHIFTED, judged, evidence)
        self._settle_outlier()
        self._outlier = point
        return self._say(point, UNCONFIRMED, judged, evidence)

    def _say(self, point: Point, verdict: str, judged: Judgement | None = None, evidence: str = "") -> None:
        """Write the state down. A mark from another series stays: new software says nothing of a device's recovery."""
        mark = self._mark
        if mark is not None and mark.key != point.key:
            verdict, evidence = SHIFTED, f"{mark.evidence}; found before its series began anew, and never steady since"
        self.state = replace(
            self.state,
            verdict=verdict,
            points=len(self._series[point.key]),
            latency_ms=point.latency_ms,
            centre_ms=judged.centre if judged else None,
            spread=judged.spread if judged else None,
            change=mark.change if mark else judged.change if judged else None,
            z=judged.z if judged else None,
            since=mark.since if mark else None,
            steady_at=point.at if verdict == STEADY else self.state.steady_at,
            evidence=evidence,
            note="" if judged else self.state.note,
            number=point.number,
        )

    def _take(self, point: Point) -> None:
        self._series[point.key].append(point)

    def _settle_outlier(self) -> None:
        """An outlier that was not confirmed is one of the history's values: leaving it out would narrow the band."""
        if self._outlier is not None:
            self._take(self._outlier)
            self._outlier = None

    def _evidence(self, point: Point, judged: Judgement) -> str:
        history = self._series[point.key][-HISTORY:]
        said = (
            f"{point.latency_ms:.4g} ms against {judged.centre:.4g} ms of {len(history)} canaries before, "
            f"{100 * judged.change:+.1f} %, {abs(judged.z):.1f} times their spread of {100 * judged.spread:.1f} %"
        )
        changed = _changed(history[-1].settings, point.settings)
        return "; ".join(filter(None, (said, self._clock(history, point, judged), ", ".join(changed))))

    def _clock(self, history: list[Point], point: Point, judged: Judgement) -> str:
        """Whether the clock went with the time: then it is heat, power or a clock setting, and no fault elsewhere."""
        clocks = [p.clock_mhz for p in history if p.clock_mhz]
        if not clocks or not point.clock_mhz:
            return ""
        before = statistics.median(clocks)
        ratio = point.clock_mhz / before
        if abs(ratio - 1) <= self._limits["clock_drift"]:
            return f"the clock did not change ({point.clock_mhz:.0f} MHz)"
        cycles = (1 + judged.change) * ratio
        explains = abs(math.log(cycles)) < math.log1p(self._limits["canary_shift"])
        said = "which explains it" if explains else f"and {100 * (cycles - 1):+.1f} % in cycles"
        return f"the clock went from {before:.0f} to {point.clock_mhz:.0f} MHz, {said}"


def differences(before: Point, now: Point) -> str:
    """What began a new series: `onnxruntime 1.26 -> 1.27`."""
    if before.number != now.number:
        return "begun by the operator"
    changed = _changed(before.software, now.software)
    more = len(changed) - _NAMED
    return ", ".join(changed[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [f"{name} {before.get(name) or 'none'} -> {now.get(name) or 'none'}" for name in names]
