# SPDX-License-Identifier: Apache-2.0
"""Which metrics nights are compared by, on which scale, and from which size on a change of one matters.

On the `log` scale a move is the difference of two logarithms, so a change is a share of what was before. On the
`linear` scale, of metrics that may be 0, it is the plain difference in the metric's unit, and so is every `change` and
`spread` of a `Trigger`: 0.02 of `fallback_node_share` is two operators of a hundred more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from farm.accuracy import wilson
from farm.contract.metrics import METRICS
from farm.thresholds import DEFAULTS, Limits

LOG, LINEAR = "log", "linear"


@dataclass(frozen=True)
class Tracked:
    """A row of the table.

    Args:
        scale: `log` or `linear`.
        delta: the limit, by name, below which a change does not matter: a share, or of `linear` in the metric's unit.
        least: the limit, by name, that the plain difference must reach besides; empty where there is none.
        timed: whether the device's own pace moves it, so that a shifted canary explains it.
        share_of: the metric that counts what this is a share of: Wilson's interval of it must be left as well.
    """

    scale: str
    delta: str
    least: str = ""
    timed: bool = False
    share_of: str = ""


#: Energy is not here: a board's sensor is wrong by 5 % and more, and by another amount on another board.
TRACKED: Mapping[str, Tracked] = {
    "latency_ms": Tracked(LOG, "history_time", timed=True),
    "throughput_per_s": Tracked(LOG, "history_time", timed=True),
    "build_s": Tracked(LOG, "history_build", timed=True),
    "engine_bytes": Tracked(LOG, "history_engine", "history_engine_bytes"),
    "gpu_memory_peak_bytes": Tracked(LOG, "history_memory", "history_memory_bytes"),
    "host_rss_peak_bytes": Tracked(LOG, "history_memory", "history_memory_bytes"),
    "memory_available_drop_bytes": Tracked(LOG, "history_memory", "history_memory_bytes"),
    "top1": Tracked(LINEAR, "history_accuracy", share_of="accuracy_samples"),
    "top5": Tracked(LINEAR, "history_accuracy", share_of="accuracy_samples"),
    "mismatch_1e-3_pct": Tracked(LINEAR, "history_mismatch_pct"),
    "fallback_node_share": Tracked(LINEAR, "history_fallback"),
}


@dataclass(frozen=True)
class Rule:
    """How one metric is judged, in numbers. `floor` and `pool` are spreads on its scale."""

    metric: str
    scale: str
    delta: float
    least: float
    better: str
    timed: bool
    floor: float
    pool: float
    samples: int = 0

    def place(self, value: float) -> float:
        """A value on the scale. Raises ValueError where it has no place there: NaN, infinite, no more than 0."""
        if not math.isfinite(value) or (self.scale == LOG and value <= 0):
            raise ValueError(f"{value} is no value of {self.metric}: only finite ones, on a log scale above 0")
        return math.log(value) if self.scale == LOG else value

    def value(self, place: float) -> float:
        """Back to the metric's unit."""
        return math.exp(place) if self.scale == LOG else place

    def change(self, move: float) -> float:
        """A move as people read it: the share of the value before, or the difference in the metric's unit."""
        return math.expm1(move) if self.scale == LOG else move

    def move(self, change: float) -> float:
        """The move that a change is."""
        return math.log1p(change) if self.scale == LOG else change

    @property
    def edge(self) -> float:
        """The move from which on a change matters."""
        return self.move(self.delta)

    def worse(self, move: float) -> bool:
        """Whether a move in this direction is bad."""
        return (move > 0) == (self.better == "lower")

    def matters(self, before: float, move: float, part: float = 1.0) -> bool:
        """Whether a move from the place `before` is as large as `part` of what the rule asks for."""
        difference = abs(self.value(before + move) - self.value(before))
        if abs(move) < part * self.edge or difference < part * self.least:
            return False
        return self._leaves_interval(before, before + move)

    def _leaves_interval(self, before: float, after: float) -> bool:
        if not self.samples:
            return True
        low, high = wilson(round(min(max(before, 0.0), 1.0) * self.samples), self.samples)
        return not low <= after <= high


def rule_for(metric: str, limits: Limits = DEFAULTS, samples: float | None = None) -> Rule:
    """The rule of a metric under a device's limits. `samples`: how many images a share of right answers is of.

    Raises:
        KeyError: the metric is not tracked.
    """
    row = TRACKED[metric]
    delta = limits[row.delta]
    # A linear scale has no shares: the spreads keep their size against what matters on it.
    unit = 1.0 if row.scale == LOG else delta / limits["history_time"]
    return Rule(
        metric=metric,
        scale=row.scale,
        delta=delta,
        least=limits[row.least] if row.least else 0.0,
        better=METRICS[metric].better or "lower",
        timed=row.timed,
        floor=limits["history_floor"] * unit,
        pool=limits["history_pool"] * unit,
        samples=int(samples or 0) if row.share_of else 0,
    )


def told(metric: str, change: float) -> str:
    """A change in words: `+5.0 %` of the value before, `+1.2 % points`, `-0.021`."""
    if TRACKED[metric].scale == LOG:
        return f"{100 * change:+.1f} %"
    return f"{change:+.2f} % points" if METRICS[metric].unit == "%" else f"{100 * change:+.2f} % points"
