# SPDX-License-Identifier: Apache-2.0
"""What a comparison is asked and what it answers: plain values, no behaviour but their own arithmetic."""

from __future__ import annotations

import enum
import statistics
from dataclasses import dataclass, field

#: Perfherder asks for 2 % too before it raises an alert; below it, machines differ from themselves.
THRESHOLD = 0.02

#: Five processes a side are the fewest that reach it: 1 - 2 / C(10, 5) = 99.2 %.
CONFIDENCE = 0.99

#: The share of false ones among all verdicts FASTER and SLOWER of one comparison.
FALSE_DISCOVERY_RATE = 0.05


class Verdict(enum.StrEnum):
    """Of a cell. BETTER and WORSE stand for FASTER and SLOWER where the metric is no time (memory, energy)."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    BETTER = "BETTER"
    WORSE = "WORSE"
    SAME = "SAME"
    UNCLEAR = "UNCLEAR"

    @property
    def is_alarm(self) -> bool:
        """Whether the new side is worse."""
        return self in (Verdict.SLOWER, Verdict.WORSE)


@dataclass(frozen=True)
class Rules:
    """How to compare. `treatment` None: what differs by one value a side; `accept`: suspect flags taken as sound."""

    metric: str = "latency_ms"
    threshold: float = THRESHOLD
    confidence: float = CONFIDENCE
    false_discovery_rate: float = FALSE_DISCOVERY_RATE
    treatment: tuple[str, ...] | None = None
    accept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Process:
    """One process of a run: its value (a median of iterations), and the clock that it ran at in MHz.

    A run is one process, or several (`processes` of its protocol); `number` tells those apart, from 1.
    `flags` are those that keep it from a verdict. `low` and `high` bound the value within it, with `confidence`.
    """

    run_id: str
    value: float
    started_at: str
    finished_at: str
    clock_mhz: float | None = None
    flags: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    number: int = 1


@dataclass(frozen=True)
class Side:
    """The processes of a cell on one side."""

    processes: tuple[Process, ...]

    @property
    def sound(self) -> tuple[Process, ...]:
        """Those without a flag: only they are compared."""
        return tuple(process for process in self.processes if not process.flags)

    @property
    def shown(self) -> tuple[Process, ...]:
        """Those that the median is of: the sound ones, or all where none is."""
        return self.sound or self.processes

    @property
    def median(self) -> float:
        """The estimate of the cell: the median of its processes' medians."""
        return statistics.median(process.value for process in self.shown)

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of all flags."""
        return tuple(sorted({flag for process in self.processes for flag in process.flags}))


@dataclass(frozen=True)
class Ratio:
    """New over base with its interval; `scope` says what the interval covers. `confidence` None: no interval."""

    value: float
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    scope: str = "between processes"


@dataclass(frozen=True)
class Cell:
    """One thing that was measured on both sides. `cell` holds the identity fields that the sides share."""

    cell: dict[str, str]
    device: str
    base: Side
    new: Side
    ratio: Ratio
    verdict: Verdict
    notes: tuple[str, ...] = ()
    p_value: float | None = None
    cycles: Ratio | None = None


@dataclass(frozen=True)
class LeftOut:
    """What was not compared, and why. `broke`: it ran in base and failed in new."""

    cell: dict[str, str]
    device: str
    reason: str
    broke: bool = False


@dataclass(frozen=True)
class Difference:
    """A field with other values on the two sides."""

    name: str
    base: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {' or '.join(self.base) or 'none'} -> {' or '.join(self.new) or 'none'}"


@dataclass(frozen=True)
class Comparison:
    """All cells, what was left out, and what differs: `treatment` by identity, `software` by version."""

    rules: Rules
    unit: str
    better: str
    treatment: tuple[Difference, ...] = ()
    software: tuple[Difference, ...] = ()
    cells: tuple[Cell, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    caveats: tuple[str, ...] = field(default=())

    @property
    def regressed(self) -> bool:
        """Whether any cell got worse, or ran in base and fails in new."""
        return any(cell.verdict.is_alarm for cell in self.cells) or any(left.broke for left in self.left_out)
