# SPDX-License-Identifier: Apache-2.0
"""The papers' tables in their layout: what this farm measured, and what the paper prints beside it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from farm.report import stats, text
from farm.report.papers.cells import (
    QUANTITIES,
    Quantity,
    about,
    model_columns,
    paper_row,
    shape_mark,
    slot_cell,
)
from farm.report.papers.published import Exhibit, Way
from farm.report.papers.view import NOT_ASKED, Slot, SpeedUp, View, why
from farm.report.select import Point
from farm.report.stats import Absent
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, at, number_cell, run_anchor

HERE = "Here"


def make(
    view: View,
    exhibit: Exhibit,
    caption: str,
    columns: Sequence[Column],
    groups: Iterable[Group],
    notes: Footnotes,
    *,
    heads: tuple[str, str] = ("Workflow", ""),
) -> Table:
    """A table of an exhibit: `heads` are the headings of its groups and of its rows."""
    said = " ".join(filter(None, (caption, exhibit.says)))
    key = f"{exhibit.key}-table"
    return Table(key, exhibit.heading, said, heads[1], tuple(columns), tuple(groups), heads[0], notes.notes)


def largest_batch_table(view: View, exhibit: Exhibit) -> Table:
    """The largest batch size that ran, and why the ladder ended there."""
    notes = Footnotes()

    def row(way: Way) -> tuple[Cell, ...]:
        return tuple(_largest(view, model, way, notes) for model in view.paper.models)

    caption = (
        "Largest batch size that ran, of the newest job that went far enough; below it, why it ended. What a job was"
        " never asked for is no limit of the device."
    )
    return make(view, exhibit, caption, model_columns(view, ""), _rival_groups(view, exhibit, row), notes)


def _largest(view: View, model: str, way: Way, notes: Footnotes) -> Cell:
    points = view.ladder(model, way)
    ran = [p for p in points if p.ok and p.batch is not None]
    if not ran:
        slot = Slot(points[0]) if points else view.slot(model, way, view.paper.batches[0])
        word, reason = why(slot)
        return Cell(word, note=reason, anchor=run_anchor(slot.point.record) if slot.point else "", muted=True)
    largest = max(ran, key=lambda p: p.batch or 0)
    return number_cell(largest, str(largest.batch), notes, sub=why_ended(points, largest), note=about(largest))


def why_ended(points: Sequence[Point], largest: Point) -> str:
    """Why a ladder ended after its largest batch size that ran: out of memory at 128, or not asked for more."""
    after = [p for p in points if not p.ok and (p.batch or 0) > (largest.batch or 0)]
    if after:
        first = min(after, key=lambda p: p.batch or 0)
        return f"{text.plain(first.record.outcome)} at {first.batch}"
    sizes = largest.record.job.batches.sizes
    stop = next((p.record.ladder_stop for p in points if p.record.ladder_stop), None)
    if stop not in (None, "end"):
        return text.plain(stop)
    return "no more asked for" if largest.batch == max(sizes) else f"no record of {max(sizes)}"


def mismatch_table(view: View, exhibit: Exhibit) -> Table:
    """The share of outputs that are not close to PyTorch's, the worst batch size of each, by both tolerances."""
    notes = Footnotes()
    groups = []
    for number, way in enumerate(view.paper.rivals):
        rows = [_mismatch_row(view, way, metric, notes) for metric in ("mismatch_1e-3_pct", "mismatch_1e-4_pct")]
        groups.append(Group(way.label, (*rows, paper_row(view, list(exhibit.published.values())[number]))))
    caption = (
        "Outputs with |test \u2212 reference| > 1e-8 + rtol \u00b7 |reference|, in percent: of the batch sizes of the"
        " paper, the worst."
    )
    return make(view, exhibit, caption, model_columns(view, "%"), groups, notes)


def _mismatch_row(view: View, way: Way, metric: str, notes: Footnotes) -> Row:
    quantity = QUANTITIES[metric]
    rtol = metric.split("_")[1]
    cells = tuple(_worst(view, view.slots(model, way), quantity, notes) for model in view.paper.models)
    return Row(f"{HERE}, rtol {rtol}", cells)


def _worst(view: View, slots: Sequence[Slot], quantity: Quantity, notes: Footnotes) -> Cell:
    points = [slot.ok for slot in slots if slot.ok is not None]
    known = [(v, p) for p in points if not isinstance(v := stats.value(p.record, quantity.metric), Absent)]
    if not known:
        return slot_cell(view, first_of(slots), quantity, notes)
    point = max(known, key=lambda pair: (pair[0], not pair[1].doubts))[1]
    return slot_cell(view, Slot(point), quantity, notes, sub=at(point))


def first_of(slots: Sequence[Slot]) -> Slot:
    """The cell that speaks for several without a number: one that ran, else one with a record, else any."""
    ordered = sorted(slots, key=lambda s: (s.ok is None, s.point is None, s.word == NOT_ASKED))
    return ordered[0]


def speed_up_table(view: View, exhibit: Exhibit) -> Table:
    """The largest speed-up of any workflow over W0: at the smallest batch size, and over all."""
    notes = Footnotes()
    first, every = view.paper.batches[:1], view.paper.batches
    rows = [
        Row(f"{HERE}, batch {first[0]}", _speed_cells(view, exhibit, first, notes)),
        Row(f"{HERE}, any batch size", _speed_cells(view, exhibit, every, notes)),
        paper_row(view, exhibit.published["max"]),
    ]
    what = QUANTITIES[exhibit.statistic].name.lower()
    caption = (
        f"{what.capitalize()} of W0 over that of the fastest other workflow at the same batch size, protocol, weights"
        " and inputs. Below: that workflow, and at which batch size. Above 1 is faster than W0."
    )
    return make(view, exhibit, caption, model_columns(view, "times"), [Group("", tuple(rows))], notes, heads=("", ""))


def _speed_cells(view: View, exhibit: Exhibit, batches: Sequence[int], notes: Footnotes) -> tuple[Cell, ...]:
    return tuple(_speed_cell(view, exhibit, model, batches, notes) for model in view.paper.models)


def _speed_cell(view: View, exhibit: Exhibit, model: str, batches: Sequence[int], notes: Footnotes) -> Cell:
    found = [s for w in view.paper.rivals for s in view.speed_ups(model, w, batches, exhibit.statistic)]
    sound = [s for s in found if not s.medians.doubtful]
    if not found:
        return absent(view.why_no_speed_up(model, batches))
    best = max(sound or found, key=lambda s: s.value)
    cell = number_cell(best.point, text.number(best.value), notes, sub=_speed_sub(best), note=_speed_note(best))
    marks = (cell.mark, notes.mark(best.medians.base), shape_mark(view, best.point, notes))
    caveat = notes.note("\u00b6", best.medians.caveat) if best.medians.caveat else ""
    return replace(cell, mark=",".join(dict.fromkeys(filter(None, (*marks, caveat)))))


def _speed_sub(found: SpeedUp) -> str:
    return f"{found.way.tag}, {at(found.point)}"


def _speed_note(found: SpeedUp) -> str:
    medians = found.medians
    said = f"{about(found.point)} against {about(medians.base)}; of the medians {text.number(medians.value)}"
    if medians.low is None or medians.high is None:
        return said
    return f"{said}, {text.span(medians.low, medians.high)} by their intervals ({medians.scope})"


def accuracy_table(view: View, exhibit: Exhibit) -> Table:
    """Top-1 and top-5 of one model: a column for each workflow."""
    notes = Footnotes()
    groups = []
    for metric in ("top1", "top5"):
        quantity = QUANTITIES[metric]
        slots = [(way, view.accuracy(exhibit.model, way, metric)) for way in view.paper.ways]
        cells = tuple(slot_cell(view, slot, quantity, notes, sub=_calibrated(slot)) for _, slot in slots)
        theirs = [exhibit.published[metric].get(way.tag) for way in view.paper.ways]
        groups.append(Group(quantity.name, (Row(HERE, cells), paper_row(view, theirs))))
    caption = (
        "The best over calibrations and options, as in the paper. Small figures: Wilson interval over the test images"
        f" ({view.dataset or 'none were evaluated'}), and the calibration."
    )
    columns = [Column(way.label, "%") for way in view.paper.ways]
    return make(view, exhibit, caption, columns, groups, notes, heads=("Accuracy", ""))


def _calibrated(slot: Slot) -> str:
    """How the best of several was calibrated, and whether it was trained with its quantizers."""
    job = slot.point.record.job if slot.point is not None else None
    if job is None or job.calibration is None:
        return ""
    mode = [str(job.options["mode"])] if "mode" in job.options else []
    return ", ".join([*mode, job.calibration.method, f"calibration batch {job.calibration.batch}"])


def utilisation_table(view: View, exhibit: Exhibit) -> Table:
    """The range of the GPU's use over models and batch sizes: a column for each workflow but W0."""
    notes = Footnotes()
    cells = tuple(_range(view, way, QUANTITIES["gpu_utilisation"], notes) for way in view.paper.rivals)
    theirs = paper_row(view, [exhibit.published.get(way.tag) for way in view.paper.rivals])
    caption = (
        "Smallest to largest over models and batch sizes; runs that are flagged are left out where others are not."
    )
    columns = [Column(way.label, "%") for way in view.paper.rivals]
    return make(view, exhibit, caption, columns, [Group("", (Row(HERE, cells), theirs))], notes, heads=("", ""))


def _range(view: View, way: Way, quantity: Quantity, notes: Footnotes) -> Cell:
    slots = [slot for model in view.paper.models for slot in view.slots(model, way)]
    points = [slot.ok for slot in slots if slot.ok is not None]
    known = [(v, p) for p in points if not isinstance(v := stats.value(p.record, quantity.metric), Absent)]
    if not known:
        return slot_cell(view, first_of(slots), quantity, notes)
    sound = [pair for pair in known if not pair[1].doubts] or known
    (low, point), (high, _) = min(sound, key=lambda x: x[0]), max(sound, key=lambda x: x[0])
    written = f"{text.number(low * quantity.scale)} to {text.number(high * quantity.scale)}"
    return number_cell(point, written, notes, sub=text.plural(len(sound), "run"), note=f"smallest: {about(point)}")


def _rival_groups(view: View, exhibit: Exhibit, row: Callable[[Way], tuple[Cell, ...]]) -> list[Group]:
    return [
        Group(way.label, (Row(HERE, row(way)), paper_row(view, exhibit.published[way.tag])))
        for way in view.paper.rivals
    ]
