# SPDX-License-Identifier: Apache-2.0
"""Choose what a report speaks of: the newest record of each point, what was asked and is not there, what can't be read.

Pure: the same records give the same selection, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from farm.contract.canonical import canonical_json
from farm.contract.codec import to_json
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.contract.record import ACCURACY, PIPELINE, RECORD_SCHEMA, Flag, Record
from farm.report.series import JobKey, Series, device_id, model_order, name_all


@runtime_checkable
class Unreadable(Protocol):
    """A record that the store could not read: where it is and what is wrong with it."""

    @property
    def path(self) -> object: ...
    @property
    def problem(self) -> str: ...


@dataclass(frozen=True)
class Point:
    """One chosen record and its place. `stands_for` is which asked points it settles (a refused job: all).

    `accuracy` says that it settles the job's accuracy, as that record or as one of the whole job.
    """

    series: Series
    record: Record
    stands_for: tuple[int, ...] = ()
    accuracy: bool = False

    @property
    def batch(self) -> int | None:
        """The batch size that was timed, or None where the record is of the whole job, the accuracy or a pipeline."""
        return None if self.is_accuracy or self.is_pipeline else self.record.batch_size

    @property
    def size(self) -> int:
        """Its place among the points of its series: a pipeline has a batch size, too."""
        return (self.record.batch_size if self.is_pipeline else self.batch) or 0

    @property
    def is_pipeline(self) -> bool:
        """Whether this is the record of a study of the pipeline."""
        return self.record.point == PIPELINE

    @property
    def is_accuracy(self) -> bool:
        """Whether this is the record of an accuracy."""
        return self.record.point == ACCURACY

    @property
    def ok(self) -> bool:
        """Whether the run ended well; it may still be flagged."""
        return self.record.outcome is Outcome.OK

    @property
    def count(self) -> int:
        """How many asked points this record settles, 1 at least."""
        return max(1, len(self.stands_for) + self.accuracy)

    @property
    def doubts(self) -> tuple[Flag, ...]:
        """The flags that make a number doubtful: all but those of level `info`."""
        return tuple(f for f in self.record.flags if f.level != "info")

    @property
    def invalid(self) -> bool:
        """Whether a flag says that this number must not be compared."""
        return any(f.level == "invalid" for f in self.record.flags)


@dataclass(frozen=True)
class Gap:
    """An asked point with no record. `kind` is `not_run` (its ladder had ended) or `missing` (nobody knows why)."""

    series: Series
    job: JobSpec
    batch: int | None
    kind: str
    reason: str
    accuracy: bool = False


@dataclass(frozen=True)
class Problem:
    """A record that is not used, with where it is and why."""

    where: str
    problem: str


@dataclass(frozen=True)
class Selection:
    """All that a report is made from. `superseded` counts records that a later generation replaced."""

    points: tuple[Point, ...] = ()
    gaps: tuple[Gap, ...] = ()
    problems: tuple[Problem, ...] = ()
    superseded: int = 0

    @property
    def ok(self) -> tuple[Point, ...]:
        """The points that were timed, flagged or not."""
        return tuple(p for p in self.points if p.ok and p.batch is not None)

    @property
    def ran(self) -> tuple[Point, ...]:
        """The points that were timed and the pipelines that were studied."""
        return tuple(p for p in self.points if p.ok and (p.batch is not None or p.is_pipeline))

    @property
    def pipelines(self) -> tuple[Point, ...]:
        """The studies of the pipeline, ok or not."""
        return tuple(p for p in self.points if p.is_pipeline)

    @cached_property
    def timed(self) -> Selection:
        """The same without the studies of the pipeline, which have no latency to stand beside others."""
        gaps = tuple(g for g in self.gaps if g.job.pipeline is None)
        return replace(self, points=tuple(p for p in self.points if not p.is_pipeline), gaps=gaps)

    @property
    def accuracy(self) -> tuple[Point, ...]:
        """The evaluations of the accuracy, ok or not."""
        return tuple(p for p in self.points if p.is_accuracy)

    @property
    def asked(self) -> int:
        """How many points were asked for."""
        return sum(p.count for p in self.points) + len(self.gaps)

    @property
    def classes(self) -> tuple[str, ...]:
        """Device classes, sorted."""
        return tuple(sorted({device_class for device_class, _ in self._series}))

    def series(self, device_class: str | None = None, model: str | None = None) -> tuple[Series, ...]:
        """The series of a class and model, in the order in which tables show them."""
        if device_class is not None and model is not None:
            return self._series.get((device_class, model), ())
        return tuple(s for (name, _), of in self._series.items() for s in of if device_class in (None, name))

    def batches(self, device_class: str) -> tuple[int, ...]:
        """The batch sizes that a class was asked for, in order."""
        found = {b for p in self.points if p.series.device_class == device_class for b in p.stands_for}
        found |= {g.batch for g in self.gaps if g.series.device_class == device_class and g.batch is not None}
        return tuple(sorted(found))

    def models(self, device_class: str) -> tuple[str, ...]:
        """The models of a class, sorted."""
        return tuple(sorted((model for name, model in self._series if name == device_class), key=model_order))

    def of(self, series: Series) -> tuple[Point, ...]:
        """The points of one series, by batch size."""
        return self._by_series.get(series, ())

    def gaps_of(self, series: Series) -> tuple[Gap, ...]:
        """The gaps of one series, by batch size."""
        return tuple(g for g in self.gaps if g.series == series)

    def references(self, series: Series) -> tuple[Point, ...]:
        """What the points of a series are compared with: the baseline of its model and device class, as far as ok."""
        near = self.series(series.device_class, series.model)
        return tuple(p for s in near if s.is_reference for p in self.of(s) if p.ok)

    @cached_property
    def _by_series(self) -> dict[Series, tuple[Point, ...]]:
        found: dict[Series, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.series, []).append(point)
        return {series: tuple(points) for series, points in found.items()}

    @cached_property
    def _series(self) -> dict[tuple[str, str], tuple[Series, ...]]:
        """Series by class and model, in order."""
        found: dict[tuple[str, str], list[Series]] = {}
        named = {p.series for p in self.points} | {g.series for g in self.gaps}
        for series in sorted(named, key=lambda s: s.sort_key):
            found.setdefault((series.device_class, series.model), []).append(series)
        return {key: tuple(of) for key, of in found.items()}


def record_path(record: Record) -> str:
    """Where the store keeps a record, relative to its root: `records/yyyy/mm/dd/RUN_ID.json`, by its finish."""
    return "records/{}/{}.json".format(record.finished_at[:10].replace("-", "/"), record.run_id)


def select(entries: Iterable[object], expected: Iterable[JobSpec] = ()) -> Selection:
    """Choose the newest record of every point; list, and never fail on, what can't be used.

    `expected` are jobs that should have records; those that have none show as missing.
    """
    records, problems = _sort_out(entries)
    chosen = _newest(records)
    jobs = _jobs(chosen, expected)
    named = name_all(jobs)
    points, gaps = [], []
    for key, (job, of_job) in jobs.items():
        points += _points(named[key], job, of_job)
        if key.part == 0:
            gaps += _gaps(named[key], job, [r for r in chosen if r.job.job_id == job.job_id])
    return Selection(
        points=tuple(sorted(points, key=lambda p: (*p.series.sort_key, p.size, p.record.run_id))),
        gaps=tuple(sorted(gaps, key=lambda g: (*g.series.sort_key, g.batch or 0))),
        problems=tuple(sorted(problems, key=lambda p: (p.where, p.problem))),
        superseded=len(records) - len(chosen),
    )


def _sort_out(entries: Iterable[object]) -> tuple[list[Record], list[Problem]]:
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    for entry in _ordered(entries, problems):
        if not isinstance(entry, Record):
            problems.append(_foreign(entry))
        elif entry.schema > RECORD_SCHEMA:
            what = f"its schema is {entry.schema}; this version reads up to {RECORD_SCHEMA}: update inferfarm"
            problems.append(Problem(entry.run_id, what))
        elif entry.run_id not in records:
            records[entry.run_id] = entry
        elif entry != records[entry.run_id]:
            problems.append(Problem(entry.run_id, "a second, different record of this run; the earlier one is used"))
    return list(records.values()), problems


def _ordered(entries: Iterable[object], problems: list[Problem]) -> list[object]:
    keyed: list[tuple[tuple[str, str, bytes], object]] = []
    for entry in entries:
        try:
            keyed.append((_order(entry), entry))
        except UnicodeEncodeError:
            # JSON lets such text through, and no file of a report could hold it.
            where = ascii(getattr(entry, "run_id", type(entry).__name__)).strip("'")
            problems.append(Problem(where, "its text holds half of a surrogate pair, which is no character"))
    return [entry for _, entry in sorted(keyed, key=lambda pair: pair[0])]


def _order(entry: object) -> tuple[str, str, bytes]:
    if isinstance(entry, Record):
        return (entry.finished_at, entry.run_id, canonical_json(_finite(to_json(entry))))
    return ("", repr(getattr(entry, "path", entry)), b"")


def _finite(value: object) -> object:
    """Canonical JSON has no word for NaN, and a bad number in one record must not end the report."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value


def _foreign(entry: object) -> Problem:
    if isinstance(entry, Unreadable):
        return Problem(str(entry.path), str(entry.problem))
    return Problem(type(entry).__name__, "not a record of this farm")


def _newest(records: Sequence[Record]) -> list[Record]:
    """Keep each point's highest generation; a record of a whole job yields to any later generation of that job."""
    latest: dict[tuple[str, str, int | None], Record] = {}
    top: dict[str, int] = {}
    for record in records:
        job = record.job
        top[job.job_id] = max(top.get(job.job_id, 0), job.generation)
        # An accuracy is one point of its job, at whichever batch size it was taken.
        key = (job.job_id, record.point, None if record.point == ACCURACY else record.batch_size)
        held = latest.get(key)
        if held is None or held.job.generation < job.generation:
            latest[key] = record
    return [r for r in latest.values() if not _is_whole(r) or r.job.generation == top[r.job.job_id]]


def _jobs(records: Sequence[Record], expected: Iterable[JobSpec]) -> dict[JobKey, tuple[JobSpec, Sequence[Record]]]:
    """Group records by job, and a job that moved by device: part 0 has its newest record, and its gaps."""
    by_job: dict[str, dict[str, list[Record]]] = {}
    for record in sorted(records, key=lambda r: (r.job.job_id, not device_id(r), -r.job.generation, _batch(r))):
        devices = by_job.setdefault(record.job.job_id, {})
        known = device_id(record) or next(iter(devices), "")
        devices.setdefault(known, []).append(record)
    jobs: dict[JobKey, tuple[JobSpec, Sequence[Record]]] = {}
    for job_id, devices in by_job.items():
        for part, found in enumerate(devices.values()):
            jobs[JobKey(job_id, part)] = (found[0].job, found)
    for job in sorted(expected, key=lambda j: j.job_id):
        jobs.setdefault(JobKey(job.job_id, 0), (job, ()))
    return jobs


def _points(series: Series, job: JobSpec, records: Sequence[Record]) -> list[Point]:
    have = {r.batch_size for r in records if r.point != ACCURACY}
    rest = tuple(size for size in job.batches.sizes if size not in have)
    owed = job.accuracy is not None and not any(r.point == ACCURACY for r in records)
    return [_point(series, r, rest, owed) for r in records]


def _point(series: Series, record: Record, rest: tuple[int, ...], owed: bool) -> Point:
    if record.point == ACCURACY:
        return Point(series, record, accuracy=True)
    if record.batch_size is None:
        return Point(series, record, rest, accuracy=owed)
    return Point(series, record, (record.batch_size,))


def _gaps(series: Series, job: JobSpec, records: Sequence[Record]) -> list[Gap]:
    if any(_is_whole(r) for r in records):
        return []
    have = {r.batch_size for r in records if r.point != ACCURACY}
    stop = max((r for r in records if r.ladder_stop not in (None, "end")), key=_batch, default=None)
    found = [_gap(series, job, size, stop) for size in job.batches.sizes if size not in have]
    if job.accuracy is not None and not any(r.point == ACCURACY for r in records):
        found.append(Gap(series, job, None, "missing", "there is no record of the accuracy", accuracy=True))
    return found


def _gap(series: Series, job: JobSpec, size: int, stop: Record | None) -> Gap:
    if stop is not None and size > _batch(stop):
        reason = f"the ladder had ended at batch {_batch(stop)} ({str(stop.ladder_stop).replace('_', ' ')})"
        return Gap(series, job, size, "not_run", reason)
    return Gap(series, job, size, "missing", "there is no record of this point")


def _is_whole(record: Record) -> bool:
    """Whether a record speaks for a whole job: one that was refused, or given up."""
    return record.batch_size is None and record.point != ACCURACY


def _batch(record: Record) -> int:
    return record.batch_size or 0
