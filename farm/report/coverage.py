# SPDX-License-Identifier: Apache-2.0
"""What was asked and what became of it: counts by outcome, a reason for everything that is not ok, every flag. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from farm.contract.outcome import Outcome
from farm.report import text
from farm.report.select import Point, Selection
from farm.report.series import Series
from farm.report.table import Cell, Column, Group, Row, Table, at, run_anchor

#: Columns of the count table, in order: heading -> outcomes and kinds of gap counted there.
KINDS: dict[str, tuple[str, ...]] = {
    "Ok": ("ok",),
    "Unsupported": ("unsupported",),
    "Out of memory": ("out_of_memory",),
    "Failed": ("failed", "timed_out", "crashed"),
    "Contaminated": ("contaminated",),
    "Cancelled or lost": ("cancelled", "lost"),
    "Not run": ("not_run",),
    "No record": ("missing",),
}

#: What a gap is called in a cell.
GAP_WORDS = {"not_run": "not run", "missing": "no record"}


def counts(selection: Selection, series: Series | None = None) -> Counter[str]:
    """How many asked points ended each way: outcomes, `not_run` and `missing`."""
    found: Counter[str] = Counter()
    for point in selection.points:
        if series in (None, point.series):
            found[str(point.record.outcome)] += point.count
    for gap in selection.gaps:
        if series in (None, gap.series):
            found[gap.kind] += 1
    return found


def outcome_table(selection: Selection) -> Table:
    """Asked points by outcome: one row per series, only the columns that hold something."""
    total = counts(selection)
    kinds = {head: keys for head, keys in KINDS.items() if head == "Ok" or any(total[k] for k in keys)}
    groups = []
    for device_class in selection.classes:
        for model in selection.models(device_class):
            rows = [_count_row(selection, series, kinds) for series in selection.series(device_class, model)]
            title = f"{model}, {device_class}" if len(selection.classes) > 1 else model
            groups.append(Group(title, tuple(rows)))
    heads = ["Asked", *kinds]
    heads.insert(2, "Ok but flagged")
    columns = tuple(Column(head, "points") for head in heads)
    caption = (
        "A point is one model, workflow, precision and batch size on one device, or the accuracy of such a row."
        " Ok but flagged: of those that are ok."
        " Not run: the batch ladder had ended before. No record: asked for, and nothing is recorded."
    )
    return Table("outcomes", "Outcomes", caption, "Workflow, precision", columns, tuple(groups))


def _count_row(selection: Selection, series: Series, kinds: dict[str, tuple[str, ...]]) -> Row:
    found, points = counts(selection, series), selection.of(series)
    cells = [_count(sum(found[k] for k in keys), [p for p in points if p.record.outcome in keys])
             for keys in kinds.values()]  # fmt: skip
    doubtful = [p for p in points if p.ok and p.doubts]
    cells.insert(1, _count(len(doubtful), doubtful))
    return Row(series.label, (_count(found.total(), points), *cells))


def _count(number: int, points: Sequence[Point]) -> Cell:
    """A count, linked to the first of its records: those of a series stand together in the appendix."""
    return Cell(str(number), muted=number == 0, anchor=run_anchor(points[0].record) if points and number else "")


def reason_table(selection: Selection) -> Table | None:
    """One row for everything that is not ok: where it is, at which stage, why, what to do. None if all is well."""
    rows: dict[str, list[Row]] = {}
    for point in selection.points:
        if not point.ok:
            rows.setdefault(_group(selection, point.series), []).append(_failure_row(point))
    for (series, kind, reason), batches in _gaps(selection).items():
        cells = (text.listed(batches) if batches else "whole job", GAP_WORDS[kind], "", reason, "")
        rows.setdefault(_group(selection, series), []).append(Row(series.label, tuple(Cell(c) for c in cells)))
    if not rows:
        return None
    words = ("Where", "Outcome", "Stage", "Reason", "What to do")
    columns = tuple(Column(word, numeric=False) for word in words)
    groups = tuple(Group(title, tuple(found)) for title, found in sorted(rows.items()))
    caption = "Everything that was asked for and is not ok, with the reason its record gives."
    return Table("reasons", "Refused, failed or missing", caption, "Workflow, precision", columns, groups)


def _group(selection: Selection, series: Series) -> str:
    return f"{series.model}, {series.device_class}" if len(selection.classes) > 1 else series.model


def _failure_row(point: Point) -> Row:
    record = point.record
    failure = record.failure
    where = (
        at(point) if record.batch_size is not None or not point.stands_for else f"all of {text.sizes(point.stands_for)}"
    )
    cells = (
        Cell(where, anchor=run_anchor(record)),
        Cell(text.plain(record.outcome)),
        Cell(text.plain(failure.stage) if failure else ""),
        Cell(failure.message if failure else "the record gives no reason", sub=failure.reference if failure else ""),
        Cell((failure.hint or "") if failure else ""),
    )
    return Row(point.series.label, cells)


def _gaps(selection: Selection) -> dict[tuple[Series, str, str], list[str]]:
    """Where the gaps of each reason are, in words."""
    batches: dict[tuple[Series, str, str], list[int]] = {}
    others: dict[tuple[Series, str, str], list[str]] = {}
    for gap in selection.gaps:
        key = (gap.series, gap.kind, gap.reason)
        known = batches.setdefault(key, [])
        if gap.batch is not None:
            known.append(gap.batch)
        elif gap.accuracy:
            others.setdefault(key, []).append("accuracy")
    return {key: ([text.sizes(of)] if of else []) + others.get(key, []) for key, of in batches.items()}


def flag_table(selection: Selection) -> Table | None:
    """Every flag with its evidence, notes of level `info` too. None if no run has one."""
    flagged = [p for p in selection.points if p.record.flags]
    if not flagged:
        return None
    rows: dict[str, list[Row]] = {}
    for point in flagged:
        for flag in point.record.flags:
            cells = (
                Cell(at(point), anchor=run_anchor(point.record)),
                Cell(text.plain(flag.name)),
                Cell(flag.level),
                Cell(flag.evidence),
            )
            rows.setdefault(_group(selection, point.series), []).append(Row(point.series.label, cells))
    columns = tuple(Column(word, numeric=False) for word in ("Where", "Flag", "Level", "Evidence"))
    caption = (
        "Suspect (\u2020): shown, drawn hollow, not ranked. Invalid (\u2021): shown, never compared. Info: worth"
        " knowing, not counted against the run."
    )
    groups = tuple(Group(title, tuple(found)) for title, found in sorted(rows.items()))
    return Table("flags", "Flagged runs", caption, "Workflow, precision", columns, groups)


def problem_table(selection: Selection) -> Table | None:
    """Records that could not be used, with where they are and why. None if all could."""
    if not selection.problems:
        return None
    rows = tuple(Row(p.where, (Cell(p.problem),)) for p in selection.problems)
    caption = "No number of this report comes from them."
    columns = (Column("Problem", numeric=False),)
    return Table("unused", "Records that could not be used", caption, "Record", columns, (Group("", rows),), "")


def coverage_tables(selection: Selection) -> list[Table]:
    """All tables of this module that have something to say."""
    if not selection.points and not selection.gaps:
        found: Sequence[Table | None] = (problem_table(selection),)
    else:
        found = (outcome_table(selection), reason_table(selection), flag_table(selection), problem_table(selection))
    return [t for t in found if t is not None]


def failures(selection: Selection) -> dict[tuple[str, str], list[Point]]:
    """Points that are not ok, by outcome and reason, most first."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in selection.points:
        if point.record.outcome is not Outcome.OK:
            why = point.record.failure.message if point.record.failure else "no reason recorded"
            found.setdefault((str(point.record.outcome), why), []).append(point)
    return dict(sorted(found.items(), key=lambda item: (-sum(p.count for p in item[1]), item[0])))
