# SPDX-License-Identifier: Apache-2.0
"""What each device class does best with each model, with the workflow, precision and batch size that did it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farm.report import stats, text
from farm.report.select import Point, Selection
from farm.report.series import facets
from farm.report.stats import Absent
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, number_cell


@dataclass(frozen=True)
class _Race:
    """A metric, which end of it is best, and whether only the smallest batch size counts."""

    heading: str
    metric: str
    lowest: bool
    smallest: bool = False
    write: Callable[[float], str] = text.number


_RACES = (
    _Race("Lowest latency at batch {}, ms", "latency_ms", True, smallest=True),
    _Race("Highest throughput, inputs/s", "throughput_per_s", False),
    _Race("Least energy, J per input", "energy_per_input_j", True),
)


def best_table(selection: Selection) -> Table | None:
    """A column for each device class, rows by model and input shape, of models that two classes ran. None if none."""
    # Several requests in flight make another quantity of both latency and throughput.
    ran = [p for p in selection.ok if p.record.job.protocol.scenario == "single"]
    notes = Footnotes()
    groups = []
    for title, points in _subjects(ran).items():
        if len({p.series.device_class for p in points}) < 2:
            continue
        rows = [_row(race, points, selection.classes, notes) for race in _RACES if _known(points, race.metric)]
        groups.append(Group(title, tuple(rows)))
    kept = tuple(group for group in groups if group.rows)
    if not kept:
        return None
    caption = (
        "The best point of each device class, one request in flight, with what did it: a flagged one, marked so, only"
        " where a device has no other. Each device ran what its stacks can run, so these rows compare what the devices"
        " achieve and not one workflow."
    )
    columns = tuple(Column(name) for name in selection.classes)
    return Table("best-across", "Best of each device", caption, "Quantity", columns, kept, "Model", notes.notes)


def _subjects(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Points by model, and by input shape and data where a model has several: else they are no race."""
    found: dict[str, dict[str, list[Point]]] = {}
    for p in points:
        said = facets(p.record.job, ())
        subject = f"{said['input']}, {said['data']}"
        found.setdefault(p.series.model, {}).setdefault(subject, []).append(p)
    return {
        model if len(of) == 1 else f"{model}, {subject}": of[subject]
        for model, of in sorted(found.items())
        for subject in sorted(of)
    }


def _known(points: Sequence[Point], metric: str) -> bool:
    return any(not isinstance(stats.value(p.record, metric), Absent) for p in points)


def _row(race: _Race, points: Sequence[Point], classes: Sequence[str], notes: Footnotes) -> Row:
    # One batch size for all classes: a larger one is no latency to hold against a smaller.
    smallest = min(p.batch or 0 for p in points)
    entered = [p for p in points if not race.smallest or p.batch == smallest]
    cells = []
    for name in classes:
        found = stats.best([p for p in entered if p.series.device_class == name], race.metric, lowest=race.lowest)
        cells.append(_cell(race, found, notes))
    return Row(race.heading.format(smallest), tuple(cells))


def _cell(race: _Race, found: stats.Best | Absent, notes: Footnotes) -> Cell:
    if isinstance(found, Absent):
        return absent("no point of this device has it")
    who = f"{found.point.series.workflow} {found.point.series.precision}, batch {found.point.batch}"
    return number_cell(found.point, race.write(found.value), notes, sub=who, note=found.point.series.label)
