# SPDX-License-Identifier: Apache-2.0
"""What a report computes from records: values with their reason when absent, speed-ups, best throughput. Pure.

An interval here covers what its scope says, no more: one run, or the processes of a point. Processes differ from one
another by more than their iterations do, and no interval of two points is ever called a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from farm.contract.record import Interval, Record
from farm.identity import switches
from farm.report.select import Point
from farm.report.series import device_id, reference_of
from farm.summary import WITHIN_RUN

_ONE_RUN = "within one run"


@dataclass(frozen=True)
class Absent:
    """A number that is not there, and why."""

    reason: str


@dataclass(frozen=True)
class Ratio:
    """A speed-up: `base` over this, above 1 is faster. `low`, `high` are None where a side has no interval.

    `scope` says what the interval covers, from the scopes of the two.
    """

    value: float
    base: Point
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    doubtful: bool = False
    caveat: str = ""
    scope: str = ""


@dataclass(frozen=True)
class Best:
    """The best point of a series. `passed_over` are better ones that a flag keeps from being ranked."""

    point: Point
    value: float
    passed_over: tuple[Point, ...] = ()


def value(record: Record, name: str) -> float | Absent:
    """A metric of a record, in the unit of its name, or why it can't be shown.

    A withheld metric stays withheld even if a number came with it.
    """
    if name in record.withheld:
        return Absent(record.withheld[name])
    number = record.metrics.get(name)
    if number is None:
        if record.failure is not None:
            return Absent(f"{str(record.outcome).replace('_', ' ')}: {record.failure.message}")
        return Absent("not measured in this run")
    if not math.isfinite(number):
        return Absent(f"the recorded value is {number}")
    return float(number)


def interval(record: Record, name: str) -> Interval | None:
    """The interval of a metric, if the metric is shown and the interval is finite and in order."""
    found = record.intervals.get(name)
    if found is None or isinstance(value(record, name), Absent):
        return None
    return found if math.isfinite(found.low) and math.isfinite(found.high) and found.low <= found.high else None


def process_count(record: Record) -> int:
    """In how many fresh processes a point was measured."""
    return len(record.processes) or 1


def scopes(points: Iterable[Point], name: str) -> dict[str, list[float]]:
    """What the intervals of a metric cover, those within a run last, each with its confidences; sorted."""
    found: dict[str, set[float]] = {}
    for point in points:
        known = interval(point.record, name)
        if known is not None:
            found.setdefault(known.scope, set()).add(known.confidence)
    ordered = sorted(found, key=lambda scope: (scope == WITHIN_RUN, scope))
    return {scope: sorted(found[scope]) for scope in ordered}


def joint_scope(one: str, other: str) -> str:
    """What an interval made from two others covers: `within one run each`, `between 5 processes each`, ..."""
    said = [_ONE_RUN if scope == WITHIN_RUN else scope for scope in (one, other)]
    return f"{said[0]} each" if one == other else f"{said[0]} against {said[1]}"


def not_comparable(a: Record, b: Record) -> str | None:
    """Why two records measure different things, or None if model, input, data and switches agree."""
    for what, of in _SAME:
        if of(a) != of(b):
            return f"the two ran with different {what}"
    # Equal protocols have equal switches; taking those apart for each pair would be most of a report's time.
    if a.job.protocol != b.job.protocol and switches(a.job.protocol) != switches(b.job.protocol):
        return "the two ran with different protocol switches"
    return None


_SAME: tuple[tuple[str, Callable[[Record], object]], ...] = (
    ("weights", lambda r: (r.job.model.weights, r.job.model.onnx_sha256)),
    ("input shapes", lambda r: r.job.model.input_shape),
    ("data", lambda r: (r.job.data, r.job.data_path)),
)


def ratio(base: Point, other: Point) -> Ratio | Absent:
    """Speed-up of `other` over `base`: the ratio of their medians, with a conservative interval.

    The interval spans every ratio of a value in one interval and a value in the other. With the two at confidence
    1 - a and 1 - b it covers with at least 1 - (a + b), by Bonferroni's inequality; no distribution is assumed.
    """
    over, under = value(base.record, "latency_ms"), value(other.record, "latency_ms")
    if isinstance(over, Absent):
        return Absent(f"{_base(base)} has no median here ({over.reason})")
    if isinstance(under, Absent):
        return under
    if under <= 0 or over <= 0:
        return Absent("a median is not above zero")
    if base.invalid or other.invalid:
        who = _base(base) if base.invalid else "this point"
        return Absent(f"{who} is flagged invalid, so it is not compared")
    doubtful = bool(base.doubts or other.doubts)
    i, j = interval(base.record, "latency_ms"), interval(other.record, "latency_ms")
    if base is other or i is None or j is None or j.low <= 0:
        return Ratio(over / under, base, doubtful=doubtful)
    confidence = 1 - (1 - i.confidence) - (1 - j.confidence)
    if confidence <= 0:  # the ranges of two processes each cover 50 %, and their ratios perhaps nothing
        return Ratio(over / under, base, doubtful=doubtful)
    scope = joint_scope(i.scope, j.scope)
    return Ratio(over / under, base, i.low / j.high, i.high / j.low, confidence, doubtful, scope=scope)


def _base(point: Point) -> str:
    """What a point's speed-up is taken against, as people call it."""
    return reference_of(point.series.workflow)


def speed_up(point: Point, references: Iterable[Point]) -> Ratio | Absent:
    """Speed-up of a point over the reference of the same model, batch and device, or why there is none.

    `references` are the points of the reference, pytorch or tensorflow in fp32, that ran with this model on this device
    class.
    """
    if isinstance(value(point.record, "latency_ms"), Absent):
        return ratio(point, point)
    near = [p for p in references if p.batch == point.batch]
    if not near:
        return Absent(f"there is no {_base(point)} run of this model, batch and device class")
    fair = [p for p in near if not_comparable(p.record, point.record) is None]
    if not fair:
        return Absent(f"not compared with {_base(point)}: {not_comparable(near[0].record, point.record)}")
    base = min(fair, key=lambda p: _distance(p, point))
    found = ratio(base, point)
    if isinstance(found, Ratio) and device_id(base.record) != device_id(point.record):
        where = f"{_base(base)} ran on {device_id(base.record)}, this on {device_id(point.record)}"
        return replace(found, caveat=f"{where}: same class, not same unit")
    return found


def _distance(base: Point, point: Point) -> tuple[bool, bool, bool, bool, str]:
    """Itself, then the same unit, the same sweep, the plain options; then by name, so that the choice is stable."""
    return (
        base is not point,
        device_id(base.record) != device_id(point.record),
        base.record.job.sweep_id != point.record.job.sweep_id,
        bool(base.record.job.options),
        base.record.run_id,
    )


def best(points: Sequence[Point], name: str, *, lowest: bool) -> Best | Absent:
    """The best of `points` by one metric. Flagged points are ranked only if there are no others."""
    known = [(v, p) for p in points if not isinstance(v := value(p.record, name), Absent)]
    if not known:
        return Absent("no point has a value")
    sound = [(v, p) for v, p in known if not p.doubts]
    pick = min if lowest else max
    top, point = pick(sound or known, key=lambda pair: pair[0])
    passed = [p for v, p in known if sound and p.doubts and (v < top if lowest else v > top)]
    return Best(point, top, tuple(passed))


def best_throughput(points: Sequence[Point]) -> Best | Absent:
    """The highest `throughput_per_s` (inputs/s) over batch sizes."""
    return best(points, "throughput_per_s", lowest=False)


def overlap(a: Record, b: Record, name: str) -> bool | None:
    """Whether two records' intervals of a metric overlap; None where one of them has none."""
    i, j = interval(a, name), interval(b, name)
    if i is None or j is None:
        return None
    return i.low <= j.high and j.low <= i.high
