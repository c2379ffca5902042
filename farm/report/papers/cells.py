# SPDX-License-Identifier: Apache-2.0
"""How a number of a paper's table is written: in the unit of the table, with its interval, its flags and its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from farm.report import stats, text
from farm.report.papers.view import Slot, View, shape_words, why
from farm.report.select import Point
from farm.report.stats import Absent
from farm.report.table import Cell, Column, Footnotes, Row, absent, number_cell, run_anchor


@dataclass(frozen=True)
class Quantity:
    """A metric as a table or an axis shows it: `scale` times the record's value, in `unit`."""

    metric: str
    name: str
    unit: str
    scale: float = 1.0

    @property
    def axis(self) -> str:
        """The title of an axis."""
        return f"{self.name}, {self.unit}"


QUANTITIES = {
    quantity.metric: quantity
    for quantity in (
        Quantity("latency_mean_ms", "Mean execution time", "ms"),
        Quantity("latency_ms", "Median execution time", "ms"),
        Quantity("throughput_per_s", "Throughput", "inputs/s"),
        Quantity("gpu_memory_peak_bytes", "GPU memory in use", "MiB", 2**-20),
        Quantity("gpu_utilisation", "GPU use", "%", 100.0),
        Quantity("top1", "Top-1 accuracy", "%", 100.0),
        Quantity("top5", "Top-5 accuracy", "%", 100.0),
        Quantity("mismatch_1e-3_pct", "Not close at rtol 1e-3", "%"),
        Quantity("mismatch_1e-4_pct", "Not close at rtol 1e-4", "%"),
    )
}
#: What bounds a metric that has no interval of its own.
BOUNDED_BY = {"latency_mean_ms": "latency_ms"}


def slot_cell(view: View, slot: Slot, quantity: Quantity, notes: Footnotes, *, sub: str = "") -> Cell:
    """The number of a cell with its interval below it, or the word and the sentence for why there is none."""
    point = slot.ok
    if point is None:
        word, reason = why(slot)
        return Cell(word, note=reason, anchor=run_anchor(slot.point.record) if slot.point else "", muted=True)
    found = stats.value(point.record, quantity.metric)
    if isinstance(found, Absent):
        return number_cell(point, found, notes)
    shown = found * quantity.scale
    places = 3 if quantity.metric in ("top1", "top5") else text.decimals(shown)
    below = ", ".join(filter(None, (bounds_text(point, quantity, places), sub)))
    written = text.percent(shown) if quantity.metric.startswith("mismatch") else text.number(shown, places)
    cell = number_cell(point, written, notes, sub=below, note=about(point))
    return replace(cell, mark=",".join(filter(None, (cell.mark, shape_mark(view, point, notes)))))


def shape_mark(view: View, point: Point, notes: Footnotes) -> str:
    """The mark of a point whose inputs have another shape than the paper's."""
    if view.has_shape(point):
        return ""
    own, theirs = (shape_words(s) for s in (point.record.job.model.input_shape, view.paper.input_shape))
    return notes.note("\u00a7", f"inputs of {own}; the paper's are {theirs}")


def bounds(point: Point, quantity: Quantity) -> tuple[float, float] | None:
    """The recorded interval in the table's unit; of a mean: the median's."""
    span = stats.interval(point.record, BOUNDED_BY.get(quantity.metric, quantity.metric))
    return None if span is None else (span.low * quantity.scale, span.high * quantity.scale)


def bounds_text(point: Point, quantity: Quantity, places: int) -> str:
    """The interval in words; none for a mean, whose own was not recorded."""
    span = None if quantity.metric in BOUNDED_BY else bounds(point, quantity)
    if span is None:
        return ""
    low, high = span
    if low < high and text.number(low, places) == text.number(high, places):
        places += 1
    return text.span(low, high, places)


def about(point: Point) -> str:
    """What a reader sees on hover: which of several records this is."""
    return f"{point.series.label}, {point.record.run_id}"


def printed(value: float | str | None) -> Cell:
    """A number as the paper prints it, without an exponent."""
    if value is None:
        return absent("the paper prints no number here")
    return Cell(value if isinstance(value, str) else format(Decimal(repr(value)), "f"))


def paper_row(view: View, values: Sequence[float | str | None], heading: str = "") -> Row:
    """The row of what the paper prints, with the paper's device."""
    return Row(heading or paper_name(view), tuple(printed(value) for value in values))


def paper_name(view: View) -> str:
    """`Paper (NVIDIA Quadro P620)`."""
    return f"Paper ({view.paper.hardware['device']})"


def model_columns(view: View, unit: str) -> tuple[Column, ...]:
    """A column for each model, in the paper's order."""
    return tuple(Column(model, unit) for model in view.paper.models)
