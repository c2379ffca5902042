# SPDX-License-Identifier: Apache-2.0
"""The report's part on requests in flight: a table of points, where each curve saturates, and both drawn. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from farm.identity import concurrency
from farm.report import charts, drawing, stats, text
from farm.report.charts import Dot
from farm.report.curves import Curve, Study, in_flight, level_of, studies
from farm.report.document import Section, Sentence
from farm.report.figures import Figure, Panel
from farm.report.select import Point, Selection
from farm.report.stats import Absent
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, number_cell, run_anchor
from farm.saturation import TOLERANCE, Saturation, efficiency

KEY = "concurrency"
#: Flags that say what limits a point before the device does, in words.
_HELD_UP = {"oversubscribed": "processors", "interpreter_bound": "interpreter"}
#: The most sentences of the summary; the tables have all.
MOST_SENTENCES = 6


def concurrency_section(selection: Selection) -> Section | None:
    """Everything on requests in flight; None where no two points differ in them alone."""
    found = studies(selection)
    if not found:
        return None
    intro = (
        "How throughput and latency change as more requests are in flight. A request's latency is what its sender sees:"
        " the wait for a stream, session or thread is in it."
    )
    tables = (_saturation_table(found), _points_table(found))
    return Section(KEY, "Concurrency", intro, tables, (), (_figure(found),))


def sentences(selection: Selection) -> list[Sentence]:
    """One sentence for each study: where its best curve saturates."""
    found = studies(selection)
    several = len(selection.classes) > 1
    said = [Sentence("concurrency", _sentence(study, several), KEY) for study in found if study.most is not None]
    left = len(said) - MOST_SENTENCES
    if left > 0:
        more = f"Concurrency: {text.plural(left, 'more study', 'more studies')} in the table."
        return [*said[:MOST_SENTENCES], Sentence("concurrency", more, KEY)]
    return said


def _sentence(study: Study, several: bool) -> str:
    curve = study.most
    found = curve.saturation if curve is not None else None
    if curve is None or found is None:
        return ""
    where = f" on {study.device_class}" if several else ""
    start = f"{study.model}{where}, {study.name}, requests in flight ({curve.name})"
    first, best = curve.levels[0], found.best
    gain = f"{text.number(best.throughput / first.throughput)} times the throughput of {first.level}"
    if found.at.level == first.level:
        said = f"more than {first.level} bring less than {100 * TOLERANCE:g} %{_perhaps(found)}"
    elif not found.reached:
        # A rise that the intervals allow to be none is a higher number and no more.
        words = "still rises" if found.certain else "is highest"
        said = f"throughput {words} at {found.at.level}, the most that were tried: {gain}{_perhaps(found)}"
    else:
        said = (
            f"saturated at {found.at.level}{_open(found)}, best {text.number(best.throughput)} inputs/s at {best.level}"
        )
        said += f", {gain}"
    if found.latency_ratio is not None and found.at.level != first.level:
        said += f"; the median request takes {text.number(found.latency_ratio)} times as long at {found.at.level}"
    if found.falls is not None:
        said += f"; from {found.falls} on throughput falls"
    return f"{start}: {said}."


def _open(found: Saturation) -> str:
    return "" if found.certain else f" ({found.earliest} to {found.latest} by the intervals)"


def _perhaps(found: Saturation) -> str:
    return "" if found.certain else f"; by the intervals it may be saturated at {found.earliest} to {found.latest}"


def _saturation_table(found: Sequence[Study]) -> Table:
    notes = Footnotes()
    kept = tuple(
        Group(_title(study, found), tuple(Row(curve.name, _saturation_cells(curve, notes)) for curve in study.curves))
        for study in found
    )
    columns = (
        Column("Requests in flight"),
        Column("Saturated at"),
        Column("Throughput there", "inputs/s"),
        Column("Efficiency there", "%"),
        Column("Latency there over the first", "times"),
        Column("Highest throughput", "inputs/s"),
        Column("Beyond", numeric=False),
    )
    caption = (
        f"Saturated: the smallest number whose throughput is within {100 * TOLERANCE:g} % of the row's highest; small"
        " figures: which numbers it may be by the intervals, or where a run has none by the rates of three equal parts"
        " of its timed stage. Efficiency: throughput over that of the first number, for each request in flight; it is"
        " 100 % where none holds up another."
    )
    return Table("saturation", "Saturation", caption, "What stays", columns, kept, "Study", notes.notes)


def _saturation_cells(curve: Curve, notes: Footnotes) -> tuple[Cell, ...]:
    levels, found = Cell(", ".join(str(in_flight(p)) for p in curve.points)), curve.saturation
    if found is None:
        reason = "fewer than two numbers have a throughput that counts"
        return (levels, *(absent(reason) for _ in range(5)), Cell())
    of = {in_flight(p): p for p in curve.points}
    at, best = of[found.at.level], of[found.best.level]
    where = "" if found.certain else f"{found.earliest}\u2013{found.latest}"
    ratio = Absent("no latency") if found.latency_ratio is None else found.latency_ratio
    return (
        levels,
        number_cell(at, str(found.at.level) if found.reached else f"\u2265 {found.at.level}", notes, sub=where),
        _cell(at, found.at.throughput),
        _cell(at, 100 * found.efficiency, places=0),
        _cell(at, ratio),
        replace(_cell(best, found.best.throughput, sub=f"at {found.best.level}"), mark=notes.mark(best)),
        Cell(_beyond(found)),
    )


def _beyond(found: Saturation) -> str:
    if found.falls is not None:
        return f"falls from {found.falls} on (retrograde)"
    return "flat" if found.reached else "not tried"


def _points_table(found: Sequence[Study]) -> Table:
    notes = Footnotes()
    kept = tuple(
        Group(_title(study, found), tuple(_point_row(study, point, notes) for point in study.points)) for study in found
    )
    columns = (
        Column("In flight"),
        Column("Throughput", "inputs/s"),
        Column("Efficiency", "%"),
        Column("Median", "ms"),
        Column("p95", "ms"),
        Column("p99", "ms"),
        Column("Peak memory", "MiB"),
        Column("Each further", "MiB"),
        Column("In use"),
        Column("Held up by", numeric=False),
    )
    caption = (
        "Latency of each request as its sender sees it. Efficiency, and the memory that each further request takes:"
        " against the first point of the curve that the point is on. Peak memory: of the whole GPU where telemetry has"
        " it, else resident memory of the measuring process. In use: of the GPU, else processors. Held up: more"
        " threads than processors, or threads that wait for the interpreter. A percentile that the samples cannot bound"
        " is withheld."
    )
    return Table("in-flight", "Requests in flight", caption, "On what", columns, kept, "Study", notes.notes)


def _point_row(study: Study, point: Point, notes: Footnotes) -> Row:
    first = next((curve.points[0] for curve in study.curves if any(p is point for p in curve.points)), None)
    requests = stats.value(point.record, "requests_per_s")
    several = "" if isinstance(requests, Absent) or point.batch == 1 else f"{text.number(requests)} requests/s"
    cells = [_cell(point, stats.value(point.record, "throughput_per_s"), sub=several)]
    cells.append(_cell(point, _efficiency(first, point), places=0))
    cells += [_cell(point, stats.value(point.record, f"latency_{name}ms")) for name in ("", "p95_", "p99_")]
    cells += [_cell(point, _memory(point)), _cell(point, _further(first, point)), _in_use(point)]
    cells.append(Cell(text.listed(_HELD_UP[f.name] for f in point.record.flags if f.name in _HELD_UP)))
    # One footnote on a row is enough: every cell tells of the same run.
    marked = number_cell(point, str(in_flight(point)), notes)
    return Row(concurrency(point.record.job.protocol), (marked, *cells))


def _cell(point: Point, value: float | Absent, *, places: int | None = None, sub: str = "") -> Cell:
    """A number without the mark that another cell of its row has."""
    if isinstance(value, Absent):
        return replace(absent(value.reason), anchor=run_anchor(point.record))
    return Cell(text.number(value, places), sub=sub, anchor=run_anchor(point.record))


def _efficiency(first: Point | None, point: Point) -> float | Absent:
    base = None if first is None else level_of(first)
    here = level_of(point)
    if base is None or here is None:
        return Absent("no other number of requests to hold it against")
    return 100 * efficiency(base, here)


def _memory(point: Point) -> float | Absent:
    """In MiB."""
    found = stats.value(point.record, "gpu_memory_peak_bytes")
    if isinstance(found, Absent):
        found = stats.value(point.record, "host_rss_peak_bytes")
    return found if isinstance(found, Absent) else found / 2**20


def _further(first: Point | None, point: Point) -> float | Absent:
    if first is None or in_flight(first) == in_flight(point):
        return Absent("the first of its curve")
    base, here = _memory(first), _memory(point)
    if isinstance(base, Absent) or isinstance(here, Absent):
        return Absent("no memory was measured")
    return (here - base) / (in_flight(point) - in_flight(first))


def _in_use(point: Point) -> Cell:
    """Of the GPU the share of time, of a CPU the processors that were busy."""
    share, busy = (stats.value(point.record, name) for name in ("gpu_utilisation", "cpu_utilisation"))
    if not isinstance(share, Absent):
        return replace(_cell(point, share), text=f"{text.number(100 * share, 0)}\u00a0%")
    shown = _cell(point, busy)
    return shown if isinstance(busy, Absent) else replace(shown, text=f"{shown.text}\u00a0CPUs")


def _title(study: Study, found: Sequence[Study]) -> str:
    return f"{_model(study, found)}, {study.name}"


def _model(study: Study, found: Sequence[Study]) -> str:
    several = len({each.device_class for each in found}) > 1
    return f"{study.model}, {study.device_class}" if several else study.model


#: What is drawn: metric, heading, axis.
_DRAWN = (
    ("throughput_per_s", "throughput", "Inputs per second"),
    ("latency_ms", "median latency of a request", "Milliseconds"),
)


def _figure(found: Sequence[Study]) -> Figure:
    names = dict.fromkeys(curve.name for study in found for curve in study.curves)
    look = drawing.styles((name, False) for name in names)
    panels = [
        _panel(study, found, look, *drawn) for study in found[: charts.MOST_IN_PAGE // len(_DRAWN)] for drawn in _DRAWN
    ]
    title = "Throughput and latency against requests in flight"
    caption = (
        "A ring marks where a line saturates; a line without one is highest at its end. Bars: the interval, or where a"
        " run has none the rates of three equal parts of its timed stage. Each panel has its own scale."
    )
    hollow = any(p.doubts for study in found for p in study.points)
    caption += " Hollow points are flagged." if hollow else ""
    sheet = charts.sheet([p.in_sheet for p in panels], title, caption, columns=2)
    return Figure(KEY, title, caption, tuple(panels), sheet, tuple(look.items()), hollow)


def _panel(
    study: Study, found: Sequence[Study], look: dict[str, drawing.Style], metric: str, what: str, axis: str
) -> Panel:
    dots = [dot for curve in study.curves for p in curve.points if (dot := _dot(curve, p, metric)) is not None]
    rings = [
        dot
        for curve in study.curves
        if curve.saturation is not None and curve.saturation.reached
        for p in curve.points
        if in_flight(p) == curve.saturation.at.level and (dot := _dot(curve, p, metric)) is not None
    ]
    name = f"{_title(study, found)}: {what}"
    drawn = charts.ringed_chart(dots, rings, look, "Requests in flight", axis)
    said = "; ".join(f"{d.series}, {d.batch} in flight: {text.number(d.value)}" for d in dots)
    in_sheet = charts.ringed_chart(dots, rings, look, "Requests in flight", axis, legend=True)
    in_sheet = in_sheet.properties(width=charts.SHEET_WIDTH, height=charts.SHEET_HEIGHT, title=textwrap.wrap(name, 38))
    return Panel(name, f"{name} ({axis.lower()}): {said}", charts.single(drawn, charts.PANEL_HEIGHT), in_sheet)


def _dot(curve: Curve, point: Point, metric: str) -> Dot | None:
    value = stats.value(point.record, metric)
    if isinstance(value, Absent):
        return None
    level, known = level_of(point), stats.interval(point.record, metric)
    low, high = (known.low, known.high) if known is not None else (None, None)
    if metric == "throughput_per_s" and level is not None and level.low < level.high:
        low, high = level.low, level.high
    return Dot(
        series=curve.name,
        row=curve.name,
        batch=in_flight(point),
        value=value,
        low=low,
        high=high,
        doubtful=bool(point.doubts),
        invalid=point.invalid,
    )
