# SPDX-License-Identifier: Apache-2.0
"""Predictions learned from what ran: pure, a few look-ups for each job.

A point is predicted from the first of these that is known:
    the same case, class of device and protocol: at this batch size, or at the nearest, by the formula's ratio;
    the same on another class, by the formula's ratio for how the two compare on all that both ran;
    the formula of `scheduler.predict`, with a call time of the same model and workflow in place of its guess (on the
    class, or on another one, scaled), or with its guess times how wrong it was for this workflow.
All of what is known are medians, and all of what is made from them: one odd run or cell changes little.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from farm.contract.job import JobSpec, Protocol
from farm.store.columns import calibration_text, options_text, protocol_id
from farm.store.durations import Took
from scheduler import predict

#: Model, workflow, precision, options, calibration: what is measured, wherever.
Case = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class _Wanted:
    case: Case
    device_class: str
    protocol: Protocol
    protocol_id: str


class Predictor:
    """Knows what `rows` say; `classes` maps each device to its class, for jobs that are bound to one device."""

    def __init__(self, rows: Iterable[Took] = (), classes: Mapping[str, str] | None = None) -> None:
        known = list(rows)
        self._classes = dict(classes or {})
        self._ids: dict[int, tuple[Protocol, str]] = {}
        self._points: dict[tuple[Case, str, str], dict[int, float]] = defaultdict(dict)
        self._elsewhere: dict[tuple[Case, str], set[str]] = defaultdict(set)
        for row in known:
            self._points[_case(row), row.protocol_id, row.device_class][row.batch_size] = row.seconds
            self._elsewhere[_case(row), row.protocol_id].add(row.device_class)
        self._prepare = _grouped(known, _prepare_keys, lambda row: row.prepare_s)
        self._calls = _grouped(known, _call_keys, lambda row: _call_ratio(row))
        self._scales = _class_scales(known)

    def predicted_s(self, job: JobSpec) -> float:
        """The device-seconds of a job: its preparation, every point of its ladder, its accuracy."""
        wanted = self._wanted(job)
        points = sum(
            self._point_s(wanted, size) if job.pipeline is None else predict.ladder_point_s(job, 0.0)
            for size in job.batches.sizes
        )
        if job.profile:
            points += sum(predict.profiles_s(job, self._call_s(wanted, size)) for size in job.batches.sizes)
        largest = max(job.batches.sizes, default=1)
        input_s = self._call_s(wanted, largest) / largest
        return self._prepare_s(job, wanted) + points + predict.accuracy_s(job, input_s)

    def _wanted(self, job: JobSpec) -> _Wanted:
        case = (
            job.model.label, job.workflow, job.precision, options_text(job.options), calibration_text(job.calibration),
        )  # fmt: skip
        target = job.target
        device_class = target.device_class or self._classes.get(target.device_id or "", "")
        return _Wanted(case, device_class, job.protocol, self._id_of(job.protocol))

    def _id_of(self, protocol: Protocol) -> str:
        # Jobs of a sweep share one object, and to name it anew each time would be most of the work.
        kept = self._ids.get(id(protocol))
        if kept is None or kept[0] is not protocol:
            kept = self._ids[id(protocol)] = (protocol, protocol_id(protocol))
        return kept[1]

    def _point_s(self, wanted: _Wanted, size: int) -> float:
        here = self._points.get((wanted.case, wanted.protocol_id, wanted.device_class))
        if here:
            return self._nearest_s(wanted, here, size)
        call = self._call_s(wanted, size)
        found = []
        for other in sorted(self._elsewhere.get((wanted.case, wanted.protocol_id), ())):
            there = replace(wanted, device_class=other)
            known = self._nearest_s(there, self._points[wanted.case, wanted.protocol_id, other], size)
            # Not by the call times alone: a protocol's minima of time are the same on a fast device.
            found.append(
                known
                * predict.point_s(wanted.protocol, call)
                / predict.point_s(there.protocol, self._call_s(there, size))
            )
        return statistics.median(found) if found else predict.point_s(wanted.protocol, call)

    def _nearest_s(self, wanted: _Wanted, known: Mapping[int, float], size: int) -> float:
        if size in known:
            return known[size]
        nearest = min(known, key=lambda batch: (abs(math.log(batch / size)), batch))
        there, here = (predict.point_s(wanted.protocol, self._call_s(wanted, batch)) for batch in (nearest, size))
        return known[nearest] * here / there

    def _call_s(self, wanted: _Wanted, size: int) -> float:
        """One call: the formula's, times what is known of how wrong it is for the nearest of what ran."""
        model, workflow = wanted.case[:2]
        keys = (
            (wanted.case, wanted.device_class),
            (model, workflow, wanted.device_class),
            (wanted.case,),
            (model, workflow),
            (workflow, "on", wanted.device_class),
            (workflow, "anywhere"),
            (),
        )
        for key in keys:
            by_class = self._calls.get(key)
            if by_class:
                return predict.call_s(size) * self._on(by_class, wanted.device_class)
        return predict.call_s(size)

    def _prepare_s(self, job: JobSpec, wanted: _Wanted) -> float:
        model, workflow, precision = wanted.case[:3]
        known = (
            self._prepare.get((wanted.case, wanted.device_class))
            or self._prepare.get((model, workflow, precision, wanted.device_class))
            or self._prepare.get((wanted.case,))
        )
        if not known:
            return predict.prepare_s(job)
        # What is known are the stages of a process, which has to start first. Not scaled: classes are compared by
        # inference, and to build is other work.
        return predict.PROCESS_S + statistics.median(known.values())

    def _on(self, by_class: Mapping[str, float], device_class: str) -> float:
        """The value of a class, or the median of those of others, each scaled to it."""
        if device_class in by_class:
            return by_class[device_class]
        return statistics.median(
            value * self._scales.get((device_class, other), 1.0) for other, value in sorted(by_class.items())
        )


def _case(row: Took) -> Case:
    return row.model, row.workflow, row.precision, row.options, row.calibration


def _prepare_keys(row: Took) -> tuple[tuple[object, ...], ...]:
    case = _case(row)
    return (case, row.device_class), (row.model, row.workflow, row.precision, row.device_class), (case,)


def _call_keys(row: Took) -> tuple[tuple[object, ...], ...]:
    case = _case(row)
    return (
        (case, row.device_class),
        (row.model, row.workflow, row.device_class),
        (case,),
        (row.model, row.workflow),
        (row.workflow, "on", row.device_class),
        (row.workflow, "anywhere"),
        (),
    )


def _call_ratio(row: Took) -> float | None:
    return row.latency_ms / 1000 / predict.call_s(row.batch_size) if row.latency_ms else None


def _grouped(
    rows: Iterable[Took],
    keys: Callable[[Took], Iterable[tuple[object, ...]]],
    value: Callable[[Took], float | None],
) -> dict[tuple[object, ...], dict[str, float]]:
    """Medians of a value, by key and class of device."""
    found: dict[tuple[object, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        number = value(row)
        if number is not None:
            for key in keys(row):
                found[key][row.device_class].append(number)
    return {
        key: {name: statistics.median(numbers) for name, numbers in by_class.items()} for key, by_class in found.items()
    }


def _class_scales(rows: Iterable[Took]) -> dict[tuple[str, str], float]:
    """For each two classes the median ratio of the call times of all that both ran."""
    cells: dict[tuple[Case, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.latency_ms:
            cells[_case(row), row.batch_size][row.device_class] = row.latency_ms
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell in cells.values():
        for one, own in cell.items():
            for other, theirs in cell.items():
                if one != other:
                    ratios[one, other].append(own / theirs)
    return {pair: statistics.median(found) for pair, found in ratios.items()}
