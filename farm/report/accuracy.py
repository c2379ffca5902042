# SPDX-License-Identifier: Apache-2.0
"""The accuracy table of a device class: top-1 and top-5 with intervals, and what was lost against fp32. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from farm.contract.record import Record
from farm.report import stats, text
from farm.report.select import Point, Selection
from farm.report.stats import Absent
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, number_cell, run_anchor

_HEADS = (
    Column("Top-1", "%"),
    Column("Against fp32", "points"),
    Column("Top-5", "%"),
    Column("Images"),
)
_CALIBRATED = (Column("Calibration", numeric=False), Column("Samples"), Column("Calibration batch"))
_CAPTION = (
    "Share of the test images that are told rightly, through the workflow that is timed. Higher is better. Small"
    " figures: 95 % Wilson interval, for this test set. Against fp32: top-1 less that of pytorch fp32, or of the same"
    " workflow in fp32 where pytorch has none, on the same weights and images, in percentage points."
)


def accuracy_table(selection: Selection, device_class: str) -> Table:
    """Model x workflow x precision rows; with the calibration's columns where any row was calibrated."""
    notes = Footnotes()
    points = [p for p in selection.accuracy if p.series.device_class == device_class]
    calibrated = any(p.record.job.calibration is not None for p in points)
    groups = []
    for model in selection.models(device_class):
        near = [p for p in points if p.series.model == model]
        rows = [Row(p.series.label, _cells(p, near, calibrated, notes)) for p in near]
        groups.append(Group(model, tuple(rows)))
    kept = tuple(group for group in groups if group.rows)
    columns = (*_HEADS, *_CALIBRATED) if calibrated else _HEADS
    key = f"accuracy-{device_class}"
    return Table(key, "Accuracy", _CAPTION, "Workflow, precision", columns, kept, notes=notes.notes)


def _cells(point: Point, near: Sequence[Point], calibrated: bool, notes: Footnotes) -> tuple[Cell, ...]:
    count = stats.value(point.record, "accuracy_samples")
    cells = (
        _share_cell(point, "top1", notes),
        _difference_cell(point, near, notes),
        _share_cell(point, "top5", notes),
        absent(count.reason)
        if isinstance(count, Absent)
        else Cell(text.number(count, 0), anchor=run_anchor(point.record)),
    )
    marked = (cells[0], *(replace(c, mark="") for c in cells[1:]))
    return (*marked, *_calibration_cells(point)) if calibrated else marked


def _share_cell(point: Point, name: str, notes: Footnotes) -> Cell:
    found = stats.value(point.record, name)
    if isinstance(found, Absent):
        return number_cell(point, found, notes)
    span = stats.interval(point.record, name)
    sub = "" if span is None else text.span(span.low * 100, span.high * 100, 2)
    about = "" if span is None else f"{span.confidence * 100:g} % interval, {span.method}, {span.scope}"
    return number_cell(point, text.number(found * 100, 2), notes, sub=sub, note=about)


def _difference_cell(point: Point, near: Sequence[Point], notes: Footnotes) -> Cell:
    own = stats.value(point.record, "top1")
    base = _base(point, near)
    if isinstance(own, Absent):
        return number_cell(point, own, notes)
    if isinstance(base, Absent):
        return absent(base.reason)
    if base is point:
        return Cell("0", note="this is what the others are held against", muted=True, anchor=run_anchor(point.record))
    other = stats.value(base.record, "top1")
    if isinstance(other, Absent):
        return absent(other.reason)
    difference = (own - other) * 100
    sign = "+" if round(difference, 2) > 0 else ""
    shown = f"{sign}{text.number(difference + 0.0, 2)}"
    return Cell(shown, note=f"against {base.series.label}", anchor=run_anchor(point.record))


def _base(point: Point, near: Sequence[Point]) -> Point | Absent:
    """The fp32 evaluation to compare with: pytorch's, else this workflow's own; the plain options first."""
    known = [p for p in near if p.series.precision == "fp32" and p.ok]
    own = [p for p in known if p.series.workflow == point.series.workflow]
    candidates = [p for p in known if p.series.is_reference] or own
    if not candidates:
        return Absent("neither pytorch nor this workflow was evaluated in fp32 on this device class")
    if point in candidates:
        return point
    fair = [p for p in candidates if _differing(p.record, point.record) is None]
    if not fair:
        return Absent(
            f"not compared with fp32: the two have different {_differing(candidates[0].record, point.record)}"
        )
    return min(fair, key=lambda p: (bool(p.record.job.options), p.record.run_id))


def _differing(a: Record, b: Record) -> str | None:
    """What keeps two accuracies from being compared; weights also by the trained file, where both records name it."""
    pairs = (
        ("weights", [(r.job.model.weights, r.job.model.onnx_sha256) for r in (a, b)]),
        ("input shapes", [r.job.model.input_shape for r in (a, b)]),
        ("test images", [r.job.accuracy for r in (a, b)]),
        ("numbers of test images", [r.metrics.get("accuracy_samples") for r in (a, b)]),
    )
    for what, (one, other) in pairs:
        if one != other:
            return what
    files = [{ref.sha256 for ref in r.artifacts if ref.kind == "weights"} for r in (a, b)]
    return "weights files, each trained where it ran" if all(files) and files[0] != files[1] else None


def _calibration_cells(point: Point) -> tuple[Cell, ...]:
    calibration = point.record.job.calibration
    if calibration is None:
        return tuple(Cell(text.ABSENT, note="not calibrated", muted=True) for _ in _CALIBRATED)
    method = calibration.method
    if method == "percentile":
        method += f" {calibration.percentile:g} %"
    anchor = run_anchor(point.record)
    return Cell(method), *(Cell(text.number(n, 0), anchor=anchor) for n in (calibration.samples, calibration.batch))
