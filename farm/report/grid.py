# SPDX-License-Identifier: Apache-2.0
"""The coverage grid: device x model x workflow x precision, each cell in one word, with its reasons below. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farm.contract.catalogue import PRECISIONS
from farm.contract.outcome import Outcome
from farm.report import text
from farm.report.select import Point, Selection
from farm.report.series import Series
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, run_anchor

#: The states of a cell, the worst first; a cell is tinted by its worst.
STATES = ("failed", "missing", "refused", "flagged", "not run", "ok")


_Place = tuple[str, str, str, str]


@dataclass
class _Tally:
    """Points of one cell: how many are in each state, why, and the first record of the worst."""

    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    anchors: dict[str, str] = field(default_factory=dict)

    def add(self, state: str, count: int, reasons: Mapping[str, str], anchor: str = "") -> None:
        """`reasons` are footnotes, which cells share, each with the whole of it for this cell alone."""
        self.counts[state] = self.counts.get(state, 0) + count
        self.reasons = {**reasons, **self.reasons}
        if anchor:
            self.anchors.setdefault(state, anchor)


def grid_table(selection: Selection) -> Table | None:
    """The grid: a group for each device class, a row for each model and workflow, a column for each precision.

    A cell holds all variants of its row: options, calibrations, devices of the class. None if nothing was asked.
    """
    tallies = _tallies(selection)
    if not tallies:
        return None
    ordered = sorted(selection.series(), key=lambda s: s.sort_key)
    precisions = list(dict.fromkeys(s.precision for s in sorted(ordered, key=_rank)))
    notes = Footnotes()
    groups = []
    for device_class in selection.classes:
        lines = dict.fromkeys((s.model, s.workflow) for s in ordered if s.device_class == device_class)
        rows = tuple(
            Row(f"{model} {workflow}",
                tuple(_cell(tallies.get((device_class, model, workflow, p)), notes) for p in precisions))
            for model, workflow in lines
        )  # fmt: skip
        groups.append(Group(device_class, rows))
    caption = (
        "Ok: every point of it ran. Flagged: ran, with a doubt. Refused: it cannot be run so. Failed: it was tried and"
        " did not end well. Missing: asked for, and nobody recorded anything. Not run: its batch ladder had ended"
        " before. With several, each with its number of points. The small figures lead to the reasons below;"
        " what a flag rests on is in the table of flagged runs."
    )
    columns = tuple(Column(precision, numeric=False) for precision in precisions)
    title = "Device, model, workflow, precision"
    return Table("grid", title, caption, "Model, workflow", columns, tuple(groups), "Device class", notes.notes)


def _rank(series: Series) -> tuple[int, str]:
    known = series.precision in PRECISIONS
    return (PRECISIONS.index(series.precision) if known else len(PRECISIONS), series.precision)


def _tallies(selection: Selection) -> dict[_Place, _Tally]:
    found: dict[_Place, _Tally] = {}
    for point in selection.points:
        tally = found.setdefault(_place(point.series), _Tally())
        tally.add(_state(point), point.count, _reasons(point), run_anchor(point.record))
    for gap in selection.gaps:
        tally = found.setdefault(_place(gap.series), _Tally())
        tally.add("missing" if gap.kind == "missing" else "not run", 1, {gap.reason: gap.reason})
    return found


def _place(series: Series) -> _Place:
    return (series.device_class, series.model, series.workflow, series.precision)


def _state(point: Point) -> str:
    if point.ok:
        return "flagged" if point.doubts else "ok"
    return "refused" if point.record.outcome is Outcome.UNSUPPORTED else "failed"


def _reasons(point: Point) -> dict[str, str]:
    if point.ok:
        # The evidence is another for each run: below the grid stands the name, and the table of flags has the rest.
        return {text.plain(f.name): f"{text.plain(f.name)}: {f.evidence}" for f in point.doubts}
    failure = point.record.failure
    why = f"{text.plain(point.record.outcome)}: {failure.message if failure else 'the record gives no reason'}"
    return {why: why}


def _cell(tally: _Tally | None, notes: Footnotes) -> Cell:
    if tally is None:
        return absent("not asked for")
    states = [state for state in STATES if tally.counts.get(state)]
    # One state needs no number; with several, people read what is well first.
    said = states[0] if len(states) == 1 else ", ".join(f"{tally.counts[s]} {s}" for s in reversed(states))
    marks = ",".join(notes.note("", reason) for reason in tally.reasons)
    anchor = next((tally.anchors[s] for s in states if s in tally.anchors), "")
    note = "; ".join(tally.reasons.values())
    return Cell(said, note=note, mark=marks, anchor=anchor, status=states[0].replace(" ", "-"))
