# SPDX-License-Identifier: Apache-2.0
"""Engines that were built several times: how far the builds differ in their bytes, tactics, outputs and speed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from farm.contract.canonical import digest
from farm.processes import between
from farm.report import stats, text
from farm.report.select import Point, Selection
from farm.report.series import device_id, facets
from farm.report.stats import Absent
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, run_anchor

#: What sets two rows of the table apart beside model, workflow, precision, batch and device.
_FACETS = (
    "scenario",
    "threads",
    "options",
    "calibration",
    "protocol",
    "weights",
    "data",
    "seed",
    "input",
    "stack",
    "sweep",
)


def rebuild_table(selection: Selection, device_class: str) -> Table:
    """One row for each model, workflow, precision, device and batch whose engine was built on purpose, N times."""
    notes = Footnotes()
    groups = []
    for model in selection.models(device_class):
        rows = [_row(points, notes) for points in _studies(selection, device_class, model)]
        groups.append(Group(model, tuple(rows)))
    columns = (
        Column("Builds that ran"),
        Column("Distinct engines"),
        Column("Distinct tactics"),
        Column("Distinct outputs"),
        Column("Build, median", "s"),
        Column("Latency, median", "ms"),
        Column("Spread of the latency", "%"),
    )
    caption = (
        "The same engine built anew several times. Distinct: by sha256 of the engine's file, of its list of layers and"
        " tactics, and of its outputs for the first input. Small figures: of the build least and most, of the latency"
        " the interval of the median over builds, with how often such a one holds it. Spread: the slowest build's"
        " latency over the fastest's, less one; it holds the spread between processes, too."
    )
    kept = tuple(group for group in groups if group.rows)
    key = f"rebuilds-{device_class}"
    return Table(key, "Rebuilds", caption, "Workflow, precision, batch", columns, kept, "Model", notes.notes)


def _studies(selection: Selection, device_class: str, model: str) -> list[list[Point]]:
    """The points that differ in nothing but the build, by device and batch."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for series in selection.series(device_class, model):
        for point in selection.of(series):
            job = point.record.job
            if point.ok and point.batch is not None and job.rebuild is not None:
                said = facets(job, (point.record,))
                apart = digest([said[name] for name in _FACETS])
                way = (job.workflow, job.precision, job.rebuild.timing_cache, apart, device_id(point.record))
                found.setdefault((*way, f"{point.batch:09d}"), []).append(point)
    return [sorted(found[key], key=_index) for key in sorted(found)]


def _index(point: Point) -> int:
    return point.record.job.rebuild.index if point.record.job.rebuild else 0


def _row(points: Sequence[Point], notes: Footnotes) -> Row:
    job = points[0].record.job
    said = facets(job, ())
    cache = job.rebuild.timing_cache if job.rebuild else ""
    words = [f"{job.workflow} {job.precision}", said["options"], said["calibration"], f"{cache} timing cache"]
    words += [f"batch {points[0].batch}", f"on {device_id(points[0].record)}"]
    marks = ",".join(dict.fromkeys(mark for p in points if (mark := notes.mark(p))))
    asked = job.rebuild.count if job.rebuild else len(points)
    cells = (
        Cell(str(len(points)), sub=f"of {asked}" if asked != len(points) else "", mark=marks),
        *(_distinct(points, name) for name in ("engine_sha256", "tactics_sha256", "outputs_sha256")),
        _range(points, _build_s),
        _latency(points),
        _spread(points),
    )
    # The builds' records stand together in the appendix, the first of them first.
    linked = (c if c.text == text.ABSENT else replace(c, anchor=run_anchor(points[0].record)) for c in cells)
    return Row(", ".join(word for word in words if word), tuple(linked))


def _distinct(points: Sequence[Point], name: str) -> Cell:
    known = {str(found) for p in points if (found := p.record.effective.get(name))}
    if not known:
        return absent(f"no record has its {name}")
    return Cell(str(len(known)))


def _build_s(point: Point) -> float | None:
    """The build alone where the record tells it; else with export and calibration, which all builds share."""
    own = point.record.effective.get("engine_build_s")
    return float(own) if isinstance(own, (int, float)) else _metric(point, "build_s")


def _latency_ms(point: Point) -> float | None:
    return _metric(point, "latency_ms")


def _metric(point: Point, name: str) -> float | None:
    found = stats.value(point.record, name)
    return None if isinstance(found, Absent) else found


def _range(points: Sequence[Point], of: Callable[[Point], float | None]) -> Cell:
    known = [value for p in points if (value := of(p)) is not None]
    if not known:
        return absent("no build of this row has it")
    places = text.decimals(median(known))
    return Cell(text.number(median(known), places), sub=text.span(min(known), max(known), places))


def _latency(points: Sequence[Point]) -> Cell:
    """The median over builds of their medians, and what it covers."""
    known = [value for p in points if (value := _latency_ms(p)) is not None]
    found = between(known, "builds")
    if found is None:
        return _range(points, _latency_ms)
    places = text.decimals(median(known))
    covers = f"{100 * found.confidence:g} % {found.scope}"
    sub = f"{text.span(found.low, found.high, places)}, {covers}"
    return Cell(text.number(median(known), places), sub=sub, note=f"{found.method}, {found.scope}")


def _spread(points: Sequence[Point]) -> Cell:
    known = [value for p in points if (value := _latency_ms(p)) is not None]
    if len(known) < 2 or min(known) <= 0:
        return absent("fewer than two builds have a latency")
    return Cell(text.percent(100 * (max(known) / min(known) - 1)))
