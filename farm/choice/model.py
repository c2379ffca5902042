# SPDX-License-Identifier: Apache-2.0
"""What is chosen among, by which numbers, under which limits: plain values and their own arithmetic."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Axis:
    """A number to choose by. `better` is `lower` or `higher`; `scale` turns recorded values into shown ones."""

    name: str
    title: str
    unit: str
    better: str
    scale: float = 1.0

    def shown(self, value: float) -> float:
        """In the unit that people read."""
        return value * self.scale


#: By the name that limits and objectives have.
AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("latency", "latency", "ms", "lower"),
        Axis("throughput", "throughput", "inputs/s", "higher"),
        Axis("accuracy", "top-1", "%", "higher", 100.0),
        Axis("memory", "memory", "MB", "lower", 1e-6),
        Axis("energy", "energy per input", "J", "lower"),
    )
}


@dataclass(frozen=True)
class Reading:
    """A value of one axis with the interval by which it is judged, in the unit that is recorded.

    `scope` says what the interval covers. `metric` is where it comes from, `runs` which runs. A `doubtful` one is of
    flagged runs: it may rule a candidate out, and never recommends one.
    """

    value: float
    low: float
    high: float
    scope: str
    metric: str
    runs: tuple[str, ...]
    doubtful: bool = False

    def beats(self, other: Reading, better: str) -> bool:
        """Clearly: the two intervals do not touch."""
        return self.high < other.low if better == "lower" else self.low > other.high

    def at_least_as_good(self, other: Reading, better: str) -> bool:
        """By the values alone."""
        return self.value <= other.value if better == "lower" else self.value >= other.value


@dataclass(frozen=True)
class Candidate:
    """One way to run a network on a device class, at one batch size. `absent` says why an axis has no reading."""

    model: str
    device_class: str
    workflow: str
    precision: str
    options: str
    calibration: str
    stack: str
    threads: str
    batch: int
    world: Mapping[str, str]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def known(self, axis: str) -> bool:
        """Whether there is a reading of an axis that nothing speaks against."""
        return axis in self.readings and not self.readings[axis].doubtful

    @property
    def way(self) -> str:
        """`onnx_tensorrt int8 (optimization_level=1), stack trt86, batch 8`."""
        said = ", ".join(words for words in (self.options, self.calibration) if words)
        stack = "" if self.stack in ("", "default") else f", stack {self.stack}"
        return f"{self.workflow} {self.precision}{f' ({said})' if said else ''}{stack}, batch {self.batch}"


@dataclass(frozen=True)
class Limits:
    """What is asked: of which model, where, and within what. None: no limit.

    In the units that people give them: ms, inputs per second, per cent of top-1, MB (10^6 bytes), J per input.
    `device` is a class or a device's id. The rest narrows what records are looked at.
    """

    model: str
    device: str
    max_latency_ms: float | None = None
    min_throughput: float | None = None
    min_top1: float | None = None
    max_memory_mb: float | None = None
    max_energy_j: float | None = None
    batch: int | None = None
    precision: str | None = None
    weights: str | None = None
    dataset: str | None = None
    objective: str | None = None

    @property
    def bounds(self) -> dict[str, float]:
        """The limit of each axis that has one, in the unit that is recorded."""
        given = {
            "latency": self.max_latency_ms,
            "throughput": self.min_throughput,
            "accuracy": self.min_top1,
            "memory": self.max_memory_mb,
            "energy": self.max_energy_j,
        }
        return {name: value / AXES[name].scale for name, value in given.items() if value is not None}

    @property
    def goal(self) -> str:
        """What the best is best at: throughput where only latency is bounded and the batch size is free."""
        if self.objective:
            return self.objective
        return "throughput" if self.max_latency_ms is not None and self.batch is None else "latency"


class Fit(enum.StrEnum):
    """How a candidate stands to a limit."""

    WITHIN = "within"
    OUTSIDE = "outside"
    OPEN = "open"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Margin:
    """How far a reading is from a limit, as a share of the limit: 0.2 is 20 % to spare, below 0 is beyond it."""

    axis: str
    limit: float
    fit: Fit
    reading: Reading | None = None
    margin: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Status(enum.StrEnum):
    """DECIDED: one fits and is clearly the best. UNDECIDED: the data cannot tell. NONE: nothing fits."""

    DECIDED = "decided"
    UNDECIDED = "undecided"
    NONE = "nothing fits"


@dataclass(frozen=True)
class Rival:
    """A candidate beside the chosen one: how much worse at the goal, and what speaks for or against it."""

    candidate: Candidate
    reason: str
    worse: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """The answer. `chosen` is the best of what is known to fit, even where that is not decided.

    `unsettled` are candidates that could be better, and why that cannot be told. `excluded` counts by limit what it
    alone rules out; `nearest` is the nearest miss where nothing fits.
    """

    limits: Limits
    status: Status
    sentence: str
    chosen: Candidate | None = None
    margins: tuple[Margin, ...] = ()
    runner_up: Rival | None = None
    unsettled: tuple[Rival, ...] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
    nearest: Candidate | None = None
    nearest_margins: tuple[Margin, ...] = ()
    looked_at: int = 0
    notes: tuple[str, ...] = ()
