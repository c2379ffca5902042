# SPDX-License-Identifier: Apache-2.0
"""Where more requests in flight stop to pay: the smallest level that is as good as the best, and what it costs. Pure.

The rule is an interval rule, and fits no model: a level saturates if its throughput is within `TOLERANCE` of the best
of all levels. Efficiency and the word retrograde are Gunther's (Guerrilla Capacity Planning, 2007): capacity at N over
N times the capacity at 1, and a throughput that falls as the load grows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Ours: what ends a batch ladder as `saturated`, too.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Level:
    """Throughput (inputs/s) with `level` requests in flight, and what it may be; `latency_ms` is their median."""

    level: int
    throughput: float
    low: float
    high: float
    latency_ms: float | None = None


@dataclass(frozen=True)
class Saturation:
    """What a curve comes to.

    `at` is the smallest level whose throughput is within the tolerance of the best's. By the intervals it may lie
    between `earliest` and `latest`. `reached`: a larger level was measured, too; else the throughput may still rise.
    `falls` is the smallest level beyond the best at which throughput is lower by more than the tolerance, whatever the
    intervals allow. `efficiency` is that of `at`, `latency_ratio` its latency over that of the smallest level.
    """

    at: Level
    best: Level
    earliest: int
    latest: int
    reached: bool
    falls: int | None
    efficiency: float
    latency_ratio: float | None

    @property
    def certain(self) -> bool:
        """Whether the intervals leave no other level."""
        return self.earliest == self.latest


def efficiency(first: Level, level: Level) -> float:
    """Throughput over what the smallest level would give if each request in flight added as much as its first did."""
    return level.throughput / first.throughput / (level.level / first.level)


def saturation(levels: Iterable[Level], tolerance: float = TOLERANCE) -> Saturation | None:
    """The saturation of a curve, one entry for each level; None for fewer than two levels or a throughput of 0."""
    ordered = sorted(levels, key=lambda each: each.level)
    if len(ordered) < 2 or min(each.throughput for each in ordered) <= 0:
        return None
    share = 1 - tolerance
    # The smallest of equals: a flat curve is at its best from the start.
    best = max(ordered, key=lambda each: (each.throughput, -each.level))
    at = next(each for each in ordered if each.throughput >= share * best.throughput)
    earliest = next(each.level for each in ordered if each.high >= share * best.low)
    latest = next(each.level for each in ordered if each is best or each.low >= share * best.high)
    falls = next((e.level for e in ordered if e.level > best.level and e.high < share * best.low), None)
    first = ordered[0]
    return Saturation(
        at=at,
        best=best,
        earliest=earliest,
        latest=latest,
        reached=at.level < ordered[-1].level,
        falls=falls,
        efficiency=efficiency(first, at),
        latency_ratio=at.latency_ms / first.latency_ms if at.latency_ms and first.latency_ms else None,
    )
