# SPDX-License-Identifier: Apache-2.0
"""One row of the table of benchmarks/run.py: a figure of the farm's, and what it is held against in the same run."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """What was measured, in rounds; each round takes ours and the baseline one after the other.

    Attributes:
        topic: The module's name (`warm_runners`, `queue`, ...).
        what: What was done, in words that need nothing else.
        unit: Of `ours` and `baseline` (`s`, `ms`, `MiB`, `bytes`, `ratio`).
        ours: The farm's figures, one a round.
        baseline: What they are held against, one a round; empty where the limit is absolute.
        against: What the baseline is (`one process, bare loop`).
        limit: The most that the median of ours / baseline (without a baseline: of ours) may be; None: told, not held.
        note: Anything a reader must know (what took the rest, how many were left out).
    """

    topic: str
    what: str
    unit: str
    ours: tuple[float, ...]
    baseline: tuple[float, ...] = ()
    against: str = ""
    limit: float | None = None
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours / baseline of each round; ours where there is no baseline."""
        return tuple(a / b for a, b in zip(self.ours, self.baseline, strict=True)) if self.baseline else self.ours

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest of `ratios`."""
        return min(self.ratios), max(self.ratios)

    @property
    def held(self) -> bool | None:
        """Whether the median is within the limit; None without one."""
        return None if self.limit is None else statistics.median(self.ratios) <= self.limit
