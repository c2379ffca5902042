# SPDX-License-Identifier: Apache-2.0
"""The section of what to choose: the ways that no other way beats, with a figure of each front. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from farm.choice import AXES, Candidate, Front, candidates_of, front, worlds_of
from farm.choice.candidates import WORLD
from farm.contract.record import Record
from farm.report import charts, text
from farm.report.document import Section
from farm.report.drawing import PALETTE
from farm.report.figures import Figure, Panel
from farm.report.select import Selection
from farm.report.table import Cell, Column, Group, Row, Table, absent, run_anchor

#: A front of fewer ways shows no choice.
FEWEST_WAYS = 3
#: A range of latencies over this many times is drawn on a logarithmic axis.
_LOG_FROM = 5
_COLUMNS = ("latency", "accuracy", "memory", "energy")


@dataclass(frozen=True)
class Placed:
    """One front and what it is of."""

    device_class: str
    name: str
    batch: int
    front: Front


def choice_section(selection: Selection) -> Section | None:
    """Fronts of every device class; None where there is no choice of three ways anywhere."""
    found = list(fronts(selection))
    if not found:
        return None
    tables = tuple(_table(name, [p for p in found if p.device_class == name], selection) for name in selection.classes)
    figure = _figure(found)
    intro = (
        "Ways that no other way of the same network, device class and batch size beats: one is beaten by another that"
        " is nowhere worse and somewhere better beyond both intervals. farm recommend names one of them under limits."
    )
    kept = tuple(table for table in tables if table.groups)
    return Section("choice", "What to choose", intro, kept, (), (figure,) if figure else ())


def fronts(selection: Selection) -> Iterator[Placed]:
    """The front of each device class, model, world and batch size, of one request at a time."""
    by_model: dict[str, list[Record]] = {}
    for point in selection.points:
        by_model.setdefault(point.record.job.model.label, []).append(point.record)
    for device_class in selection.classes:
        for model in selection.models(device_class):
            found = candidates_of(by_model.get(model, ()), model, device_class)
            worlds = worlds_of(c for c in found if c.world["scenario"] == "single")
            for world, of in sorted(worlds.items()):
                yield from _by_batch(device_class, f"{model}{_world_words(world, list(worlds))}", of)


def _by_batch(device_class: str, name: str, of: Sequence[Candidate]) -> Iterator[Placed]:
    for batch in sorted({candidate.batch for candidate in of}):
        found = front([candidate for candidate in of if candidate.batch == batch])
        if len(found.candidates) >= FEWEST_WAYS:
            yield Placed(device_class, name, batch, found)


def _world_words(world: tuple[str, ...], worlds: Sequence[tuple[str, ...]]) -> str:
    """` (weights digits:0, input_shape [3, 32, 32])`: what sets this world apart from the others of the model."""
    apart = [i for i in range(len(WORLD)) if len({other[i] for other in worlds}) > 1]
    said = ", ".join(f"{WORLD[i].replace('_', ' ')} {world[i]}" for i in apart if world[i])
    return f" ({said})" if said else ""


def _table(device_class: str, placed: Sequence[Placed], selection: Selection) -> Table:
    runs = {p.record.run_id: run_anchor(p.record) for p in selection.points}
    groups = []
    for one in placed:
        ordered = _ordered(one.front)
        rows = [Row(f"{i}. {_way(c)}", tuple(_cell(c, name, runs) for name in _COLUMNS)) for i, c in ordered]
        groups.append(Group(f"{one.name}, batch {one.batch}", tuple(rows)))
    columns = tuple(Column(AXES[name].title.capitalize(), AXES[name].unit) for name in _COLUMNS)
    caption = (
        "Fronts, the lowest latency first. Small figures: the interval that was judged by; of one process it is the"
        " process's own, widened by the scatter that is assumed between processes. A dash: not measured, not judged."
    )
    notes = tuple((str(i), f"{one.name}, batch {one.batch}: {_said(one.front)}") for i, one in enumerate(placed, 1))
    key = f"choice-{device_class}"
    return Table(key, f"Not beaten on {device_class}", caption, "Way", columns, tuple(groups), "Network", notes)


def _said(of: Front) -> str:
    """By what was judged, and what was not."""
    axes = text.listed(AXES[name].title for name in of.axes)
    told = f"judged by {axes}; {len(of.best)} of {text.plural(len(of.candidates), 'way')} not beaten"
    if of.unknown:
        told += "; too few have " + text.listed(f"{AXES[name].title} ({count})" for name, count in of.unknown.items())
    if of.unplaced:
        why = "; ".join(dict.fromkeys(f"{_way(candidate)}: {reason}" for candidate, reason in of.unplaced))
        told += f"; not placed: {why}"
    return told


def _ordered(of: Front) -> list[tuple[int, Candidate]]:
    return list(enumerate(sorted(of.best, key=lambda c: (c.readings[of.axes[0]].value, c.way)), 1))


def _way(candidate: Candidate) -> str:
    return candidate.way.rsplit(", batch ", 1)[0]


def _cell(candidate: Candidate, name: str, runs: dict[str, str]) -> Cell:
    found = candidate.readings.get(name)
    if found is None or found.doubtful:
        return absent(candidate.absent.get(name, "measured in flagged runs only"))
    axis = AXES[name]
    value, low, high = (axis.shown(v) for v in (found.value, found.low, found.high))
    anchor = runs.get(found.runs[0], "")
    return Cell(text.number(value), sub=text.span(low, high), note=f"{found.metric}; {found.scope}", anchor=anchor)


def _figure(found: Sequence[Placed]) -> Figure | None:
    """A panel for each network's smallest batch size: latency against accuracy where that is known, else memory."""
    smallest: dict[tuple[str, str], Placed] = {}
    for one in found:
        if "latency" in one.front.axes and _other(one.front):
            smallest.setdefault((one.device_class, one.name), one)
    if not smallest:
        return None
    drawn = list(smallest.values())[: charts.MOST_IN_SHEET]
    classes = {one.device_class for one in drawn}
    panels = [_panel(one, several=len(classes) > 1) for one in drawn]
    caption = (
        "Latency against top-1, or against memory where no accuracy was measured, at each network's smallest batch"
        " size. Filled: beaten by no other, numbered as in the table; hollow: beaten. Bars: the intervals judged by."
    )
    if len(drawn) < len(smallest):
        caption += f" The first {len(drawn)} of {len(smallest)} networks; the tables have all."
    title = "What no other way beats"
    sheet = charts.sheet([panel.in_sheet for panel in panels], title, caption, columns=3)
    return Figure("pareto", title, caption, tuple(panels), sheet)


def _other(of: Front) -> str:
    return next((name for name in ("accuracy", "memory", "energy") if name in of.axes), "")


def _panel(one: Placed, *, several: bool) -> Panel:
    name = ", ".join([one.name, f"batch {one.batch}", *([one.device_class] if several else [])])
    other = _other(one.front)
    numbers = {candidate.way: i for i, candidate in _ordered(one.front)}
    words = "; ".join(f"{i} {_way(c)}: {_amount(c, 'latency')}, {_amount(c, other)}" for i, c in _ordered(one.front))
    chart = pareto_chart(one.front, other, numbers)
    drawn = chart.properties(width=charts.SHEET_WIDTH, height=charts.SHEET_HEIGHT, title=textwrap.wrap(name, 38))
    alt = f"Latency against {AXES[other].title}, {name}. Not beaten: {words}"
    return Panel(name, alt, charts.single(chart, charts.PANEL_HEIGHT), drawn)


def _amount(candidate: Candidate, name: str) -> str:
    axis = AXES[name]
    return f"{text.number(axis.shown(candidate.readings[name].value))} {axis.unit}"


def pareto_chart(of: Front, other: str, numbers: dict[str, int]) -> Any:
    """Points with bars both ways; filled and numbered on the front, hollow beside it."""
    import altair as alt

    rows = [_dot(candidate, other, numbers) for candidate in of.candidates]
    values = [row["x"] for row in rows]
    wide = min(values) > 0 and max(values) / min(values) > _LOG_FROM
    kind, note = ("log", " (log scale)") if wide else ("linear", "")
    x_axis = alt.Axis(title=f"Latency in ms{note}", tickCount=5, labelOverlap="greedy", format="~g")
    y_axis = alt.Axis(title=f"{AXES[other].title.capitalize()} in {AXES[other].unit}", tickCount=5)
    x = alt.X("x:Q", scale=alt.Scale(type=kind, zero=False, nice=True, padding=12), axis=x_axis)
    y = alt.Y("y:Q", scale=alt.Scale(zero=False, nice=True, padding=12), axis=y_axis)
    layers = []
    for best, role in ((False, "muted"), (True, "s1")):
        chosen = alt.Chart(alt.Data(values=[row for row in rows if row["best"] is best]))
        colour = PALETTE[role][0]
        bars = chosen.mark_rule(color=colour, strokeWidth=1.2)
        layers.append(bars.encode(x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q"), y=y))
        layers.append(bars.encode(x=x, y=alt.Y("y_low:Q"), y2=alt.Y2("y_high:Q")))
        style = {"filled": True} if best else {"fill": PALETTE["surface"][0], "strokeWidth": 1.6}
        layers.append(chosen.mark_point(size=58, opacity=1, color=colour, **style).encode(x=x, y=y))
        if best:
            label = chosen.mark_text(dx=10, dy=-9, fontSize=12, color=PALETTE["ink"][0])
            layers.append(label.encode(x=x, y=y, text=alt.Text("number:N")))
    return alt.layer(*layers)


def _dot(candidate: Candidate, other: str, numbers: dict[str, int]) -> dict[str, Any]:
    row: dict[str, Any] = {"best": candidate.way in numbers, "number": numbers.get(candidate.way, "")}
    for letter, name in (("x", "latency"), ("y", other)):
        axis, found = AXES[name], candidate.readings[name]
        row |= {letter: axis.shown(found.value)}
        row |= {f"{letter}_low": axis.shown(found.low), f"{letter}_high": axis.shown(found.high)}
    return row
