# SPDX-License-Identifier: Apache-2.0
"""The report of a night: what changed, how the night went, and the usual report of the night's sweeps below."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from farm.contract.job import JobSpec
from farm.contract.record import Record
from farm.history.document import Night, decode
from farm.history.naming import names_of
from farm.report import text
from farm.report.changes import change_sentences, changes_section
from farm.report.compose import compose
from farm.report.document import Document, Section, Sentence
from farm.report.profiles import pictures_in
from farm.report.render import ReportFiles, write_document
from farm.report.table import Cell, Column, Group, Row, Table
from farm.store import Store

#: Sections of the usual report that people read every morning.
_FIRST = ("coverage", "across", "findings", "choice")


def write_night_report(
    store: Store,
    night: str,
    out_dir: Path,
    *,
    samples: Callable[[Record], list[int] | None] | None = None,
    expected: Iterable[JobSpec] = (),
    series_pages: Container[str] = (),
) -> ReportFiles:
    """Write the report of the night named into `out_dir`. `samples` and `expected` are as for `write_report`.

    Args:
        series_pages: the ids of the series that have a page in `../series`, beside an index of all nights.

    Raises:
        UsageError: there is no such night.
        IntegrityError: its document cannot be used.
        UnavailableError: the store cannot be read or `out_dir` cannot be written.
    """
    found = decode(store.nights.read(night), night)
    records = store.of_sweeps(found.sweeps)
    pictures = pictures_in(store)
    usual = compose(records, title=f"Night {night}", samples=samples, expected=expected, pictures=pictures)
    document = night_document(found, usual, names_of(store, found.events), series_pages)
    return write_document(document, out_dir)


def night_document(
    night: Night, usual: Document, names: Mapping[str, str], series_pages: Container[str] = ()
) -> Document:
    """The usual report with what changed before it, in words and tables, and how the night went. Pure.

    What every device measured is folded, and the figures stand after what is read every morning.

    Args:
        names: what series are called, by their key.
        series_pages: as for `write_night_report`.
    """

    def page(key: str) -> str:
        series = key.partition(":")[0]
        return f"../series/{series}/index.html" if series in series_pages else ""

    changed = (changes_section(night.events, names, page),) if night.assessed_at else ()
    tables = tuple(table for table in (missing_table(night), canary_table(night)) if table.groups)
    own = (Section("night", "How the night went", "", tables),) if tables else ()
    subtitle = text.moment(night.run["began_at"]) if night.run.get("began_at") else usual.subtitle
    sentences = (*_sentences(night, names), *usual.summary)
    drawn = (Section("figures", "Figures", "", figures=usual.figures),) if usual.figures else ()
    first = [section for section in usual.sections if section.key in _FIRST]
    rest = [_folded(section) for section in usual.sections if section.key not in _FIRST]
    return replace(
        usual,
        subtitle=subtitle,
        summary=sentences,
        figures=(),
        sections=(*changed, *own, *first, *drawn, *rest),
        links=(("All nights and series", "../index.html"),) if series_pages else (),
    )


def _folded(section: Section) -> Section:
    """A section whose tables are closed until they are asked for; the records stay, since every number leads there."""
    if section.key == "appendix":
        return section
    return replace(section, tables=(), folded=(*section.tables, *section.folded))


def _sentences(night: Night, names: Mapping[str, str]) -> list[Sentence]:
    found = change_sentences(night.events, names)
    if night.assessed_at and not any(event.state.is_open for event in night.events):
        found.append(Sentence("settled", "Nothing changed that is not settled."))
    if not night.assessed_at:
        found.append(Sentence("doubt", "This night has not been judged against those before it."))
    if night.run.get("missing"):
        found.append(
            Sentence("missing", f"{text.plural(len(night.run['missing']), 'job')} without a result.", "missing")
        )
    problems = [row["problem"] for row in night.run.get("sweeps", []) if row.get("problem")]
    problems += [f"{name.replace('_', ' ')}: {facts['problem']}" for name, facts in _failed(night)]
    found += [Sentence("broke", f"{problem}.") for problem in (*problems, *night.problems)]
    if night.run.get("missed"):
        found.append(Sentence("missing", f"Nights that never were: {text.listed(night.run['missed'])}."))
    return found


def _failed(night: Night) -> list[tuple[str, dict[str, str]]]:
    return [(name, facts) for name, facts in night.run.get("steps", {}).items() if facts.get("problem")]


def missing_table(night: Night) -> Table:
    """Jobs without a result."""
    rows = tuple(
        Row(job_id, (Cell(facts["job"]), Cell(facts["reason"])))
        for job_id, facts in sorted(night.run.get("missing", {}).items())
    )
    columns = (Column("Of", numeric=False), Column("Why", numeric=False))
    groups = (Group("", rows),) if rows else ()
    return Table("missing", "Without a result", "Jobs that this night should have had.", "Job", columns, groups)


def canary_table(night: Night) -> Table:
    """What each device's canary said first and last."""
    said = {
        step: night.run.get("steps", {}).get(step, {}).get("said", {}) for step in ("canaries_first", "canaries_last")
    }
    rows = tuple(
        Row(device, tuple(Cell(found.get(device, {}).get("summary", "")) for found in said.values()))
        for device in sorted({device for found in said.values() for device in found})
    )
    columns = (Column("Before", numeric=False), Column("After", numeric=False))
    groups = (Group("", rows),) if rows else ()
    return Table("canaries", "Canaries", "One small job that stays the same.", "Device", columns, groups)
