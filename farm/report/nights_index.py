# SPDX-License-Identifier: Apache-2.0
"""The index of nights: every night with its state, counts and report, and the pages of the series."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path

from farm.contract.metrics import METRICS
from farm.errors import UnavailableError
from farm.history.calendar import Calendar, read_calendar
from farm.history.document import Night
from farm.history.model import Event
from farm.report import text
from farm.report.changes import change_words, metric_words
from farm.report.document import SIMULATED, Document, Section, Sentence
from farm.report.render import ReportFiles, write_document
from farm.report.table import Cell, Column, Group, Row, Table
from farm.report.trends import Trend, load_trends, write_trends
from farm.store import Store

#: A page costs some 10 ms and 20 kB. Beyond this many those of series with events are made, then the first ones.
MOST_SERIES = 2000


def write_series_pages(store: Store, out_dir: Path) -> list[Trend]:
    """Write `out_dir/series/ID/index.html` for each series, where it is another than before; return all trends.

    Raises:
        UnavailableError: the store cannot be read or `out_dir` cannot be written.
    """
    store.index.refresh()
    calendar = read_calendar(store)
    newest = next(reversed(list(calendar.nights.values())), None)
    trends = load_trends(store, calendar, newest.events if newest else ())
    shown = sorted(trends, key=lambda trend: not trend.events)[:MOST_SERIES]
    write_trends(shown, out_dir, simulated=_simulated(calendar))
    return trends


def pages_below(out_dir: Path) -> set[str]:
    """The ids of the series that have a page."""
    return {path.parent.name for path in (out_dir / "series").glob("*/index.html")}


def write_nights_index(store: Store, trends: Sequence[Trend], out_dir: Path) -> ReportFiles:
    """Write `out_dir/index.html` over all nights and series, with links to the pages that are there.

    Raises:
        UnavailableError: the store cannot be read or `out_dir` cannot be written.
    """
    return write_document(index_document(read_calendar(store), trends, pages_below(out_dir), out_dir), out_dir)


def index_document(calendar: Calendar, trends: Sequence[Trend], pages: Collection[str], out_dir: Path) -> Document:
    """The page of all nights, the newest first.

    Args:
        pages: the ids of the series that have a page.
    """
    nights = list(calendar.nights.values())[::-1]
    tables = (nights_table(nights, out_dir),) if nights else ()
    open_ = [event for event in nights[0].events if event.state.is_open] if nights else []
    sentences = [Sentence("ran", f"{text.plural(len(nights), 'night')}, {_open_words(open_)}.")]
    sentences += [Sentence("missing", f"No night: {text.listed(gaps)}.") for gaps in [missed(nights)] if gaps]
    sentences += [Sentence("broke", problem) for problem in calendar.problems]
    sections = [Section("nights", "Nights", "", tables)] if tables else []
    if trends:
        left = len({t.series.series_id for t in trends} - set(pages))
        intro = f"{text.plural(left, 'series', 'series')} without a page: those with events come first." if left else ""
        sections.append(Section("series", "Series", intro, (series_table(trends, pages),)))
    banner = SIMULATED if _simulated(calendar) else ""
    return Document("Nights", "", tuple(sentences), (), tuple(sections), banner=banner)


def _simulated(calendar: Calendar) -> bool:
    return any(night.run.get("simulated") for night in calendar.nights.values())


def _open_words(events: Sequence[Event]) -> str:
    if not events:
        return "nothing open after the newest"
    worse = sum(event.worse for event in events)
    return f"{text.plural(len(events), 'event')} open after the newest: {worse} worse, {len(events) - worse} better"


def missed(nights: Sequence[Night]) -> list[str]:
    """The names of nights that never were, as later ones tell."""
    return sorted(
        {name for night in nights for name in night.run.get("missed", [])} - {night.night for night in nights}
    )


def nights_table(nights: Sequence[Night], out_dir: Path) -> Table:
    """One row for each night."""
    columns = (
        Column("Open events"), Column("New"), Column("Confirmed"), Column("Triggers"), Column("Records"), Column("Ok"),
        Column("Missing"), Column("State", numeric=False), Column("Began", numeric=False),
    )  # fmt: skip
    rows = tuple(_night_row(night, (out_dir / night.night / "index.html").is_file()) for night in nights)
    caption = (
        "A night is named by the UTC date on which it began, and leads to its report where there is one. Records as the"
        " night counted them."
    )
    return Table("all-nights", "All nights", caption, "Night", columns, (Group("", rows),), "")


def _night_row(night: Night, has_page: bool) -> Row:
    run = night.run
    outcomes = run.get("outcomes", {})
    states = Counter(event.state.value for event in night.events if event.state.is_open)
    problems = [
        f"{name.replace('_', ' ')}: {f['problem']}" for name, f in run.get("steps", {}).items() if f.get("problem")
    ]
    state = str(run.get("state") or ("judged" if night.assessed_at else "measured"))
    counts = (
        sum(states.values()), states.get("new", 0), states.get("confirmed", 0), len(night.triggers),
        sum(outcomes.values()), outcomes.get("ok", 0), len(run.get("missing", {})),
    )  # fmt: skip
    page = f"{night.night}/index.html" if has_page else ""
    cells = (
        *(Cell(text.number(count, 0)) for count in counts),
        Cell(state.replace("_", " "), sub="; ".join(problems)),
        Cell(text.moment(run["began_at"]) if run.get("began_at") else ""),
    )
    return Row(night.night, cells, anchor=f"night-{night.night}", href=page)


def series_table(trends: Sequence[Trend], pages: Collection[str]) -> Table:
    """One row for each series and metric: its newest value and its events; on each device those with events first."""
    columns = (Column("Metric", numeric=False), Column("Newest"), Column("Events", numeric=False), Column("Nights"))
    groups: dict[str, list[Row]] = {}
    for trend in sorted(trends, key=lambda t: (not t.events, t.title, t.series.metric)):
        groups.setdefault(trend.series.device, []).append(_series_row(trend, trend.series.series_id in pages))
    made = tuple(Group(device, tuple(rows)) for device, rows in sorted(groups.items()))
    return Table(
        "all-series", "All series", "The newest night's value.", "Series", columns, made, group_heading="Device"
    )


def _series_row(trend: Trend, has_page: bool) -> Row:
    series = trend.series
    said = "; ".join(_event(event) for event in trend.events)
    unit = METRICS[series.metric].unit
    cells = (
        Cell(metric_words(series.metric), sub=unit),
        Cell(text.number(series.points[-1].value), sub=series.points[-1].night),
        Cell(said),
        Cell(text.number(len(series.points), 0)),
    )
    return Row(trend.name, cells, href=f"series/{series.series_id}/index.html" if has_page else "")


def _event(event: Event) -> str:
    whole = ", the whole device" if event.kind == "device" else ""
    return f"{change_words(event)}, {event.state}, since {event.since}{whole}"


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
