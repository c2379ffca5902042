# SPDX-License-Identifier: Apache-2.0
"""Is the model warm? Two windows in a row must look alike: pyperf's rule (`_worker.py`), narrower on the median. Pure.

A window is 20 values that cover half a second or more: a value is the mean of a block of samples of 25 ms together, or
one sample where that takes longer. pyperf allows the mean between -50 and +10 %; the median within 2 % is ours.
"""

import math
from array import array
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Deque, Dict, List, Optional, Sequence

from farm.contract.quantiles import quantile
from workers.runner.stop_rules import EndRule

WINDOW = 20
_BLOCK_NS = 500_000_000 // WINDOW
_MEDIAN, _QUARTILE, _DEVIATION = 0.02, 0.05, 0.10
#: Tukey's fence: above the third quartile by this many interquartile ranges.
_FENCE = 1.5


@dataclass(frozen=True)
class Change:
    """The newer of two windows against the older: (newer - older) / newer, None where only the newer is 0.

    `deviation` is that of the median absolute deviations; `first_is_outlier` is said of the older window's first value.
    """

    median: Optional[float]
    q1: Optional[float]
    q3: Optional[float]
    deviation: Optional[float]
    first_is_outlier: bool

    @property
    def is_steady(self) -> bool:
        """Whether the two windows look alike."""
        pairs = (
            (self.median, _MEDIAN),
            (self.q1, _QUARTILE),
            (self.q3, _QUARTILE),
            (self.deviation, _DEVIATION),
        )
        return not self.first_is_outlier and all(change is not None and abs(change) <= most for change, most in pairs)


def compare(older: Sequence[float], newer: Sequence[float]) -> Change:
    """Compare two windows, their values in the order in which they were taken."""
    rest = sorted([*older[1:], *newer])
    q1, q3 = quantile(rest, 0.25), quantile(rest, 0.75)
    a, b = sorted(older), sorted(newer)
    return Change(
        median=_change(quantile(a, 0.5), quantile(b, 0.5)),
        q1=_change(quantile(a, 0.25), quantile(b, 0.25)),
        q3=_change(quantile(a, 0.75), quantile(b, 0.75)),
        deviation=_change(_deviation(a), _deviation(b)),
        first_is_outlier=older[0] > q3 + _FENCE * (q3 - q1),
    )


class SteadyState(EndRule):
    """Ends warm-up once the latest two windows look alike; asked again with each value that comes to them."""

    def __init__(self) -> None:
        self._values: Deque[float] = deque(maxlen=2 * WINDOW)
        self._block_ns = self._block_count = 0
        self._added = self._total_ns = 0
        self._pairs = 0
        self._first_pair_ns: Optional[int] = None
        self._last: Optional[Change] = None

    def ended_by(self, samples: "array[int]") -> Optional[str]:
        """`steady`, or None as long as there are no two windows that look alike."""
        values = self._add(samples)
        if not values or len(self._values) < 2 * WINDOW:
            return None
        latest = list(self._values)
        self._last = compare(latest[:WINDOW], latest[WINDOW:])
        self._pairs += 1
        if self._first_pair_ns is None:
            self._first_pair_ns = self._total_ns
        return "steady" if self._last.is_steady else None

    def next_look(self, done: int) -> int:
        """When the next value should be there, judged by the last one."""
        if not self._values or self._values[-1] <= 0:
            return done + 1
        return done + max(1, math.ceil((_BLOCK_NS - self._block_ns) / self._values[-1]))

    def facts(self) -> Dict[str, Any]:
        """For the record: pairs of windows compared, when the first could be (ns), and how the last differed."""
        return {
            "warm_up_windows": self._pairs,
            "warm_up_first_windows_ns": self._first_pair_ns,
            "warm_up_last_change": None if self._last is None else asdict(self._last),
        }

    def _add(self, samples: "array[int]") -> int:
        """Take the samples that came since, and return how many values they completed."""
        values = 0
        for sample in samples[self._added :]:
            self._block_ns += sample
            self._block_count += 1
            if self._block_ns >= _BLOCK_NS:
                self._values.append(self._block_ns / self._block_count)
                self._total_ns += self._block_ns
                self._block_ns = self._block_count = 0
                values += 1
        self._added = len(samples)
        return values


def _change(older: float, newer: float) -> Optional[float]:
    if older == newer:
        return 0.0
    return (newer - older) / newer if newer else None


def _deviation(ordered: List[float]) -> float:
    """The median absolute deviation."""
    median = quantile(ordered, 0.5)
    return quantile(sorted(abs(value - median) for value in ordered), 0.5)
