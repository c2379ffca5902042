# SPDX-License-Identifier: Apache-2.0
"""The coverage grid: device x model x workflow x precision, each cell in one word, with its reasons below. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farm.contract.outcome import Outcome
from farm.report import text
from farm.report.select import Point, Selection
from farm.report.series import Series
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, run_anchor

#: The states of a cell, the worst first; a cell is tinted by its worst.
STATES = ("failed", "missing", "refused", "flagged", "not run", "ok")


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
    """The grid: a group for each device class; columns are models, or workflows where there are fewer. None if empty.

    A row or column of workflow and precision holds all its variants: options, calibrations, devices of the class.
    """
    tallies = _tallies(selection)
    if not tallies:
        return None
    models = sorted({series.model for series in selection.series()})
    ways = _ways(selection)
    turned = len(models) > len(ways)
    notes = Footnotes()
    groups = []
    for name in selection.classes:
        heads, columns = (models, ways) if turned else (ways, models)
        rows = []
        for head in heads:
            keys = [(name, head, c) if turned else (name, c, head) for c in columns]
            if any(key in tallies for key in keys):
                rows.append(Row(head, tuple(_cell(tallies.get(key), notes) for key in keys)))
        groups.append(Group(name, tuple(rows)))
    caption = (
        "Ok: every point of it ran. Flagged: ran, with a doubt. Refused: it cannot be run so. Failed: it was tried and"
        " did not end well. Missing: asked for, and nobody recorded anything. Not run: its batch ladder had ended"
        " before. With several, each with its number of points. The small figures lead to the reasons below;"
        " what a flag rests on is in the table of flagged runs."
    )
    shown = tuple(Column(head, numeric=False) for head in (ways if turned else models))
    first = "Model" if turned else "Workflow, precision"
    return Table("grid", "Device, model, workflow, precision", caption, first, shown, tuple(groups), "Device class",
                 notes.notes)  # fmt: skip


def _way(series: Series) -> str:
    return f"{series.workflow} {series.precision}"


def _ways(selection: Selection) -> list[str]:
    ordered = sorted(selection.series(), key=lambda s: s.sort_key[2])
    return list(dict.fromkeys(_way(series) for series in ordered))


def _tallies(selection: Selection) -> dict[tuple[str, str, str], _Tally]:
    found: dict[tuple[str, str, str], _Tally] = {}
    for point in selection.points:
        tally = found.setdefault((point.series.device_class, point.series.model, _way(point.series)), _Tally())
        tally.add(_state(point), point.count, _reasons(point), run_anchor(point.record))
    for gap in selection.gaps:
        tally = found.setdefault((gap.series.device_class, gap.series.model, _way(gap.series)), _Tally())
        tally.add("missing" if gap.kind == "missing" else "not run", 1, {gap.reason: gap.reason})
    return found


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
