# SPDX-License-Identifier: Apache-2.0
"""Text encoders: how latency grows with the length of a sequence. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from farm.report import charts, stats, text
from farm.report.charts import Dot
from farm.report.drawing import Style
from farm.report.figures import Figure, Panel, series_styles
from farm.report.select import Point, Selection
from farm.report.stats import Absent

TITLE = "Latency against the length of a sequence"


def sequence_figure(selection: Selection) -> Figure | None:
    """Median latency (ms) against tokens: a panel for each encoder, device class and batch size, a line a series."""
    panelled = {name: points for name, points in _panelled(selection).items() if len({_tokens(p) for p in points}) > 1}
    if not panelled:
        return None
    known = [p for points in panelled.values() for p in points]
    used = {p.series.label for p in known}
    look = {label: style for label, style in series_styles(selection).items() if label in used}
    shown = list(panelled.items())[: charts.MOST_IN_PAGE]
    panels = tuple(_panel(name, points, look) for name, points in shown)
    caption = "Median of each point. Lower is better; each panel has its own scale, from zero."
    if any(p.doubts for p in known):
        caption += " Hollow points are flagged."
    if len(shown) < len(panelled):
        caption += f" The first {len(shown)} of {len(panelled)} panels; the tables have all."
    sheet = charts.sheet([p.in_sheet for p in panels], TITLE, caption, columns=3)
    return Figure("sequences", TITLE, caption, panels, sheet, tuple(look.items()), any(p.doubts for p in known))


def _panelled(selection: Selection) -> dict[str, list[Point]]:
    """The encoders' points at the smallest and the largest batch size of each."""
    found: dict[tuple[str, str, int], list[Point]] = {}
    for p in selection.ok:
        if p.record.job.model.sequence and not isinstance(stats.value(p.record, "latency_ms"), Absent):
            found.setdefault((p.record.job.model.name, p.series.device_class, p.batch or 0), []).append(p)
    ends: dict[tuple[str, str], list[int]] = {}
    for model, place, batch in sorted(found):
        ends.setdefault((model, place), []).append(batch)
    several = len(selection.classes) > 1
    return {
        f"{model}, batch {batch}" + (f", {place}" if several else ""): found[model, place, batch]
        for (model, place), batches in ends.items()
        for batch in dict.fromkeys((batches[0], batches[-1]))
    }


def _panel(name: str, points: Sequence[Point], look: dict[str, Style]) -> Panel:
    dots = [_dot(p) for p in points]
    y = charts.plain_axis("Milliseconds", zero=True)
    drawn = charts.batch_chart(dots, look, "Tokens", y, legend=True)
    drawn = drawn.properties(width=charts.SHEET_WIDTH, height=charts.SHEET_HEIGHT, title=textwrap.wrap(name, 38))
    said = "; ".join(f"{d.series} {d.batch} tokens: {text.number(d.value)} ms" for d in dots)
    spec = charts.single(charts.batch_chart(dots, look, "Tokens", y), charts.PANEL_HEIGHT)
    return Panel(name, f"{TITLE}, {name}: {said}", spec, drawn)


def _dot(point: Point) -> Dot:
    found, span = stats.value(point.record, "latency_ms"), stats.interval(point.record, "latency_ms")
    return Dot(
        series=point.series.label,
        row=point.series.label,
        batch=_tokens(point),
        value=0.0 if isinstance(found, Absent) else found,
        low=span.low if span else None,
        high=span.high if span else None,
        doubtful=bool(point.doubts),
        invalid=point.invalid,
    )


def _tokens(point: Point) -> int:
    return point.record.job.model.sequence or 0
