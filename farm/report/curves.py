# SPDX-License-Identifier: Apache-2.0
"""Points of one way to run a model that differ in what is in flight alone, put together as curves over that. Pure.

A point belongs to up to two curves: one on which each request in flight has a stream or session of its own, and one on
which their number stays while the requests become more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from farm.report import stats, text
from farm.report.select import Point, Selection
from farm.report.series import device_id, facets
from farm.report.stats import Absent
from farm.report.table import at
from farm.saturation import Level, Saturation, saturation

#: What sets two studies apart beside class, model, workflow, precision, device and batch.
_FACETS = ("options", "calibration", "rebuild", "protocol", "weights", "data", "seed", "input", "stack")


@dataclass(frozen=True)
class Curve:
    """One line: `name` says what stays, `points` are in the order of what is in flight, one of each level."""

    name: str
    points: tuple[Point, ...]

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels that have a throughput and no invalid flag."""
        return tuple(found for p in self.points if (found := level_of(p)) is not None)

    @cached_property
    def saturation(self) -> Saturation | None:
        """Where it saturates; None for fewer than two sound levels."""
        return saturation(self.levels)


@dataclass(frozen=True)
class Study:
    """Everything in flight of one way to run a model at one batch size on one device."""

    device_class: str
    model: str
    name: str
    points: tuple[Point, ...]
    curves: tuple[Curve, ...]

    @property
    def most(self) -> Curve | None:
        """The curve that reaches the highest throughput, the first of equals; None where none has a saturation."""
        known = [curve for curve in self.curves if curve.saturation is not None]
        return max(known, key=lambda c: max(each.throughput for each in c.levels), default=None)


def in_flight(point: Point) -> int:
    """How many requests were in flight."""
    return point.record.job.protocol.in_flight


def level_of(point: Point) -> Level | None:
    """A point's throughput with what it may be: its interval, else the rates of equal parts of its timed stage."""
    found = stats.value(point.record, "throughput_per_s")
    if isinstance(found, Absent) or point.invalid:
        return None
    low, high = found, found
    known, rates = stats.interval(point.record, "throughput_per_s"), point.record.effective.get("window_rates_per_s")
    if known is not None:
        low, high = known.low, known.high
    elif isinstance(rates, list) and rates and all(isinstance(rate, (int, float)) for rate in rates):
        low, high = min(*rates, found), max(*rates, found)
    latency = stats.value(point.record, "latency_ms")
    return Level(in_flight(point), found, low, high, None if isinstance(latency, Absent) else latency)


def studies(selection: Selection) -> list[Study]:
    """Every study of the selection that has a curve, in the order of the tables."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for point in selection.ok:
        job = point.record.job
        if job.protocol.scenario == "streams":
            said = facets(job, (point.record,))
            series = point.series
            way = (series.device_class, series.model, series.workflow, series.precision, device_id(point.record))
            key = (*way, f"{point.batch:09d}", *(said[name] for name in _FACETS))
            found.setdefault(key, []).append(point)
    made = [_study(points) for points in found.values()]
    return [study for study in made if study.curves]


def studied(selection: Selection) -> set[str]:
    """The runs of the points that some curve has."""
    return {p.record.run_id for study in studies(selection) for curve in study.curves for p in curve.points}


def _study(points: Sequence[Point]) -> Study:
    ordered = tuple(sorted(points, key=_order))
    first = ordered[0]
    job = first.record.job
    options = facets(job, ())["options"]
    words = [f"{job.workflow} {job.precision}", options, at(first)]
    name = ", ".join(word for word in words if word)
    return Study(first.series.device_class, first.series.model, name, ordered, tuple(_curves(ordered)))


def _order(point: Point) -> tuple[object, ...]:
    protocol = point.record.job.protocol
    beside = (protocol.threads or 0, protocol.inter_threads or 0, protocol.sessions or 0, protocol.streams)
    return (in_flight(point), *beside, point.record.run_id)


def _curves(points: Sequence[Point]) -> Iterator[Curve]:
    families: dict[str, list[Point]] = {}
    for point in points:
        families.setdefault(_family(point), []).append(point)
    for family, of in sorted(families.items()):
        for name, members in _lines(of).items():
            line = _one_of_each(members)
            if len(line) > 1:
                yield Curve(", ".join(filter(None, (name, family))), line)


def _family(point: Point) -> str:
    """What must stay on any curve of a point: its threads, and sessions beside contexts."""
    protocol = point.record.job.protocol
    said = facets(point.record.job, ())["threads"]
    sessions = f"sessions {protocol.sessions}" if protocol.sessions and protocol.contexts else ""
    return ", ".join(filter(None, (sessions, said)))


def _lines(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        protocol = point.record.job.protocol
        if protocol.contexts is not None:
            what, shared = "stream", protocol.streams
        elif protocol.sessions is not None:
            what, shared = "session", protocol.sessions
        else:
            found.setdefault("streams", []).append(point)
            continue
        if shared == in_flight(point):
            found.setdefault(f"a {what} for each", []).append(point)
        found.setdefault(text.plural(shared, what), []).append(point)
    return found


def _one_of_each(points: Iterable[Point]) -> tuple[Point, ...]:
    """One point of each level: sound before flagged, then the newest."""
    ordered = sorted(points, key=lambda p: (not p.doubts, p.record.finished_at, p.record.run_id))
    chosen = {in_flight(point): point for point in ordered}
    return tuple(chosen[level] for level in sorted(chosen))
