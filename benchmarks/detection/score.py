# SPDX-License-Identifier: Apache-2.0
"""How alerts compare with what was injected. A hit has the right sign, lies within 3 nights of the change and comes
within 15; every other alert counts against strict precision, and is truly false unless it is of the right sign after
the change (late or misplaced)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from detection.nights import BURN_IN, SIZES, Farm
from detection.online import Alert

NEAR, SOON = 3, 15


@dataclass
class Score:
    """Counts over seeds; they add up."""

    hits: dict[float, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    changes: dict[float, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    delays: list[int] = field(default_factory=list)
    late: int = 0
    false: int = 0
    null_false: int = 0
    null_nights: int = 0
    nights: int = 0
    reruns: int = 0
    series: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("TP", "FN", "FP", "TN"), 0))
    false_classes: dict[str, int] = field(default_factory=dict)
    by_class: dict[tuple[str, float], list[int]] = field(default_factory=dict)

    def add(self, other: Score) -> None:
        """Take another seed's counts in."""
        for name in ("late", "false", "null_false", "null_nights", "nights", "reruns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, its in ((self.hits, other.hits), (self.changes, other.changes), (self.series, other.series),
                          (self.false_classes, other.false_classes)):  # fmt: skip
            for key, count in its.items():
                mine[key] = mine.get(key, 0) + count
        for cell, pair in other.by_class.items():
            known = self.by_class.setdefault(cell, [0, 0])
            known[0] += pair[0]
            known[1] += pair[1]
        self.delays += other.delays

    @property
    def strict(self) -> tuple[int, int]:
        """Hits, and all alerts."""
        hits = sum(self.hits.values())
        return hits, hits + self.late + self.false

    @property
    def delay(self) -> float:
        """The median of the hits' nights."""
        return statistics.median(self.delays) if self.delays else math.nan


def score(farm: Farm, alerts: Iterable[Alert], reruns: int = 0) -> Score:
    """One seed of one detector."""
    found = Score(reruns=reruns)
    by_key: dict[str, list[Alert]] = {}
    for alert in (alert for alert in alerts if alert.night >= BURN_IN):
        by_key.setdefault(alert.key, []).append(alert)
    for one in farm.series:
        seen, size = by_key.get(one.key, []), abs(one.change)
        present = sum(value is not None for value in one.values[BURN_IN:])
        found.nights += present
        hit = None
        if one.change:
            found.changes[size] += 1
            hit = next((alert for alert in seen if _is_hit(alert, one.at, one.change)), None)
            cell = found.by_class.setdefault((one.noise.name, size), [0, 0])
            cell[0] += hit is not None
            cell[1] += 1
        else:
            found.null_nights += present
            found.null_false += len(seen)
        if hit is not None:
            found.hits[size] += 1
            found.delays.append(hit.night - one.at)
        for alert in seen:
            if alert is hit:
                continue
            if one.change and alert.worse == (one.change > 0) and alert.night >= one.at:
                found.late += 1
            else:
                found.false += 1
                found.false_classes[one.noise.name] = found.false_classes.get(one.noise.name, 0) + 1
        found.series[("TP" if hit else "FN") if one.change else ("FP" if seen else "TN")] += 1
    return found


def _is_hit(alert: Alert, at: int, change: float) -> bool:
    right = alert.worse == (change > 0)
    return right and abs(alert.since - at) <= NEAR and 0 <= alert.night - at <= SOON


def poisson_upper(count: int, confidence: float = 0.95) -> float:
    """The largest mean under which `count` events or fewer are not rarer than 1 - confidence: one-sided, exact."""
    low, high = 0.0, 10.0 + 5 * count
    for _ in range(80):
        middle = (low + high) / 2
        total = sum(math.exp(k * math.log(middle) - middle - math.lgamma(k + 1)) for k in range(count + 1))
        low, high = (middle, high) if total > 1 - confidence else (low, middle)
    return low
