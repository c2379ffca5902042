# SPDX-License-Identifier: Apache-2.0
"""Which record stands in which cell of a paper: the newest that is ok, or why there is none. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from farm.canary import is_canary
from farm.contract.job import JobSpec
from farm.report import stats, text
from farm.report.coverage import GAP_WORDS
from farm.report.papers.published import BASE, Paper, Way
from farm.report.select import Gap, Point, Selection
from farm.report.series import device_id
from farm.report.stats import Absent, Ratio

NOT_ASKED, OTHER_INPUTS = "not asked", "other inputs"
T = TypeVar("T", Point, Gap)


@dataclass(frozen=True)
class Slot:
    """A cell: its point, or in a word and a sentence why there is none. A point that is not ok says so itself."""

    point: Point | None
    word: str = ""
    reason: str = ""

    @property
    def ok(self) -> Point | None:
        """The point, if it ran."""
        return self.point if self.point is not None and self.point.ok else None


@dataclass(frozen=True)
class SpeedUp:
    """A speed-up over W0: the ratio of `statistic`, and of the medians with what their intervals allow."""

    value: float
    way: Way
    point: Point
    medians: Ratio


@dataclass(frozen=True)
class View:
    """The records of one device class that belong to a paper; `selection` holds them and nothing else.

    `aside` are records of the paper's cells with inputs of another shape, where others have the paper's.
    """

    paper: Paper
    device_class: str
    selection: Selection
    aside: tuple[Point, ...] = ()

    def slot(self, model: str, way: Way, batch: int) -> Slot:
        """The cell of a batch size."""
        found = [p for p in self._of(model, way) if not p.is_accuracy and batch in (p.batch, *p.stands_for)]
        gaps = [g for g in self._gaps(model, way) if g.batch == batch]
        return _slot(found, gaps, self._never(model, way, batch))

    def slots(self, model: str, way: Way) -> list[Slot]:
        """The cells of all the paper's batch sizes."""
        return [self.slot(model, way, batch) for batch in self.paper.batches]

    def ladder(self, model: str, way: Way) -> list[Point]:
        """The points of the newest job that tried the largest batch size of the paper, or came nearest to it."""
        jobs: dict[str, list[Point]] = {}
        for point in self._of(model, way):
            if not point.is_accuracy:
                jobs.setdefault(point.record.job.job_id, []).append(point)
        if not jobs:
            return []
        return max(jobs.values(), key=self._reach)

    def _reach(self, points: Sequence[Point]) -> tuple[bool, bool, int, str]:
        job = points[0].record.job
        asked = max(job.batches.sizes, default=0)
        newest = max(p.record.finished_at for p in points)
        return self.has_shape(points[0]), any(p.ok for p in points), min(asked, self.paper.batches[-1]), newest

    def accuracy(self, model: str, way: Way, metric: str) -> Slot:
        """The best evaluation of a workflow, over calibrations and options."""
        points = self._evaluations(model, way)
        found = stats.best([p for p in points if p.ok], metric, lowest=False)
        if not isinstance(found, Absent):
            return Slot(found.point)
        gaps = [g for g in self._gaps(model, way) if g.accuracy]
        return _slot(points, gaps, self._never(model, way, None))

    def by_calibration(self, model: str, way: Way) -> dict[int, Slot]:
        """The newest evaluation for each calibration batch size."""
        found: dict[int, list[Point]] = {}
        for point in self._evaluations(model, way):
            if point.record.job.calibration is not None:
                found.setdefault(point.record.job.calibration.batch, []).append(point)
        return {batch: Slot(points[0]) for batch, points in sorted(found.items())}

    def speed_ups(self, model: str, way: Way, batches: Iterable[int], statistic: str) -> list[SpeedUp]:
        """Speed-ups over W0 at each batch size that both have, from the newest pair that measures the same thing."""
        made = (self._speed_up(model, way, batch, statistic) for batch in batches)
        return [found for found in made if found is not None]

    def _speed_up(self, model: str, way: Way, batch: int, statistic: str) -> SpeedUp | None:
        bases = [p for p in self._of(model, self.paper.way(BASE)) if p.ok and p.batch == batch]
        ran = [p for p in self._of(model, way) if p.ok and p.batch == batch]
        # The same unit before another of its class, and of those the newest.
        pairs = [(p, b) for p in ran for b in sorted(bases, key=lambda b: device_id(b.record) != device_id(p.record))]
        for point, base in pairs:
            medians = stats.speed_up(point, [base])
            if isinstance(medians, Absent):
                continue
            over, under = stats.value(medians.base.record, statistic), stats.value(point.record, statistic)
            if isinstance(over, Absent) or isinstance(under, Absent) or under <= 0:
                continue
            return SpeedUp(over / under, way, point, medians)
        return None

    def why_no_speed_up(self, model: str, batches: Sequence[int]) -> str:
        """Why a model has no speed-up at all at these batch sizes."""
        base = self.paper.way(BASE)
        for way in self.paper.rivals:
            for point in self._of(model, way):
                if point.ok and point.batch in batches:
                    bases = [p for p in self._of(model, base) if p.ok]
                    found = stats.speed_up(point, bases)
                    if isinstance(found, Absent):
                        return found.reason
        return "W0 and another workflow have no batch size in common"

    @cached_property
    def shown(self) -> tuple[Point, ...]:
        """The timed points that stand in a cell."""
        cells = [slot for model in self.paper.models for way in self.paper.ways for slot in self.slots(model, way)]
        return tuple(slot.ok for slot in cells if slot.ok is not None)

    @cached_property
    def standing(self) -> Selection:
        """The selection with only those points that a table or figure of the paper leads to."""
        found: list[Point | None] = []
        for model in self.paper.models:
            for way in self.paper.ways:
                evaluated = [self.accuracy(model, way, metric) for metric in ("top1", "top5")]
                slots = [*self.slots(model, way), *evaluated, *self.by_calibration(model, way).values()]
                found += [*(slot.point for slot in slots), *self.ladder(model, way)]
                for statistic in {e.statistic for e in self.paper.exhibits if e.statistic}:
                    for pair in self.speed_ups(model, way, self.paper.batches, statistic):
                        found += [pair.point, pair.medians.base]
        ids = {id(point) for point in found}
        return replace(self.selection, points=tuple(p for p in self.selection.points if id(p) in ids))

    @cached_property
    def dataset(self) -> str:
        """What the accuracies shown are taken on: the paper's ImageNet if any is, else what there is."""
        found = {_dataset(p.record.job) for p in self.selection.accuracy if p.ok} or {""}
        return "imagenet" if "imagenet" in found else min(found)

    def _evaluations(self, model: str, way: Way) -> list[Point]:
        found = [p for p in self._of(model, way) if p.is_accuracy or (p.accuracy and not p.ok)]
        return [p for p in found if not p.ok or _dataset(p.record.job) == self.dataset]

    def has_shape(self, point: Point) -> bool:
        """Whether a point had inputs of the paper's shape."""
        return _shape(point) == self.paper.input_shape

    def _of(self, model: str, way: Way) -> list[Point]:
        """All points of a model and workflow: those of the paper's input shape, the ok and the newest first."""
        return self._points.get((model, way.tag), [])

    @cached_property
    def _points(self) -> dict[tuple[str, str], list[Point]]:
        found: dict[tuple[str, str], list[Point]] = {}
        for point in sorted(self.selection.points, key=self._rank, reverse=True):
            way = way_of(self.paper, point.record.job)
            if way is not None:
                found.setdefault((point.series.model, way.tag), []).append(point)
        return found

    def _rank(self, point: Point) -> tuple[bool, bool, str, str]:
        return self.has_shape(point), point.ok, point.record.finished_at, point.record.run_id

    def _gaps(self, model: str, way: Way) -> list[Gap]:
        return [g for g in self.selection.gaps if g.series.model == model and way_of(self.paper, g.job) == way]

    def _never(self, model: str, way: Way, batch: int | None) -> Slot:
        """Why a cell that nothing speaks of is empty; batch None: the accuracy."""
        where = "for its accuracy" if batch is None else f"at batch {batch}"
        what = f"{way.workflow} {way.precision} with {model}"
        other = {
            shape_words(p.record.job.model.input_shape)
            for p in self.aside
            if p.series.model == model and p.batch == batch and way_of(self.paper, p.record.job) == way
        }
        if other:
            return Slot(None, OTHER_INPUTS, f"{what} ran with inputs of {text.listed(sorted(other))} only, not as here")
        return Slot(None, NOT_ASKED, f"no job on {self.device_class} asked for {what} {where}")


def way_of(paper: Paper, job: JobSpec) -> Way | None:
    """Which of a paper's workflows a job is; None for any that is none of them.

    One request in flight and no CUDA graph, as the papers have it, W0 without any option; builds of a study of rebuilds
    are no cells of theirs.
    """
    if is_canary(job) or job.protocol.scenario != "single" or job.rebuild is not None:
        return None
    if job.model.name not in paper.models or job.model.source != "torchvision":
        return None
    way = next((w for w in paper.ways if (w.workflow, w.precision) == (job.workflow, job.precision)), None)
    if job.options.get("cuda_graph") or (way is not None and way.tag == BASE and any(job.options.values())):
        return None
    return way


def views(paper: Paper, selection: Selection) -> list[View]:
    """One view for each device class with a number for the paper; for every class asked, if none has one."""
    points = [p for p in selection.points if way_of(paper, p.record.job) and (paper.evaluates or not p.is_accuracy)]
    gaps = [g for g in selection.gaps if way_of(paper, g.job) and (paper.evaluates or not g.accuracy)]
    measured = {p.series.device_class for p in points if p.ok}
    asked = {p.series.device_class for p in points} | {g.series.device_class for g in gaps}
    made = []
    for name in sorted(measured or asked):
        own = _shaped(paper, [p for p in points if p.series.device_class == name], lambda p: p.is_accuracy)
        left = _shaped(paper, [g for g in gaps if g.series.device_class == name], lambda g: g.accuracy)
        kept = {id(p) for p in own}
        aside = tuple(p for p in points if p.series.device_class == name and id(p) not in kept)
        made.append(View(paper, name, replace(selection, points=tuple(own), gaps=tuple(left)), aside))
    return made


def _shaped(paper: Paper, found: list[T], is_accuracy: Callable[[T], bool]) -> list[T]:
    """Those with inputs of the paper's shape if there are any, apart for times and accuracies; else all."""
    kept = []
    for accuracy in (False, True):
        some = [each for each in found if is_accuracy(each) is accuracy]
        kept += [each for each in some if _shape(each) == paper.input_shape] or some
    return kept


def shape_words(shape: Sequence[int]) -> str:
    """`3 x 224 x 224`."""
    return " x ".join(str(n) for n in shape)


def _shape(of: Point | Gap) -> tuple[int, ...]:
    job = of.record.job if isinstance(of, Point) else of.job
    return tuple(job.model.input_shape)


def _dataset(job: JobSpec) -> str:
    return job.accuracy.dataset if job.accuracy is not None else ""


def _slot(points: Sequence[Point], gaps: Sequence[Gap], never: Slot) -> Slot:
    if points:
        return Slot(points[0])
    if gaps:
        return Slot(None, GAP_WORDS[gaps[0].kind], gaps[0].reason)
    return never


def why(slot: Slot) -> tuple[str, str]:
    """In a word and in a sentence, why a cell has no number."""
    if slot.point is None:
        return slot.word, slot.reason
    failure = slot.point.record.failure
    said = failure.message if failure is not None else "the record gives no reason"
    return text.plain(slot.point.record.outcome), said
