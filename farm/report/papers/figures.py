# SPDX-License-Identifier: Apache-2.0
"""The papers' figures: each as a drawing and as the table of what is in it, so that no cell is left out in silence."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from farm.errors import FarmError
from farm.report import charts, drawing, stats, text
from farm.report.charts import Dot
from farm.report.drawing import Style
from farm.report.figures import Figure, Panel, Samples, spread
from farm.report.papers.cells import BOUNDED_BY, QUANTITIES, Quantity, bounds, model_columns, slot_cell
from farm.report.papers.published import BASE, Exhibit, Paper
from farm.report.papers.tables import first_of, make
from farm.report.papers.view import Slot, View
from farm.report.select import Point, Problem
from farm.report.stats import Absent
from farm.report.table import Column, Footnotes, Group, Row, Table, at, number_cell

_SHEET_WIDTH, _SHEET_HEIGHT = 460, 240
_ROW_OF_MODEL = 56

Made = tuple[Table, Figure | None]


def looks(paper: Paper) -> dict[str, Style]:
    """One style for each workflow, the same in all figures of a paper."""
    return drawing.styles((way.label, way.tag == BASE) for way in paper.ways)


def by_model(view: View, exhibit: Exhibit) -> Made:
    """A value of every model and workflow: at the smallest batch size, or the best over all."""
    quantity, notes = QUANTITIES[exhibit.metric], Footnotes()
    found = {
        (model, way.label): _pick(view.slots(model, way), exhibit)
        for model in view.paper.models
        for way in view.paper.ways
    }
    rows = [
        Row(way.label, tuple(_model_cell(view, exhibit, found[m, way.label], notes) for m in view.paper.models))
        for way in view.paper.ways
    ]
    table = make(view, exhibit, _caption(quantity), model_columns(view, quantity.unit), [Group("", tuple(rows))], notes,
                 heads=("", "Workflow"))  # fmt: skip
    dots = _dots({(way, model, 1): slot for (model, way), slot in found.items()}, quantity)
    if not dots:
        return table, None
    look = _used(looks(view.paper), dots)
    height = _ROW_OF_MODEL * len({d.row for d in dots})
    chart = charts.grouped_chart(dots, look, quantity.axis)
    words = "; ".join(f"{d.row} {d.series} {text.number(d.value)} {quantity.unit}" for d in dots)
    sheet = charts.grouped_chart(dots, look, quantity.axis, legend=True)
    panel = _panel(
        exhibit, words, charts.single(chart, height + 52), sheet.properties(width=_SHEET_WIDTH, height=height)
    )
    return table, _figure(exhibit, [panel], look, dots, _bars(quantity))


def _pick(slots: Sequence[Slot], exhibit: Exhibit) -> Slot:
    if exhibit.at == "smallest":
        return slots[0]
    best = stats.best([s.ok for s in slots if s.ok is not None], exhibit.metric, lowest=False)
    return first_of(slots) if isinstance(best, Absent) else Slot(best.point)


def _model_cell(view: View, exhibit: Exhibit, slot: Slot, notes: Footnotes) -> Any:
    sub = at(slot.ok) if slot.ok is not None and exhibit.at == "best" else ""
    return slot_cell(view, slot, QUANTITIES[exhibit.metric], notes, sub=sub)


def by_batch(view: View, exhibit: Exhibit) -> Made:
    """A value of one model against the batch size: a line for each workflow."""
    found = {(way.label, b): view.slot(exhibit.model, way, b) for way in view.paper.ways for b in view.paper.batches}
    return _lines(view, exhibit, found, [way.label for way in view.paper.ways], "Batch size", "Batch\u00a0{}")


def by_calibration(view: View, exhibit: Exhibit) -> Made:
    """The accuracy of one model against the calibration batch size: a line for each workflow that is calibrated."""
    evaluated = {way: view.by_calibration(exhibit.model, way) for way in view.paper.rivals}
    sizes = sorted({size for slots in evaluated.values() for size in slots})
    found = {}
    for way, slots in evaluated.items():
        for size in sizes:
            never = f"no job on {view.device_class} calibrated {exhibit.model} for {way.workflow} in batches of {size}"
            found[way.label, size] = slots.get(size, Slot(None, "not asked", never))
    if not sizes:
        return _nothing(view, exhibit), None
    return _lines(
        view, exhibit, found, [way.label for way in view.paper.rivals], "Calibration batch size", "Calibration batch {}"
    )


def _nothing(view: View, exhibit: Exhibit) -> Table:
    """The table of a figure for which nothing was calibrated: each workflow with its reason."""
    notes = Footnotes()
    quantity = QUANTITIES[exhibit.metric]
    slots = [(way, view.accuracy(exhibit.model, way, exhibit.metric)) for way in view.paper.rivals]
    rows = tuple(Row(way.label, (slot_cell(view, slot, quantity, notes),)) for way, slot in slots)
    columns = (Column("Any calibration batch", quantity.unit),)
    return make(view, exhibit, _caption(quantity), columns, [Group("", rows)], notes, heads=("", "Workflow"))


def _lines(
    view: View, exhibit: Exhibit, found: Mapping[tuple[str, int], Slot], labels: Sequence[str], x: str, head: str
) -> Made:
    quantity, notes = QUANTITIES[exhibit.metric], Footnotes()
    sizes = sorted({size for _, size in found})
    rows = tuple(
        Row(label, tuple(slot_cell(view, found[label, size], quantity, notes) for size in sizes)) for label in labels
    )
    columns = [Column(head.format(size), quantity.unit) for size in sizes]
    table = make(view, exhibit, _caption(quantity), columns, [Group("", rows)], notes, heads=("", "Workflow"))
    dots = _dots({(label, label, size): slot for (label, size), slot in found.items()}, quantity)
    if not dots:
        return table, None
    look = _used(looks(view.paper), dots)
    zero = not quantity.metric.startswith("top")
    y = charts.plain_axis(quantity.axis, zero=zero)
    chart = charts.batch_chart(dots, look, x, y, sizes=sizes)
    sheet = charts.batch_chart(dots, look, x, y, legend=True, sizes=sizes)
    words = "; ".join(f"{d.series} at {d.batch}: {text.number(d.value)} {quantity.unit}" for d in dots)
    drawn = sheet.properties(width=_SHEET_WIDTH, height=_SHEET_HEIGHT)
    panel = _panel(exhibit, words, charts.single(chart, charts.PANEL_HEIGHT), drawn)
    return table, _figure(exhibit, [panel], look, dots, _bars(quantity))


def distribution(view: View, exhibit: Exhibit, samples: Samples | None) -> tuple[Table, Figure | None, list[Problem]]:
    """How the execution times of one model at the smallest batch size scatter around their median, by workflow."""
    notes, problems = Footnotes(), list[Problem]()
    slots = {way.label: view.slot(exhibit.model, way, view.paper.batches[0]) for way in view.paper.ways}
    table = make(view, exhibit, "All samples of one run each, in ms.", [Column(h, u) for _, h, u in _FIVE],
                 [Group("", tuple(_spread_row(view, label, slot, notes) for label, slot in slots.items()))], notes,
                 heads=("", "Workflow"))  # fmt: skip
    spreads = []
    for label, slot in slots.items():
        if slot.ok is not None and (made := spread(slot.ok, _load(slot.ok, samples, problems))) is not None:
            mark = " \u2020" if slot.ok.doubts else ""
            spreads.append(charts.Spread(**{**vars(made), "series": label, "row": label + mark}))
    if not spreads:
        return table, None, problems
    look = {s.series: looks(view.paper)[s.series] for s in spreads}
    chart = charts.distribution_chart(spreads, look)
    words = "; ".join(f"{s.series}: middle half from {s.q1:+.1f} % to {s.q3:+.1f} %" for s in spreads)
    rows = [s.row for s in spreads]
    sheet = chart.properties(width=_SHEET_WIDTH, height=charts.rows_height(rows, axis=False))
    panel = _panel(exhibit, words, charts.single(chart, charts.rows_height(rows)), sheet)
    caption = (
        "Around each workflow's own median, since the medians differ by more than the scatter. Line: smallest to"
        " largest; box: middle half; ticks: samples. \u2020: flagged."
    )
    return table, _finished(exhibit, [panel], caption, {}, False), problems


_FIVE = (
    ("latency_min_ms", "Min", "ms"),
    ("latency_p25_ms", "p25", "ms"),
    ("latency_ms", "Median", "ms"),
    ("latency_mean_ms", "Mean", "ms"),
    ("latency_p75_ms", "p75", "ms"),
    ("latency_max_ms", "Max", "ms"),
    ("latency_sd_ms", "Standard deviation", "ms"),
    ("sample_count", "Samples", ""),
)


def _spread_row(view: View, label: str, slot: Slot, notes: Footnotes) -> Row:
    if slot.ok is None:
        return Row(label, tuple(slot_cell(view, slot, QUANTITIES["latency_ms"], notes) for _ in _FIVE))
    cells = []
    for metric, _, _ in _FIVE:
        found = stats.value(slot.ok.record, metric)
        places = 0 if metric == "sample_count" else None
        cells.append(number_cell(slot.ok, found if isinstance(found, Absent) else text.number(found, places), notes))
    return Row(label, tuple(cells))


def _load(point: Point, samples: Samples | None, problems: list[Problem]) -> list[int]:
    try:
        return (samples(point.record) or []) if samples is not None else []
    except (FarmError, OSError) as error:
        problems.append(Problem(point.record.run_id, f"its samples could not be read: {error}"))
        return []


def _dots(found: Mapping[tuple[str, str, int], Slot], quantity: Quantity) -> list[Dot]:
    """The points that have the value, by series, row and batch size."""
    made = []
    for (series, row, batch), slot in found.items():
        if slot.ok is None or isinstance(value := stats.value(slot.ok.record, quantity.metric), Absent):
            continue
        low, high = bounds(slot.ok, quantity) or (None, None)
        shown = value * quantity.scale
        made.append(Dot(series, row, batch, shown, low, high, bool(slot.ok.doubts), slot.ok.invalid))
    return made


def _used(look: Mapping[str, Style], dots: Sequence[Dot]) -> dict[str, Style]:
    used = {d.series for d in dots}
    return {label: style for label, style in look.items() if label in used}


def _caption(quantity: Quantity) -> str:
    """What a companion table shows; a metric without an interval of its own says what is drawn instead."""
    if quantity.metric in BOUNDED_BY:
        return f"{quantity.name} in {quantity.unit}, as in the paper; this farm's other reports have medians."
    return f"{quantity.name} in {quantity.unit}; small figures: the recorded interval, where there is one."


def _bars(quantity: Quantity) -> str:
    if quantity.metric in BOUNDED_BY:
        return "Points are means, as in the paper; a bar is the interval of the median, so a mean may lie beside it."
    return "A bar is the recorded interval, often narrower than the point."


def _panel(exhibit: Exhibit, words: str, spec: dict[str, Any], sheet: Any) -> Panel:
    name = exhibit.model or "Every model"
    return Panel(name, f"{exhibit.title}: {words}", spec, sheet.properties(title=textwrap.wrap(name, 60)))


def _figure(exhibit: Exhibit, panels: list[Panel], look: Mapping[str, Style], dots: Sequence[Dot], bars: str) -> Figure:
    hollow = any(d.doubtful for d in dots)
    bounded = any(d.low is not None for d in dots)
    caption = (bars if bounded else "Recorded without an interval.") + (" Hollow points are flagged." if hollow else "")
    return _finished(exhibit, panels, caption, look, hollow)


def _finished(exhibit: Exhibit, panels: list[Panel], caption: str, look: Mapping[str, Style], hollow: bool) -> Figure:
    sheet = charts.sheet([p.in_sheet for p in panels], exhibit.title, caption, columns=1)
    key = exhibit.key.replace("_", "-")
    return Figure(key, exhibit.title, caption, tuple(panels), sheet, tuple(look.items()), hollow)
