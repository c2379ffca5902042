# SPDX-License-Identifier: Apache-2.0
"""The index of nights: every night with its state, counts and report, and the pages of the series."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from farm.errors import UnavailableError
from farm.history.calendar import Calendar, read_calendar
from farm.history.document import Night
from farm.report import text
from farm.report.document import Document, Section, Sentence
from farm.report.render import ReportFiles, write_document
from farm.report.table import Cell, Column, Group, Row, Table
from farm.report.trends import Trend, load_trends, write_trends
from farm.store import Store

#: Pages take a tenth of a second each. Beyond this many those of series with events are made, then the first ones.
MOST_SERIES = 300


def write_nights_index(store: Store, out_dir: Path) -> ReportFiles:
    """Write `out_dir/index.html` over all nights, and `out_dir/series/ID/index.html` for each series.

    Raises:
        UnavailableError: the store cannot be read or `out_dir` cannot be written.
    """
    store.index.refresh()
    calendar = read_calendar(store)
    newest = next(reversed(list(calendar.nights.values())), None)
    trends = load_trends(store, calendar, newest.events if newest else ())
    shown = sorted(trends, key=lambda trend: not trend.events)[:MOST_SERIES]
    pages = write_trends(shown, out_dir)
    return write_document(index_document(calendar, trends, pages, out_dir), out_dir)


def index_document(calendar: Calendar, trends: Sequence[Trend], pages: Mapping[str, str], out_dir: Path) -> Document:
    """The page of all nights, the newest first."""
    nights = list(calendar.nights.values())[::-1]
    tables = (nights_table(nights, out_dir),) if nights else ()
    sentences = [Sentence("ran", f"{text.plural(len(nights), 'night')}.")]
    sentences += [Sentence("missing", f"No night: {text.listed(gaps)}.") for gaps in [missed(nights)] if gaps]
    sentences += [Sentence("broke", problem) for problem in calendar.problems]
    sections = [Section("nights", "Nights", "", tables)] if tables else []
    if trends:
        left = len({t.series.series_id for t in trends}) - len(pages)
        intro = f"{text.plural(left, 'series', 'series')} without a page: those with events come first." if left else ""
        sections.append(Section("series", "Series", intro, (series_table(trends, pages),)))
    return Document("Nights", "", tuple(sentences), (), tuple(sections))


def missed(nights: Sequence[Night]) -> list[str]:
    """The names of nights that never were, as later ones tell."""
    return sorted(
        {name for night in nights for name in night.run.get("missed", [])} - {night.night for night in nights}
    )


def nights_table(nights: Sequence[Night], out_dir: Path) -> Table:
    """One row for each night."""
    columns = (
        Column("State", numeric=False), Column("Began", numeric=False), Column("Records"), Column("Ok"),
        Column("Missing"), Column("Open events"), Column("New"), Column("Confirmed"), Column("Triggers"),
    )  # fmt: skip
    rows = tuple(_night_row(night, (out_dir / night.night / "index.html").is_file()) for night in nights)
    caption = "A night is named by the UTC date on which it began. Records as the night counted them."
    return Table("all-nights", "All nights", caption, "Night", columns, (Group("", rows),))


def _night_row(night: Night, has_page: bool) -> Row:
    run = night.run
    outcomes = run.get("outcomes", {})
    states = Counter(event.state.value for event in night.events if event.state.is_open)
    problems = [
        f"{name.replace('_', ' ')}: {f['problem']}" for name, f in run.get("steps", {}).items() if f.get("problem")
    ]
    state = str(run.get("state") or ("judged" if night.assessed_at else "measured"))
    counts = (
        sum(outcomes.values()), outcomes.get("ok", 0), len(run.get("missing", {})), sum(states.values()),
        states.get("new", 0), states.get("confirmed", 0), len(night.triggers),
    )  # fmt: skip
    page = f"{night.night}/index.html" if has_page else ""
    cells = (
        Cell(state.replace("_", " "), href=page, sub="; ".join(problems)),
        Cell(text.moment(run["began_at"]) if run.get("began_at") else ""),
        *(Cell(text.number(count, 0)) for count in counts),
    )
    return Row(night.night, cells, anchor=f"night-{night.night}")


def series_table(trends: Sequence[Trend], pages: Mapping[str, str]) -> Table:
    """One row for each series and metric: its newest value and what is open on it."""
    columns = (Column("Metric", numeric=False), Column("Newest"), Column("Nights"), Column("Events", numeric=False))
    groups: dict[str, list[Row]] = {}
    for trend in trends:
        groups.setdefault(trend.series.device, []).append(_series_row(trend, pages.get(trend.series.series_id, "")))
    made = tuple(Group(device, tuple(rows)) for device, rows in sorted(groups.items()))
    return Table(
        "all-series", "All series", "The newest night's value.", "Series", columns, made, group_heading="Device"
    )


def _series_row(trend: Trend, page: str) -> Row:
    series = trend.series
    said = "; ".join(f"{event.state.value} {event.change:+.1%} since {event.since}" for event in trend.events)
    cells = (
        Cell(series.metric, href=page),
        Cell(text.number(series.points[-1].value), sub=series.points[-1].night),
        Cell(text.number(len(series.points), 0)),
        Cell(said),
    )
    return Row(trend.title.removesuffix(f", on {series.device}"), cells)


def remove_old(out_dir: Path, keep: int) -> list[str]:
    """Remove all but the newest `keep` nights' reports; return their names. Documents and records stay.

    Raises:
        UnavailableError: they cannot be removed.
    """
    if not out_dir.is_dir():
        return []
    old = sorted(path.name for path in out_dir.iterdir() if path.is_dir() and _is_night(path.name))[:-keep]
    try:
        for name in old:
            shutil.rmtree(out_dir / name)
    except OSError as error:
        raise UnavailableError(f"{out_dir} cannot be cleared up: {error}", hint="Check who may write there.") from error
    return old


def _is_night(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False
