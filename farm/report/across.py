# SPDX-License-Identifier: Apache-2.0
"""Device classes side by side: the same way to run the same model, with the same switches, on each of them. Pure.

Two series of two classes share a row if all that decides what a number means agrees: model, workflow, precision,
options, calibration, weights, data, input shape, seed and protocol. The stacks differ by nature and are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farm.contract.canonical import digest
from farm.report import stats, text
from farm.report.coverage import GAP_WORDS
from farm.report.select import Gap, Point, Selection
from farm.report.series import Series, facets, variants
from farm.report.stats import Absent
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, number_cell, run_anchor

#: What differs between devices by nature, and so does not keep two series from one row.
_OF_THE_PLACE = ("stack", "device", "sweep")
#: With more rows than this a table is folded.
MOST_ROWS = 30


@dataclass(frozen=True, order=True)
class Way:
    """A row that classes share: `label` is workflow, precision and what sets it apart. `rank` orders rows."""

    model: str
    rank: tuple[bool, str, bool, str]
    label: str


@dataclass(frozen=True)
class Quantity:
    """A table of this module: one metric, at every batch size or at the largest that a row's classes share."""

    key: str
    title: str
    metric: str
    unit: str
    caption: str
    write: Callable[[float], str] = text.number
    every_batch: bool = False


def _percent(value: float) -> str:
    return text.percent(value * 100)


_LARGEST = " At the largest batch size that ran on every device of the row."
QUANTITIES = (
    Quantity("latency-across", "Latency", "latency_ms", "ms",
             "Median time of one inference of the whole batch. Lower is better.", every_batch=True),
    Quantity("throughput-across", "Throughput", "throughput_per_s", "inputs/s",
             "Inputs finished per second of wall clock. Higher is better.", every_batch=True),
    Quantity("gpu-memory-across", "Peak GPU memory", "gpu_memory_peak_bytes", "MiB",
             "Of the measuring process." + _LARGEST + " Lower is better.", text.mib),
    Quantity("host-memory-across", "Peak host memory", "host_rss_peak_bytes", "MiB",
             "Of the measuring process." + _LARGEST + " Lower is better.", text.mib),
    Quantity("gpu-use-across", "GPU in use", "gpu_utilisation", "%",
             "Share of the timed stage in which the GPU had work, as its driver tells it." + _LARGEST, _percent),
    Quantity("cpu-use-across", "CPU in use", "cpu_utilisation", "cores",
             "Cores kept at work in the timed stage." + _LARGEST),
    Quantity("energy-across", "Energy", "energy_per_input_j", "J per input",
             "Of what the device's own meter covers; meters of different devices cover different parts." + _LARGEST
             + " Lower is better."),
    Quantity("accuracy-across", "Top-1 accuracy", "top1", "%",
             "Share of the test images that are told rightly. Higher is better.", _percent),
    Quantity("mismatch-across", "Mismatch", "mismatch_1e-3_pct", "%",
             "Share of the outputs not close to pytorch fp32, of models of TensorFlow to tensorflow fp32, at rtol 1e-3."
             + _LARGEST + " Lower is better.",
             text.percent),
)  # fmt: skip


def ways(selection: Selection) -> dict[Series, Way]:
    """The row of each series; series of several classes, or of several devices of one class, may share one."""
    described: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    digests: dict[Series, str] = {}
    for series in selection.series():
        said = _facets(selection, series)
        digests[series] = digest(said)
        described.setdefault((series.model, series.workflow, series.precision), {})[digests[series]] = said
    labels = {key: variants(found) for key, found in described.items()}
    made = {}
    for series, name in digests.items():
        variant = labels[series.model, series.workflow, series.precision][name]
        plain = Series("", series.model, series.workflow, series.precision, variant)
        *_, order = plain.sort_key
        made[series] = Way(series.model, (order[0], order[1], order[2], f"{order[3]:02d} {variant}"), plain.label)
    return made


def _facets(selection: Selection, series: Series) -> dict[str, str]:
    points = selection.of(series)
    job = points[0].record.job if points else selection.gaps_of(series)[0].job
    said = facets(job, ())
    return {name: "" if name in _OF_THE_PLACE else value for name, value in said.items()}


def across_tables(selection: Selection) -> list[Table]:
    """A table for each quantity that two classes have for any row; none where there is one class alone."""
    if len(selection.classes) < 2:
        return []
    named = ways(selection)
    places: dict[Way, dict[str, list[Series]]] = {}
    for series, way in named.items():
        places.setdefault(way, {}).setdefault(series.device_class, []).append(series)
    shared = {way: places[way] for way in sorted(places) if len(places[way]) > 1}
    made = (_table(selection, shared, quantity) for quantity in QUANTITIES)
    return [table for table in made if table is not None]


def _table(selection: Selection, shared: dict[Way, dict[str, list[Series]]], of: Quantity) -> Table | None:
    notes = Footnotes()
    groups: dict[str, list[Row]] = {}
    for way, places in shared.items():
        for batch in _batches(selection, places, of):
            found = {name: _points(selection, known, batch, of) for name, known in places.items()}
            if not any(_has(p, of) for points in found.values() for p in points):
                continue
            cells = tuple(
                _cell(found.get(name), _gap(selection, places.get(name, ()), batch), of, notes)
                for name in selection.classes
            )
            heading = way.label if batch is None else f"{way.label}, batch {batch}"
            groups.setdefault(way.model, []).append(Row(heading, cells))
    rows = sum(len(found) for found in groups.values())
    if not rows:
        return None
    made = tuple(Group(model, tuple(found)) for model, found in groups.items())
    columns = tuple(Column(name, of.unit) for name in selection.classes)
    title = f"{of.title} across devices"
    return Table(
        of.key, title, of.caption, "Workflow, precision", columns, made, "Model", notes.notes, wide=rows > MOST_ROWS
    )


def _batches(selection: Selection, places: dict[str, list[Series]], of: Quantity) -> Sequence[int | None]:
    """The batch sizes to show: None stands for the accuracy, which is of no batch size."""
    if of.metric == "top1":
        return (None,)
    if of.every_batch:
        asked = {b for known in places.values() for s in known for p in selection.of(s) for b in p.stands_for}
        asked |= {g.batch for known in places.values() for s in known for g in selection.gaps_of(s) if g.batch}
        return sorted(asked)
    ran = [{p.batch for s in known for p in selection.of(s) if p.ok and p.batch} for known in places.values()]
    common = set.intersection(*(r for r in ran if r)) if any(ran) else set()
    return [max(common)] if common else []


def _points(selection: Selection, known: Sequence[Series], batch: int | None, of: Quantity) -> list[Point]:
    """The points of a class at a batch size, or its accuracies; the one to show first: sound, then newest."""
    points = [p for s in known for p in selection.of(s)]
    chosen = [p for p in points if (p.is_accuracy if batch is None else batch in p.stands_for)]
    newest = sorted(chosen, key=lambda p: (p.record.finished_at, p.record.run_id), reverse=True)
    return sorted(newest, key=lambda p: (not p.ok, not _has(p, of), bool(p.doubts)))


def _gap(selection: Selection, known: Sequence[Series], batch: int | None) -> Gap | None:
    gaps = (g for s in known for g in selection.gaps_of(s))
    return next((g for g in gaps if (g.accuracy if batch is None else g.batch == batch)), None)


def _has(point: Point, of: Quantity) -> bool:
    return point.ok and not isinstance(stats.value(point.record, of.metric), Absent)


def _cell(points: list[Point] | None, gap: Gap | None, of: Quantity, notes: Footnotes) -> Cell:
    if not points:
        return absent("not asked for on this device") if gap is None else Cell(GAP_WORDS[gap.kind], note=gap.reason,
                                                                               muted=True)  # fmt: skip
    point = points[0]
    if not point.ok:
        failure = point.record.failure
        reason = failure.message if failure else "the record gives no reason"
        return Cell(text.plain(point.record.outcome), note=reason, anchor=run_anchor(point.record), muted=True)
    found = stats.value(point.record, of.metric)
    if isinstance(found, Absent):
        return number_cell(point, found, notes)
    return number_cell(point, of.write(found), notes, sub=_small(point, points, of), note=_about(point, of))


def _small(point: Point, points: Sequence[Point], of: Quantity) -> str:
    """The interval in the unit of the cell, and how far the class's other runs of this row reach."""
    said = []
    span = stats.interval(point.record, of.metric)
    if span is not None:
        said.append(f"{of.write(span.low)}\u2013{of.write(span.high)}")
    values = [v for p in points if _has(p, of) and not isinstance(v := stats.value(p.record, of.metric), Absent)]
    if len(values) > 1:
        low, high = of.write(min(values)), of.write(max(values))
        said.append(f"newest of {len(values)} runs, {low}\u2013{high}")
    return "; ".join(said)


def _about(point: Point, of: Quantity) -> str:
    span = stats.interval(point.record, of.metric)
    where = point.record.device.device_id if point.record.device else ""
    how = f"{span.confidence * 100:g} % interval, {span.method}, {span.scope}" if span else ""
    return "; ".join(filter(None, (f"on {where}" if where else "", how)))
