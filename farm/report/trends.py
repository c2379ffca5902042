# SPDX-License-Identifier: Apache-2.0
"""A page per series: its history night by night, the events marked, flagged points hollow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.contract.metrics import METRICS
from farm.history.calendar import Calendar
from farm.history.load import RUNS, load_series, window
from farm.history.model import Event, NightPoint, Series
from farm.report import charts, drawing, text
from farm.report.document import Document, Section, Sentence
from farm.report.figures import Figure, Panel
from farm.report.render import write_document
from farm.report.table import Cell, Column, Group, Row, Table
from farm.store import Store
from farm.store.columns import column_name

#: What a series is shown by: the first of these that it has, and whatever has an event.
USUAL = ("latency_ms", "throughput_per_s")
_HEIGHT = 240


@dataclass(frozen=True)
class Trend:
    """One metric of a series: sound points, points of flagged runs alone, and the events that name it."""

    series: Series
    flagged: tuple[NightPoint, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def title(self) -> str:
        """`resnet18 pytorch fp32, batch 8, on lab1-cpu`."""
        fields = self.series.fields
        words = " ".join(filter(None, (fields.get(name, "") for name in ("model", "workflow", "precision"))))
        batch = f", batch {fields['batch']}" if fields.get("batch") else ""
        return f"{words}{batch}, on {self.series.device}"


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
    for series in load_series(store, calendar, over, metrics, series_ids):
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


def write_trends(trends: Iterable[Trend], out_dir: Path) -> dict[str, str]:
    """Write `series/ID/index.html` for each series; return the pages, below `out_dir`, by series id.

    Raises:
        UnavailableError: `out_dir` cannot be written.
    """
    by_series: dict[str, list[Trend]] = {}
    for trend in trends:
        by_series.setdefault(trend.series.series_id, []).append(trend)
    for series_id, members in by_series.items():
        write_document(trend_document(members), out_dir / "series" / series_id)
    return {series_id: f"series/{series_id}/index.html" for series_id in by_series}


def trend_document(trends: Sequence[Trend]) -> Document:
    """The page of one series: a drawing per metric, its events, its settings."""
    first = trends[0]
    figures = tuple(trend_figure(trend) for trend in trends)
    events = list(dict.fromkeys((e.event_id, e) for trend in trends for e in trend.events))
    sentences = [Sentence("broke" if e.worse else "better", event_words(e)) for _, e in events]
    nights = sorted({p.night for trend in trends for p in (*trend.series.points, *trend.flagged)})
    said = f"{text.plural(len(nights), 'night')} with results" + (f", {nights[0]} to {nights[-1]}." if nights else ".")
    rows = tuple(Row(name, (Cell(value),)) for name, value in sorted(first.series.fields.items()) if value)
    facts = Table(
        "series", "The series", f"Series {first.series.series_id}.", "Field", (Column("Value", numeric=False),),
        (Group("", rows),),
    )  # fmt: skip
    back = Table(
        "nights", "Nights", "Each night's report.", "Night", (Column("Page", numeric=False),),
        (Group("", tuple(Row(n, (Cell("report", href=f"../../{n}/index.html"),)) for n in reversed(nights))),),
    )  # fmt: skip
    return Document(
        first.title,
        "The history of one series, night by night",
        (Sentence("ran", said), *sentences),
        figures,
        (Section("facts", "What it is", "", (facts, back)),),
    )


def event_words(event: Event) -> str:
    """One event as a sentence."""
    way = "worse" if event.worse else "better"
    cause = f" Differences: {text.listed(event.cause)}." if event.cause else ""
    name = METRICS[event.metric].name.replace("_", " ") if event.metric in METRICS else event.metric
    return f"{event.state.capitalize()}: {name} {event.change:+.1%} ({way}) since {event.since}.{cause}"


def trend_figure(trend: Trend) -> Figure:
    """A metric over the nights."""
    series = trend.series
    unit = METRICS[series.metric].unit if series.metric in METRICS else ""
    style = drawing.Style("s1", "circle")
    caption = f"The median of each night's valid runs; {series.better} is better."
    caption += " Hollow: flagged runs alone." if trend.flagged else ""
    caption += " Dashed: the first night of an event's new level." if trend.events else ""
    chart = _chart(trend, f"{series.metric} ({unit})" if unit else series.metric)
    alt = f"{series.metric} of {trend.title}, {len(series.points)} nights" + "".join(
        f"; {event_words(event)}" for event in trend.events
    )
    panel = Panel(trend.title, alt, charts.single(chart, _HEIGHT), chart)
    sheet = charts.sheet([chart.properties(width=460, height=220)], trend.title, caption, columns=1)
    key = series.metric.replace("_", "-")
    return Figure(key, series.metric.replace("_", " "), caption, (panel,), sheet, ((series.device, style),), True)


def _chart(trend: Trend, title: str) -> Any:
    import altair as alt

    ink = drawing.PALETTE
    x = alt.X("night:T", axis=alt.Axis(title="Night (UTC)", format="%d %b", labelOverlap="greedy", grid=False))
    y = alt.Y("value:Q", scale=alt.Scale(zero=False, nice=True, padding=8), axis=alt.Axis(title=title, tickCount=5))
    sound = [{"night": p.night, "value": p.value} for p in trend.series.points]
    flagged = [{"night": p.night, "value": p.value} for p in trend.flagged]
    base = alt.Chart(alt.Data(values=sound)).encode(x=x, y=y)
    colour = ink["s1"][0]
    layers = [
        base.mark_line(strokeWidth=1.4, color=colour),
        base.mark_point(size=40, filled=True, color=colour, opacity=1),
    ]
    for worse, role in ((True, "s2"), (False, "s3")):
        marks = [{"night": event.since} for event in trend.events if event.worse is worse]
        if marks:
            rule = alt.Chart(alt.Data(values=marks)).mark_rule(strokeDash=[4, 3], strokeWidth=1.6, color=ink[role][0])
            layers.append(rule.encode(x=x))
    if flagged:
        hollow = alt.Chart(alt.Data(values=flagged)).mark_point(
            size=46, stroke=colour, fill=ink["surface"][0], strokeWidth=1.8, opacity=1
        )
        layers.append(hollow.encode(x=x, y=y))
    return alt.layer(*layers)
