# SPDX-License-Identifier: Apache-2.0
"""The charts behind the figures, in Altair: what is drawn where. Altair is imported on use; its objects are Any.

Specifications are not validated here, which would take a third of a report's time: tests do that.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farm.report import drawing
from farm.report.drawing import PALETTE, Style

#: Space for one panel in the page, all in, and for its plot alone in the sheet; pixels, as is the height of a row.
PANEL_WIDTH, PANEL_HEIGHT, SHEET_WIDTH, SHEET_HEIGHT = 360, 240, 300, 190
ROW_HEIGHT = 26
#: The most panels in one sheet, and of a figure in the page: one takes a tenth of a second and 20 kB.
MOST_IN_SHEET, MOST_IN_PAGE = 12, 36
#: Throughputs this many times apart (a CPU beside a data-centre GPU) share no linear axis.
FAR_APART = 200
_AXIS_HEIGHT = 52
#: The longest line of a row's name, about 170 pixels.
_ROW_LETTERS = 28
#: A sample this many percent off its median would squeeze all others on a linear axis.
FAR_PERCENT = 40
#: Within this many percent of 0 the bent axis is close to linear.
BEND = 2
_SIGNED = "datum.value === 0 ? '0' : format(datum.value, '+~g')"


@dataclass(frozen=True)
class Dot:
    """One point of a chart. `row` names it in a chart of rows; `low` and `high` are None without an interval."""

    series: str
    row: str
    batch: int
    value: float
    low: float | None = None
    high: float | None = None
    doubtful: bool = False
    invalid: bool = False


@dataclass(frozen=True)
class Spread:
    """One row of a distribution: five numbers and the samples that are shown, in percent off the run's median."""

    series: str
    row: str
    low: float
    q1: float
    median: float
    q3: float
    high: float
    ticks: tuple[float, ...] = ()


def throughput_chart(dots: Sequence[Dot], look: Mapping[str, Style], *, legend: bool = False) -> Any:
    """Throughput over the batch size. Invalid points are drawn, hollow, and no line leads to them."""
    return batch_chart(dots, look, "Batch size", _throughput_axis([d.value for d in dots]), legend=legend)


def batch_chart(
    dots: Sequence[Dot],
    look: Mapping[str, Style],
    title: str,
    y: Any,
    *,
    legend: bool = False,
    sizes: Sequence[int] = (),
) -> Any:
    """Lines over a batch size, log 2, which has all of `sizes`, or those that have a point; `y` is the values' axis."""
    import altair as alt

    batches = sorted({d.batch for d in dots} | set(sizes))
    axis = alt.Axis(values=batches, format="d", grid=False, title=f"{title} (log scale)", labelOverlap="greedy")
    domain = {"domain": [batches[0], batches[-1]]} if sizes else {}
    x = alt.X("batch:Q", scale=alt.Scale(type="log", base=2, nice=False, padding=14, **domain), axis=axis)
    colour = _colour(look, legend)
    layers = [_chart([d for d in dots if not d.invalid]).mark_line(strokeWidth=1.6).encode(x=x, y=y, color=colour)]
    bounded = [d for d in dots if d.low is not None]
    if bounded:
        bars = _chart(bounded).mark_rule(strokeWidth=1.6)
        layers.append(bars.encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour))
    return alt.layer(*layers, *_points(dots, x, y, look, legend))


def ringed_chart(
    dots: Sequence[Dot],
    rings: Sequence[Dot],
    look: Mapping[str, Style],
    title: str,
    axis: str,
    *,
    legend: bool = False,
) -> Any:
    """`batch_chart` of values from zero, with a ring around some of its points."""
    import altair as alt

    drawn = batch_chart(dots, look, title, plain_axis(axis, zero=True), legend=legend)
    if not rings:
        return drawn
    marks = _chart(rings).mark_point(size=230, filled=False, strokeWidth=1.6, opacity=1)
    return alt.layer(*drawn.layer, marks.encode(x=alt.X("batch:Q"), y=alt.Y("value:Q"), color=_colour(look, legend)))


def plain_axis(title: str, *, zero: bool) -> Any:
    """A linear axis of values, from zero or as far as they reach."""
    import altair as alt

    return alt.Y("value:Q", scale=alt.Scale(zero=zero, nice=5), axis=alt.Axis(title=title, tickCount=5))


def grouped_chart(dots: Sequence[Dot], look: Mapping[str, Style], title: str, *, legend: bool = False) -> Any:
    """Rows, in the order of `dots`, each with a point for every series below one another, intervals as bars."""
    import altair as alt

    wide = wide_range([d.value for d in dots])
    axis = alt.Axis(title=title + (" (log scale)" if wide else ""), tickCount=4, format=",~g", labelOverlap="greedy")
    scale = alt.Scale(type="log", nice=True) if wide else alt.Scale(zero=True, nice=True)
    x, y = alt.X("value:Q", scale=scale, axis=axis), _row_axis(list(dict.fromkeys(d.row for d in dots)))
    offset = alt.YOffset("series:N", scale=alt.Scale(domain=list(look), paddingInner=0.2))
    layers = _points(dots, x, y, look, legend)
    bounded = [d for d in dots if d.low is not None]
    if bounded:
        bars = _chart(bounded).mark_rule(strokeWidth=2)
        bars = bars.encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=_colour(look, legend))
        layers.insert(0, bars)
    return alt.layer(*(layer.encode(yOffset=offset) for layer in layers))


def _throughput_axis(values: Sequence[float]) -> Any:
    """From zero; logarithmic where lines from zero would lie on one another."""
    import altair as alt

    if max(values, default=0) > FAR_APART * min(values, default=0) > 0:
        axis = alt.Axis(title="Inputs per second (log scale)", tickCount=4, format="~s")
        return alt.Y("value:Q", scale=alt.Scale(type="log", nice=True), axis=axis)
    axis = alt.Axis(title="Inputs per second", tickCount=5)
    return alt.Y("value:Q", scale=alt.Scale(zero=True, nice=5), axis=axis)


def latency_chart(dots: Sequence[Dot], look: Mapping[str, Style]) -> Any:
    """A point in each row with its interval as a bar; from zero, or logarithmic if the range is wide."""
    import altair as alt

    if wide_range([d.value for d in dots]):
        axis = alt.Axis(title="Milliseconds (log scale)", tickCount=4, format="~g", labelOverlap="greedy")
        x = alt.X("value:Q", scale=alt.Scale(type="log", nice=True), axis=axis)
    else:
        axis = alt.Axis(title="Milliseconds", tickCount=5, labelOverlap="greedy")
        x = alt.X("value:Q", scale=alt.Scale(zero=True, nice=True), axis=axis)
    y = _row_axis([d.row for d in dots])
    layers = []
    bounded = [d for d in dots if d.low is not None]
    if bounded:
        bars = _chart(bounded).mark_rule(strokeWidth=2)
        layers.append(bars.encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=_colour(look)))
    return alt.layer(*layers, *_points(dots, x, y, look))


def distribution_chart(spreads: Sequence[Spread], look: Mapping[str, Style]) -> Any:
    """A strip of samples and a box in each row, in percent off the row's own median; bent scale for long tails."""
    import altair as alt

    low, high = min(s.low for s in spreads), max(s.high for s in spreads)
    far = max(abs(low), abs(high)) > FAR_PERCENT
    if far:
        ticks = bent_ticks(low, high)
        bent = alt.Scale(type="symlog", constant=BEND, nice=False, domain=[min(low, ticks[0]), max(high, ticks[-1])])
        axis = alt.Axis(title="% off the median (symmetric log)", values=ticks, labelExpr=_SIGNED)
    else:
        bent = alt.Scale(nice=True)
        axis = alt.Axis(title="% off the median", tickCount=5, labelExpr=_SIGNED, labelOverlap="greedy")
    y, colour = _row_axis([s.row for s in spreads]), _colour(look)
    base = _chart(spreads).encode(y=y, color=colour)
    line = base.mark_rule(strokeWidth=1).encode(x=alt.X("low:Q", scale=bent, axis=axis), x2=alt.X2("high:Q"))
    samples = [{"series": s.series, "row": s.row, "value": v} for s in spreads for v in s.ticks]
    strip = alt.Chart(alt.Data(values=samples)).mark_tick(size=17, thickness=1, opacity=0.35)
    strips = [strip.encode(x=alt.X("value:Q"), y=y, color=colour)] if samples else []
    box = base.mark_bar(size=9, fill=PALETTE["surface"][0], fillOpacity=0.6, strokeWidth=1.4)
    stroke = alt.Stroke("series:N", scale=_scale(look, "colour"), legend=None)
    return alt.layer(
        line,
        *strips,
        box.encode(x=alt.X("q1:Q"), x2=alt.X2("q3:Q"), stroke=stroke),
        base.mark_tick(size=14, thickness=3).encode(x=alt.X("median:Q")),
    )


def bent_ticks(low: float, high: float) -> list[float]:
    """Where a symmetric logarithmic axis from `low` to `high` has its labels: 0 and powers of ten, far enough apart.

    An axis left to itself labels the end of its range close beside the last power, one over the other.
    """
    reach = _bend(high) - _bend(low)
    kept = [0.0]
    for sign, end in ((1, high), (-1, -low)):
        last = 0.0
        for power in (10.0, 100.0, 1000.0, 10000.0, 100000.0):
            if power <= end and _bend(power) - _bend(last) > reach / 6:
                last = power
                kept.append(sign * power)
    return sorted(kept)


def _bend(value: float) -> float:
    """The place of a value on the axis, as Vega computes it."""
    return math.copysign(math.log1p(abs(value) / BEND), value)


def wide_range(values: Sequence[float]) -> bool:
    """Whether a linear axis would squeeze the small values into its first twentieth."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 20


def rows_height(rows: Sequence[str], *, axis: bool = True) -> int:
    """The height of a panel of rows in pixels: more where one of them has two lines, more with its axis."""
    two_lines = any(" (" in row for row in rows)
    return (_AXIS_HEIGHT if axis else 0) + (ROW_HEIGHT + 8 * two_lines) * len(set(rows))


def single(chart: Any, height: int) -> dict[str, Any]:
    """One panel for the page, as a Vega-Lite specification: `PANEL_WIDTH` by `height` pixels, all in."""
    sized = chart.properties(width=PANEL_WIDTH, height=height, autosize={"type": "fit", "contains": "padding"})
    return {**sized.to_dict(validate=False), "config": drawing.config(), "padding": 2, "background": "transparent"}


def sheet(panels: Sequence[Any], title: str, caption: str, *, columns: int) -> dict[str, Any]:
    """The panels with a heading, as a Vega-Lite specification: the figure as one picture, small enough for mail."""
    import altair as alt

    columns = min(columns, len(panels))
    if len(panels) > MOST_IN_SHEET:
        caption += f" The first {MOST_IN_SHEET} of the page's {len(panels)} panels."
    words = alt.Title(text=title, subtitle=textwrap.wrap(caption, 58 * columns), fontSize=16, offset=14)
    joined = alt.concat(*panels[:MOST_IN_SHEET], columns=columns, spacing=28).properties(title=words)
    return {**joined.to_dict(validate=False), "config": drawing.config(), "padding": 20}


def _chart(items: Sequence[Dot] | Sequence[Spread]) -> Any:
    import altair as alt

    rows = [{k: v for k, v in vars(item).items() if v is not None and k != "ticks"} for item in items]
    return alt.Chart(alt.Data(values=rows))


def _points(dots: Sequence[Dot], x: Any, y: Any, look: Mapping[str, Style], legend: bool = False) -> list[Any]:
    """Full points for sound runs, hollow ones for flagged runs."""
    import altair as alt

    shape = alt.Shape("series:N", scale=_scale(look, "shape"), legend=_legend(legend))
    layers = []
    for doubtful in (False, True):
        chosen = [d for d in dots if d.doubtful is doubtful]
        style = {"fill": PALETTE["surface"][0], "strokeWidth": 1.8} if doubtful else {"filled": True}
        if chosen:
            marks = _chart(chosen).mark_point(size=58, opacity=1, **style)
            layers.append(marks.encode(x=x, y=y, color=_colour(look, legend), shape=shape))
    return layers


def _colour(look: Mapping[str, Style], legend: bool = False) -> Any:
    import altair as alt

    return alt.Color("series:N", scale=_scale(look, "colour"), legend=_legend(legend))


def _scale(look: Mapping[str, Style], what: str) -> Any:
    import altair as alt

    return alt.Scale(domain=list(look), range=[getattr(style, what) for style in look.values()])


def _legend(shown: bool) -> Any:
    import altair as alt

    return alt.Legend(orient="bottom", columns=3, title=None, symbolStrokeWidth=1.6) if shown else None


def _row_axis(rows: Sequence[str]) -> Any:
    """Rows by name; a variant in brackets goes on a line of its own."""
    import altair as alt

    at = "indexof(datum.value, ' (')"
    first, second = f"slice(datum.value, 0, {at})", f"slice(datum.value, {at} + 1)"
    cut = [f"truncate({part}, {_ROW_LETTERS})" for part in ("datum.value", first, second)]
    lines = f"{at} < 0 ? {cut[0]} : [{cut[1]}, {cut[2]}]"
    # A limit in pixels has every cut of every name measured, which takes longer than all else in the drawing.
    axis = alt.Axis(title=None, labelLimit=0, labelLineHeight=12, labelExpr=lines)
    return alt.Y("row:N", sort=None, scale=alt.Scale(domain=list(rows)), axis=axis)
