# SPDX-License-Identifier: Apache-2.0
"""A page per series: its history night by night, the events marked, flagged points hollow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.contract.metrics import METRICS
from farm.history.calendar import Calendar
from farm.history.load import RUNS, Loader, window
from farm.history.model import Event, NightPoint, Series
from farm.history.naming import case_name
from farm.report import text
from farm.report.changes import change_words, kind_of, metric_words
from farm.report.document import SIMULATED, Document, Section, Sentence
from farm.report.figures import Figure, Panel
from farm.report.render import write_page
from farm.report.table import Cell, Column, Group, Row, Table, absent
from farm.report.trend_drawing import Mark, trend_svg
from farm.store import Store
from farm.store.columns import column_name

#: What a series is shown by: the first of these that it has, and whatever has an event.
USUAL = ("latency_ms", "throughput_per_s")


@dataclass(frozen=True)
class Trend:
    """One metric of a series: sound points, points of flagged runs alone, and the events that name it."""

    series: Series
    flagged: tuple[NightPoint, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def title(self) -> str:
        """`resnet18/pytorch/fp32 b8 on lab1-cpu`, with what else tells it from others."""
        return f"{self.name} on {self.series.device}"

    @property
    def name(self) -> str:
        """As the title, without the device."""
        return case_name(self.series.fields)


def load_trends(
    store: Store, calendar: Calendar, events: Sequence[Event], series_ids: Collection[str] | None = None
) -> list[Trend]:
    """The trends of these series, or of all; one per series, more where events name other metrics.

    Raises:
        UnavailableError: the index cannot be read.
    """
    over = window(store, calendar)
    named = {key: [event for event in events if key in event.keys] for event in events for key in event.keys}
    metrics = [*USUAL, *sorted({key.partition(":")[2] for key in named} & METRICS.keys() - set(USUAL))]
    flagged = _flagged(store, over.parameters(calendar), metrics)
    found: list[Trend] = []
    shown: set[str] = set()
    for series in Loader(store, calendar, over).series(metrics, series_ids):
        if series.key in named or series.series_id not in shown:
            found.append(Trend(series, tuple(flagged.get(series.key, ())), tuple(named.get(series.key, ()))))
            shown.add(series.series_id)
    return found


def _flagged(store: Store, parameters: dict[str, Any], metrics: Sequence[str]) -> dict[str, list[NightPoint]]:
    """Medians of the runs of each night that no series is made of, by series key."""
    values = ", ".join(f"median({column_name(name)})" for name in metrics)
    sql = f"""{RUNS} SELECT series_id, night, {values} FROM runs WHERE outcome = 'ok' AND validity <> 'valid'
        GROUP BY series_id, night ORDER BY series_id, night"""  # noqa: S608 - our own columns
    found: dict[str, list[NightPoint]] = {}
    for series_id, night, *row in store.index.stream(sql, parameters):
        for name, value in zip(metrics, row, strict=True):
            if value is not None:
                found.setdefault(f"{series_id}:{name}", []).append(NightPoint(str(night), float(value)))
    return found


def write_trends(trends: Iterable[Trend], out_dir: Path, *, simulated: bool = False) -> dict[str, str]:
    """Write `series/ID/index.html` for each series; return the pages, below `out_dir`, by series id.

    A page that would be the same is left as it is.

    Raises:
        UnavailableError: `out_dir` cannot be written.
    """
    by_series: dict[str, list[Trend]] = {}
    for trend in trends:
        by_series.setdefault(trend.series.series_id, []).append(trend)
    pages = {series_id: f"series/{series_id}/index.html" for series_id in by_series}
    for series_id, members in by_series.items():
        write_page(trend_document(members, simulated=simulated), out_dir / pages[series_id])
    return pages


def trend_document(trends: Sequence[Trend], *, simulated: bool = False) -> Document:
    """The page of one series: a drawing per metric, its events, its values and its settings."""
    first = trends[0]
    events = list({event.event_id: event for trend in trends for event in trend.events}.values())
    sentences = [Sentence(kind_of(event), event_words(event)) for event in events]
    nights = sorted({p.night for trend in trends for p in (*trend.series.points, *trend.flagged)})
    said = f"{text.plural(len(nights), 'night')} with results" + (f", {nights[0]} to {nights[-1]}." if nights else ".")
    rows = tuple(Row(name, (Cell(value),)) for name, value in sorted(first.series.fields.items()) if value)
    facts = Table(
        "series", "The series", f"Series {first.series.series_id}.", "Field", (Column("Value", numeric=False),),
        (Group("", rows),), "",
    )  # fmt: skip
    return Document(
        first.title,
        "The history of one series, night by night",
        (*sentences, Sentence("ran", said)),
        tuple(trend_figure(trend) for trend in trends),
        (Section("facts", "Values and settings", "", (values_table(trends, nights), facts)),),
        banner=SIMULATED if simulated else "",
        links=(("All nights and series", "../../index.html"),),
    )


def values_table(trends: Sequence[Trend], nights: Sequence[str]) -> Table:
    """Every night's value of every metric, the newest first; a night leads to its line of the index."""
    rows = []
    for night in reversed(nights):
        cells = tuple(_value(trend, night) for trend in trends)
        rows.append(Row(night, cells, href=f"../../index.html#night-{night}"))
    columns = tuple(Column(_name(t).capitalize(), METRICS[t.series.metric].unit) for t in trends)
    notes = (("\u2020", "of flagged runs alone"),) if any(trend.flagged for trend in trends) else ()
    return Table(
        "nights", "Every night", "Medians of each night's runs.", "Night", columns, (Group("", tuple(rows)),), "", notes
    )


def _value(trend: Trend, night: str) -> Cell:
    sound = next((p for p in trend.series.points if p.night == night), None)
    if sound is not None:
        return Cell(text.number(sound.value))
    doubtful = next((p for p in trend.flagged if p.night == night), None)
    return absent("no result on this night") if doubtful is None else Cell(text.number(doubtful.value), mark="\u2020")


def event_words(event: Event) -> str:
    """One event as a sentence."""
    way = "worse" if event.worse else "better"
    cause = f", with {text.listed(event.cause)}" if event.cause else ""
    whole = " of the whole device" if event.kind == "device" else ""
    said = f"{metric_words(event.metric)}{whole} {change_words(event)} ({way}), {event.state}, since {event.since}"
    return f"{said[0].upper()}{said[1:]}{cause}."


def trend_figure(trend: Trend) -> Figure:
    """A metric over the nights."""
    series = trend.series
    name = _name(trend)
    caption = f"The median of each night's valid runs; {series.better} is better. The scale does not begin at zero."
    caption += " Hollow: flagged runs alone." if trend.flagged else ""
    caption += " Dashed: the first night of an event's new level." if trend.events else ""
    marks = [Mark(e.since, f"{change_words(e)}, {e.state}", _role(e)) for e in trend.events]
    unit = METRICS[series.metric].unit
    svg = trend_svg(f"{name}, {unit}" if unit else name, series.points, trend.flagged, marks)
    alt = f"{name} of {trend.title}, {len(series.points)} nights" + "".join(f"; {event_words(e)}" for e in trend.events)
    panel = Panel("", alt, {}, None, svg)
    return Figure(series.metric.replace("_", "-"), name.capitalize(), caption, (panel,), {})


def _name(trend: Trend) -> str:
    return metric_words(trend.series.metric)


def _role(event: Event) -> str:
    if not event.state.is_open:
        return "muted"
    return "s2" if event.worse else "s3"
