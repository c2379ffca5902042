# SPDX-License-Identifier: Apache-2.0
"""The section of what the records show that nobody asked about: sentences, evidence, and what was examined. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from farm.contract.record import Record
from farm.findings import RULES, Evidence, Finding, Findings, Sure, find
from farm.report import text
from farm.report.document import Section, Sentence
from farm.report.select import Selection
from farm.report.table import Cell, Column, Group, Row, Table, absent, run_anchor

#: Sentences above the table; the table has all.
MOST_SENTENCES = 12
_MOST_RUNS = 4


def findings_section(selection: Selection) -> Section | None:
    """All findings over the newest record of every point; None where no rule had anything to examine."""
    records = {p.record.run_id: p.record for p in selection.points}
    return section_of(find(records.values()), records)


def section_of(found: Findings, records: Mapping[str, Record]) -> Section | None:
    """The section of given findings; `records` are those that the appendix has, by run."""
    examined = sum(one.pairs for one in found.examined)
    if not examined:
        return None
    sentences = [Sentence("finding", finding.sentence, "findings-evidence") for finding in found.found]
    shown = tuple(sentences[:MOST_SENTENCES])
    tables = (_evidence_table(found, records),) if found.found else ()
    return Section("findings", "Findings", _intro(found, examined), tables, (_examined_table(found),), (), shown)


def _intro(found: Findings, examined: int) -> str:
    told = f"{text.plural(len(found.found), 'finding')} among {text.plural(examined, 'case')} examined."
    if len(found.found) > MOST_SENTENCES:
        told += f" The first {MOST_SENTENCES} are told here, all in the table."
    rate = 100 * found.false_discovery_rate
    told += f" Of those that rest on a test, {rate:g} % at most are expected to be false (Benjamini and Hochberg)."
    if any(finding.sure is Sure.RUNS for finding in found.found):
        told += " Within one run only: another process may give another number; measure five processes a side to know."
    return told


def _evidence_table(found: Findings, records: Mapping[str, Record]) -> Table:
    groups = []
    for name, rule in RULES.items():
        rows = [Row(_heading(finding), _cells(finding, records)) for finding in found.of(name)]
        groups.append(Group(rule.title, tuple(rows)))
    columns = (
        Column("Base", numeric=False),
        Column("New", numeric=False),
        Column("New / base"),
        Column("How sure", numeric=False),
        Column("Also different", numeric=False),
        Column("Runs", numeric=False, mono=True),
    )
    caption = (
        "The two sides of each finding with their numbers; small figures: the interval of the number, and of the ratio."
        " p: adjusted for all that was examined; within one run it rests on an assumed scatter between processes."
    )
    kept = tuple(group for group in groups if group.rows)
    return Table("findings-evidence", "Evidence", caption, "Cell", columns, kept, "Finding")


def _heading(finding: Finding) -> str:
    cell = finding.cell
    batch = f"batch {cell['batch']}" if cell.get("batch") else ""
    way = cell.get("way") or cell.get("workflow", "")
    where = cell.get("device", "")
    return ", ".join(word for word in (cell.get("model", ""), way, batch, where) if word)


def _cells(finding: Finding, records: Mapping[str, Record]) -> tuple[Cell, ...]:
    sure = str(finding.sure)
    if finding.p_value is not None:
        sure += f", p {'< 0.0001' if finding.p_value < 1e-4 else f'= {finding.p_value:.2g}'}"
    runs = [*finding.runs[:_MOST_RUNS]]
    more = f" and {len(finding.runs) - _MOST_RUNS} more" if len(finding.runs) > _MOST_RUNS else ""
    return (
        _side(finding.base, records),
        _side(finding.new, records),
        _ratio(finding),
        Cell(sure),
        Cell("; ".join(finding.notes) or "nothing"),
        Cell(" ".join(runs) + more),
    )


def _side(of: Evidence | None, records: Mapping[str, Record]) -> Cell:
    if of is None:
        return absent("this finding has one side")
    anchor = run_anchor(records[of.runs[0]]) if of.runs and of.runs[0] in records else ""
    shown = of.label
    if of.value is not None:
        percent = of.unit == "1"
        scale, unit = (100.0, "%") if percent else (1.0, of.unit)
        shown += f": {text.number(scale * of.value)} {unit}"
        if of.low is not None and of.high is not None:
            return Cell(shown, sub=text.span(scale * of.low, scale * of.high), anchor=anchor)
    return Cell(shown, anchor=anchor)


def _ratio(finding: Finding) -> Cell:
    if finding.ratio is None:
        return absent("no ratio: the sentence has the numbers")
    low, high = finding.low, finding.high
    return Cell(text.number(finding.ratio), sub=text.span(low, high) if low is not None and high is not None else "")


def _examined_table(found: Findings) -> Table:
    rows = []
    for one in found.examined:
        rule = RULES[one.rule]
        cells = (
            Cell(text.number(one.pairs, 0)),
            Cell(text.number(one.found, 0)),
            Cell(text.number(one.undecided, 0)),
            Cell(rule.about, note=f"Source: {rule.source}"),
            Cell(rule.silent),
        )
        rows.append(Row(rule.title, cells))
    columns = (
        Column("Examined"),
        Column("Found"),
        Column("Could not be told"),
        Column("What it means", numeric=False),
        Column("What it does not say", numeric=False),
    )
    caption = "What each rule looked at: pairs of cells, cells, or studies. docs/findings.md has the rules."
    groups = (Group("", tuple(rows)),)
    return Table("findings-examined", "What was examined", caption, "Rule", columns, groups, "")
