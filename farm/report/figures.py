# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: throughput against batch size, latency at the smallest batch, latency distribution.

A figure is a set of small panels, each a drawing of its own: the page sets as many side by side as there is room for,
and a phone shows one at a readable size. One sheet of all panels, with its legend, becomes the PNG.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from farm.contract.record import Record
from farm.errors import FarmError
from farm.report import across, charts, drawing, stats, text
from farm.report.charts import Dot, Spread
from farm.report.curves import studied
from farm.report.drawing import Style
from farm.report.select import Point, Problem, Selection
from farm.report.stats import Absent
from farm.report.table import at
from farm.summary import WITHIN_RUN

#: Gives the raw latencies of a record in ns, or None.
Samples = Callable[[Record], "list[int] | None"]

#: The most panels of the figure across devices: beyond, a table is read more easily.
MOST_PANELS = 12

#: The most samples that one strip shows.
MOST_TICKS = 60


@dataclass(frozen=True)
class Panel:
    """One drawing: its title, what it says in words, its chart for the page and its chart for the sheet.

    `svg` is the drawing itself, where none is made of a chart.
    """

    title: str
    alt: str
    spec: dict[str, Any]
    in_sheet: Any = field(repr=False)
    svg: str = field(default="", repr=False)


@dataclass(frozen=True)
class Figure:
    """A figure: `panels` for the page, `sheet` for the PNG. `legend` is empty where rows carry their names.

    `wide`: each panel takes the width of the page.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    sheet: dict[str, Any]
    legend: tuple[tuple[str, Style], ...] = ()
    hollow: bool = False
    problems: tuple[Problem, ...] = ()
    wide: bool = False

    @property
    def file(self) -> str:
        """The name of its file beside the page: a PNG of the sheet, or the drawing where there is none."""
        return f"{self.key}.png" if self.sheet else f"{self.key}.svg"


def _outside(selection: Selection) -> list[Point]:
    """The points that were timed but those of a study of requests in flight, which has a figure of its own."""
    inside = studied(selection)
    return [p for p in selection.ok if p.record.run_id not in inside]


def make_figures(selection: Selection, samples: Samples | None = None) -> list[Figure]:
    """Every figure that the selection has data for; a sample file that can't be read becomes a problem, no error."""
    made = (throughput_figure(selection), latency_figure(selection), distribution_figure(selection, samples))
    return [figure for figure in made if figure is not None]


def series_styles(selection: Selection) -> dict[str, Style]:
    """One style for each label, the same in every figure."""
    ordered = sorted(selection.series(), key=lambda s: s.sort_key[2])
    return drawing.styles((s.label, s.is_reference) for s in ordered)


def throughput_figure(selection: Selection) -> Figure | None:
    """Throughput (inputs/s) against batch size: a panel for each model and device class, a line for each series."""
    panelled = _panelled(selection, _with(_outside(selection), "throughput_per_s"))
    known = [p for of in panelled.values() if _several(of) for p in of]
    if not known:
        return None
    used = {p.series.label for p in known}
    look = {label: style for label, style in series_styles(selection).items() if label in used}
    title = "Throughput against batch size"
    panels = []
    shown, left = _by_panel(selection, known)
    for name, points in shown:
        dots = [_dot(p, "throughput_per_s") for p in points]
        words = f"{title}, {name}: {_in_words(points, 'throughput_per_s', 'inputs/s')}"
        drawn = charts.throughput_chart(dots, look, legend=True)
        drawn = drawn.properties(width=charts.SHEET_WIDTH, height=charts.SHEET_HEIGHT, title=textwrap.wrap(name, 38))
        spec = charts.single(charts.throughput_chart(dots, look), charts.PANEL_HEIGHT)
        panels.append(Panel(name, words, spec, drawn))
    hollow = any(p.doubts for p in known)
    caption = "Inputs finished per second. Higher is better; each panel has its own scale, from zero."
    caption += _bars(known, "throughput_per_s") + _hollow(hollow) + left
    sheet = charts.sheet([p.in_sheet for p in panels], title, caption, columns=3)
    return Figure("throughput", title, caption, tuple(panels), sheet, tuple(look.items()), hollow)


def _several(points: Sequence[Point]) -> bool:
    """Whether there is more than one batch size: a dot alone says less than its number in the table."""
    return len({p.batch for p in points}) > 1


def across_figure(selection: Selection) -> Figure | None:
    """Throughput against batch size, device by device: a panel for each way that several classes ran."""
    known = _with(selection.ok, "throughput_per_s")
    named = across.ways(selection) if len(selection.classes) > 1 else {}
    shared: dict[across.Way, list[Point]] = {}
    for point in known if named else ():
        shared.setdefault(named[point.series], []).append(point)
    kept = [
        (way, of) for way, of in sorted(shared.items()) if len({p.series.device_class for p in of}) > 1 and _several(of)
    ]
    if not kept:
        return None
    look = drawing.styles((name, False) for name in selection.classes)
    title = "Throughput against batch size, device by device"
    panels = []
    for way, points in kept[:MOST_PANELS]:
        dots = [replace(_dot(p, "throughput_per_s"), series=p.series.device_class) for p in _newest(points)]
        name = f"{way.model}, {way.label}"
        said = "; ".join(f"{d.series} batch {d.batch}: {text.number(d.value)} inputs/s" for d in dots)
        drawn = charts.throughput_chart(dots, look, legend=True)
        drawn = drawn.properties(width=charts.SHEET_WIDTH, height=charts.SHEET_HEIGHT, title=textwrap.wrap(name, 38))
        spec = charts.single(charts.throughput_chart(dots, look), charts.PANEL_HEIGHT)
        panels.append(Panel(name, f"{title}, {name}: {said}", spec, drawn))
    shown = [p for _, of in kept[:MOST_PANELS] for p in of]
    hollow = any(p.doubts for p in shown)
    caption = "Inputs finished per second. Higher is better; each panel has its own scale."
    caption += _bars(shown, "throughput_per_s") + _hollow(hollow)
    if len(kept) > MOST_PANELS:
        caption += f" The first {MOST_PANELS} of {len(kept)}; the table has all."
    sheet = charts.sheet([p.in_sheet for p in panels], title, caption, columns=3)
    return Figure("across", title, caption, tuple(panels), sheet, tuple(look.items()), hollow)


def _newest(points: Sequence[Point]) -> list[Point]:
    """One point of each class and batch size, as the table shows it: sound before flagged, then the newest."""
    chosen: dict[tuple[str, int], Point] = {}
    ordered = sorted(points, key=lambda p: (not p.doubts, p.record.finished_at, p.record.run_id))
    for p in ordered:
        chosen[p.series.device_class, p.batch or 0] = p
    return [chosen[key] for key in sorted(chosen)]


def latency_figure(selection: Selection) -> Figure | None:
    """Median latency (ms) at the smallest batch size, 1 as a rule: a panel for each model and device class."""
    known = _smallest(_with(_outside(selection), "latency_ms"))
    if not known:
        return None
    look = series_styles(selection)
    title = f"Latency at {at(known[0])}"
    panels = []
    shown, left = _by_panel(selection, known)
    for name, points in shown:
        chart = charts.latency_chart([_dot(p, "latency_ms") for p in points], look)
        words = f"{title}, {name}: {_in_words(points, 'latency_ms', 'ms')}"
        panels.append(_row_panel(name, words, chart, [p.series.label for p in points]))
    caption = "Median of each point. Lower is better; each panel has its own scale."
    caption += _bars(known, "latency_ms") + _hollow(any(p.doubts for p in known)) + left
    sheet = charts.sheet([p.in_sheet for p in panels], title, caption, columns=3)
    return Figure("latency", title, caption, tuple(panels), sheet)


def distribution_figure(selection: Selection, samples: Samples | None = None) -> Figure | None:
    """Latency samples at the smallest batch size, in percent off their median: a panel for each model and class."""
    known = _smallest(_with(_outside(selection), "latency_ms"))
    look = series_styles(selection)
    problems: list[Problem] = []
    panels: list[Panel] = []
    strips = False
    shown, left = _by_panel(selection, known)
    for name, points in shown:
        spreads = [s for p in points if (s := spread(p, _load(p.record, samples, problems))) is not None]
        if spreads:
            strips = strips or any(s.ticks for s in spreads)
            said = "; ".join(f"{s.series}: middle half from {s.q1:+.1f} % to {s.q3:+.1f} %" for s in spreads)
            words = f"Distribution of the latency around its median, {name}: {said}"
            panels.append(_row_panel(name, words, charts.distribution_chart(spreads, look), [s.row for s in spreads]))
    if not panels:
        return None
    title = f"Distribution of the latency at {at(known[0])}"
    caption = (
        "Around each point's own median. Narrower is steadier."
        + (f" Ticks: samples, up to {MOST_TICKS} evenly spaced in rank, with both extremes." if strips else "")
        + " Line: smallest to largest; box: middle half."
        + (" \u2020 marks flagged runs." if any(p.doubts for p in known) else "")
        + left
    )
    sheet = charts.sheet([p.in_sheet for p in panels], title, caption, columns=3)
    return Figure("distribution", title, caption, tuple(panels), sheet, problems=tuple(problems))


def spread(point: Point, samples: Sequence[int]) -> Spread | None:
    """The row of one run, in percent off its median: samples (ns) as a strip, its summary as a box. None without."""
    names = ("latency_min_ms", "latency_p25_ms", "latency_ms", "latency_p75_ms", "latency_max_ms")
    five = [v for name in names if not isinstance(v := stats.value(point.record, name), Absent)]
    if len(five) < len(names) or five[2] <= 0:
        return None
    median = five[2]
    ordered = sorted(samples)
    count = min(len(ordered), MOST_TICKS)
    ranks = [round(i * (len(ordered) - 1) / max(1, count - 1)) for i in range(count)]
    low, q1, middle, q3, high = (100 * (v / median - 1) for v in five)
    ticks = tuple(100 * (ordered[rank] / 1e6 / median - 1) for rank in ranks)
    row = point.series.label + (" \u2020" if point.doubts else "")
    return Spread(point.series.label, row, low, q1, middle, q3, high, ticks)


def _with(points: Sequence[Point], metric: str) -> list[Point]:
    return [p for p in points if not isinstance(stats.value(p.record, metric), Absent)]


def _smallest(points: Sequence[Point]) -> list[Point]:
    smallest = min((p.batch or 0 for p in points), default=0)
    return [p for p in points if p.batch == smallest]


def _panelled(selection: Selection, points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    several = len(selection.classes) > 1
    for p in points:
        name = f"{p.series.model}, {p.series.device_class}" if several else p.series.model
        found.setdefault(name, []).append(p)
    return found


def _by_panel(selection: Selection, points: Sequence[Point]) -> tuple[list[tuple[str, list[Point]]], str]:
    """The points of each panel, as many as a page can carry, and for the caption what was left out."""
    found = _panelled(selection, points)
    most = charts.MOST_IN_PAGE
    left = f" The first {most} of {len(found)} panels; the tables have all." if len(found) > most else ""
    return list(found.items())[:most], left


def _dot(point: Point, metric: str) -> Dot:
    found = stats.value(point.record, metric)
    span = stats.interval(point.record, metric)
    return Dot(
        series=point.series.label,
        row=point.series.label,
        batch=point.batch or 0,
        value=0.0 if isinstance(found, Absent) else found,
        low=span.low if span else None,
        high=span.high if span else None,
        doubtful=bool(point.doubts),
        invalid=point.invalid,
    )


def _row_panel(name: str, words: str, chart: Any, rows: Sequence[str]) -> Panel:
    drawn = chart.properties(
        width=charts.SHEET_WIDTH, height=charts.rows_height(rows, axis=False), title=textwrap.wrap(name, 38)
    )
    return Panel(name, words, charts.single(chart, charts.rows_height(rows)), drawn)


def _bars(points: Sequence[Point], metric: str) -> str:
    """What the bars cover."""
    known = list(stats.scopes(points, metric))
    narrow = ", often narrower than the point" if known == [WITHIN_RUN] else ""
    return f" A bar is its interval, {text.listed(known)}{narrow}." if known else ""


def _hollow(any_flagged: bool) -> str:
    return " Hollow points are flagged." if any_flagged else ""


def _load(record: Record, samples: Samples | None, problems: list[Problem]) -> list[int]:
    if samples is None:
        return []
    try:
        return samples(record) or []
    except (FarmError, OSError) as error:
        problems.append(Problem(record.run_id, f"its samples could not be read: {error}"))
        return []


def _in_words(points: Sequence[Point], metric: str, unit: str) -> str:
    """Each series' smallest and largest value, for those who can't see the drawing."""
    found: dict[str, list[tuple[float, Point]]] = {}
    for p in points:
        v = stats.value(p.record, metric)
        if not isinstance(v, Absent):
            found.setdefault(p.series.label, []).append((v, p))
    said = []
    for label, pairs in found.items():
        (low, first), (high, last) = min(pairs, key=lambda x: x[0]), max(pairs, key=lambda x: x[0])
        if first is last:
            said.append(f"{label} {text.number(low)} {unit}")
        else:
            said.append(f"{label} from {text.number(low)} ({at(first)}) to {text.number(high)} {unit} ({at(last)})")
    return "; ".join(said)
