# SPDX-License-Identifier: Apache-2.0
"""The one shape of every table, so that HTML and Markdown show the same cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from farm.contract.canonical import short_digest
from farm.contract.record import Record
from farm.report.select import Point
from farm.report.stats import Absent
from farm.report.text import ABSENT


@dataclass(frozen=True)
class Column:
    """A column's heading and its unit. Words are set flush left, numbers flush right, digests in mono."""

    heading: str
    unit: str = ""
    numeric: bool = True
    mono: bool = False


@dataclass(frozen=True)
class Cell:
    """What a cell shows. `sub` is the smaller second line, `note` the explanation on hover and for screen readers.

    `anchor` is the appendix row of the record the number comes from, `href` another page, relative to this one; `mark`
    points to a footnote of the table. `status` (`ok`, `flagged`, `refused`, `failed`, `missing`, `not-run`) tints the
    cell; its words say the same.
    """

    text: str = ""
    sub: str = ""
    note: str = ""
    mark: str = ""
    anchor: str = ""
    muted: bool = False
    href: str = ""
    status: str = ""


@dataclass(frozen=True)
class Row:
    """A row: its heading and its cells. `anchor` names the row itself, `href` is the page that its heading leads to."""

    heading: str
    cells: tuple[Cell, ...]
    anchor: str = ""
    href: str = ""


@dataclass(frozen=True)
class Group:
    """Rows under a common heading (a model); an empty title shows none."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table. `caption` says what is shown, in what unit, and which way is better. `notes` are footnotes."""

    key: str
    title: str
    caption: str
    heading: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    group_heading: str = "Model"
    notes: tuple[tuple[str, str], ...] = ()
    wide: bool = False

    @property
    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with the title of its group."""
        return ((group.title, row) for group in self.groups for row in group.rows)


def run_anchor(record: Record) -> str:
    """The appendix row of a record, as an HTML id."""
    safe = re.fullmatch(r"[A-Za-z0-9._-]+", record.run_id)
    return "run-" + (record.run_id if safe else short_digest(record.run_id))


def absent(reason: str) -> Cell:
    """A dash that says why there is no number."""
    return Cell(ABSENT, note=reason, muted=True)


def listed_points(points: Iterable[Point]) -> str:
    """Points as people name them: `resnet18 pytorch fp32, batch 4; ...`."""
    return "; ".join(f"{p.series.model} {p.series.label}, {at(p)}" for p in points)


def at(point: Point) -> str:
    """`batch 8`, `accuracy` or `whole job`. A pipeline's series has its name."""
    if point.is_accuracy:
        return "accuracy"
    if point.is_pipeline and point.record.batch_size is not None:
        return f"batch {point.record.batch_size}"
    return "whole job" if point.batch is None else f"batch {point.batch}"


@dataclass
class Footnotes:
    """Marks of one table, in order of appearance: a dagger for suspect runs, a double dagger for invalid ones."""

    found: dict[tuple[str, str], str] = field(default_factory=dict)
    order: list[tuple[str, str]] = field(default_factory=list)

    def mark(self, point: Point) -> str:
        """The mark of a doubtful point, '' for a sound one. Its footnote gives each flag with the evidence."""
        if not point.doubts:
            return ""
        evidence = "; ".join(f"{f.name.replace('_', ' ')} ({f.level}): {f.evidence}" for f in point.doubts)
        text = f"{point.series.model} {point.series.label}, {at(point)}: {evidence}"
        return self.note("\u2021" if point.invalid else "\u2020", text)

    def note(self, sign: str, text: str) -> str:
        """The mark of a footnote of the table's own."""
        if (sign, text) not in self.found:
            self.found[sign, text] = f"{sign}{len(self.order) + 1}"
            self.order.append((sign, text))
        return self.found[sign, text]

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each mark with its text."""
        return tuple((self.found[key], key[1]) for key in self.order)


def number_cell(point: Point, shown: str | Absent, notes: Footnotes, *, sub: str = "", note: str = "") -> Cell:
    """A number linked to its record, or a dash with the reason; marked if the record is flagged."""
    if isinstance(shown, Absent):
        return Cell(ABSENT, note=shown.reason, anchor=run_anchor(point.record), muted=True)
    return Cell(shown, sub=sub, note=note, mark=notes.mark(point), anchor=run_anchor(point.record))
