# SPDX-License-Identifier: Apache-2.0
"""The report of a night: what changed, what is missing, and the usual report of the night's sweeps below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from farm.contract.job import JobSpec
from farm.contract.record import Record
from farm.history.document import Night, decode
from farm.history.model import Event
from farm.report import text
from farm.report.compose import compose
from farm.report.document import Document, Section, Sentence
from farm.report.render import ReportFiles, write_document
from farm.report.table import Cell, Column, Group, Row, Table
from farm.report.trends import event_words
from farm.store import Store


def write_night_report(
    store: Store,
    night: str,
    out_dir: Path,
    *,
    samples: Callable[[Record], list[int] | None] | None = None,
    expected: Iterable[JobSpec] = (),
) -> ReportFiles:
    """Write the report of the night named into `out_dir`. `samples` and `expected` are as for `write_report`.

    Raises:
        UsageError: there is no such night.
        IntegrityError: its document cannot be used.
        UnavailableError: the store cannot be read or `out_dir` cannot be written.
    """
    found = decode(store.nights.read(night), night)
    records = [record for sweep in found.sweeps for record in store.records.iterate(sweep)]
    usual = compose(records, title=f"Night {night}", samples=samples, expected=expected)
    return write_document(night_document(found, usual), out_dir)


def night_document(night: Night, usual: Document) -> Document:
    """The usual report with the night's own summary and tables before it. Pure."""
    tables = tuple(table for table in (events_table(night), missing_table(night), canary_table(night)) if table.groups)
    own = (Section("night", "What changed", "", tables),) if tables else ()
    subtitle = text.moment(night.run["began_at"]) if night.run.get("began_at") else usual.subtitle
    sentences = (*_sentences(night), *usual.summary)
    return replace(usual, subtitle=subtitle, summary=sentences, sections=(*own, *usual.sections))


def _sentences(night: Night) -> list[Sentence]:
    found = []
    open_events = [event for event in night.events if event.state.is_open]
    worse, better = [e for e in open_events if e.worse], [e for e in open_events if not e.worse]
    if worse:
        found.append(Sentence("slower", f"{text.plural(len(worse), 'change')} for the worse.", "events"))
    if better:
        found.append(Sentence("better", f"{text.plural(len(better), 'change')} for the better.", "events"))
    if night.assessed_at and not open_events:
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


def events_table(night: Night) -> Table:
    """Every event that is open or ended tonight, with its state and cause, in groups."""
    columns = (
        Column("State", numeric=False), Column("Metric", numeric=False), Column("Change"),
        Column("Since", numeric=False), Column("What is known", numeric=False),
    )  # fmt: skip
    groups: dict[str, list[Row]] = {}
    for event in sorted(night.events, key=lambda e: (not e.worse, -abs(e.change))):
        groups.setdefault(event.group or event.device, []).append(_event_row(event))
    made = tuple(Group(title, tuple(rows)) for title, rows in groups.items())
    caption = "A change is a share of the value before; states are explained in docs/regressions.md."
    return Table("events", "Events", caption, "Event", columns, made, group_heading="Group")


def _event_row(event: Event) -> Row:
    href = f"../series/{event.keys[0].partition(':')[0]}/index.html" if event.keys else ""
    cells = (
        Cell(event.state.value),
        Cell(event.metric),
        Cell(f"{event.change:+.1%}", href=href if len(event.keys) == 1 else ""),
        Cell(event.since),
        Cell("; ".join((*event.cause, *event.notes)) or event_words(event)),
    )
    return Row(event.event_id, cells, anchor=f"event-{event.event_id}")


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
