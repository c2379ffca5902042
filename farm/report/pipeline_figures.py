# SPDX-License-Identifier: Apache-2.0
"""The figures of pipelines: the stages' shares as stacked bars, and latency against the rate of arrival."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from farm.contract.pipeline import PipelineResult
from farm.explain.pipeline import STAGE_WORDS
from farm.report import charts, text
from farm.report.charts import wide_range
from farm.report.drawing import PALETTE, Style
from farm.report.figures import Figure, Panel
from farm.report.pipeline_drawing import BETWEEN, ROLES, shares_svg

#: A run's name and what it found.
Named = tuple[str, PipelineResult]

_WORDS = {**STAGE_WORDS, BETWEEN: "between"}
_PERCENTILES = {"p50": Style("s1", "circle"), "p95": Style("s5", "square"), "p99": Style("s2", "triangle-up")}


def shares_figure(named: Sequence[Named]) -> Figure | None:
    """A bar for each run, as long as its serial pass, in parts by stage. None where no run has a serial pass."""
    kept = [(name, result) for name, result in named if result.serial is not None][: charts.MOST_IN_PAGE]
    if not kept:
        return None
    title = "Where the time goes, one stage after the other"
    caption = "Shares of the serial pass's wall clock. Between: what no stage has."
    bars = [(name, list(_shares(result))) for name, result in kept]
    words = "; ".join(f"{name}: " + ", ".join(f"{_WORDS[n]} {s:.3g} %" for n, s in of) for name, of in bars)
    legend = tuple((_WORDS[name], Style(role, "square")) for name, role in ROLES.items())
    panel = Panel("", f"{title}: {words}", {}, None, shares_svg(bars, _WORDS))
    return Figure("pipeline-shares", title, caption, (panel,), {}, legend)


def _shares(result: PipelineResult) -> Iterator[tuple[str, float]]:
    if result.serial is not None:
        found = {stage.name: stage.share for stage in result.serial.stages} | {BETWEEN: result.serial.between_share}
        yield from ((name, 100 * found[name]) for name in ROLES)


def load_figure(named: Sequence[Named]) -> Figure | None:
    """Latency against the rate of arrival: a panel for each run, with its capacity. None where none has a load."""
    kept = [(name, result) for name, result in named if result.loads][: charts.MOST_IN_PAGE]
    if not kept:
        return None
    title = "Latency against load"
    caption = (
        "From the moment at which an image was due to its five best classes, in ms; lower is better. The grey line is"
        " the capacity that the overlapped pass had; a dashed line is a rate at which latency grew without end, so that"
        " there is no figure. A percentile that the images are too few to bound is left out."
    )
    panels = []
    for name, result in kept:
        drawn = _load(result, legend=True).properties(
            width=charts.SHEET_WIDTH, height=charts.SHEET_HEIGHT, title=textwrap.wrap(name, 38)
        )
        spec = charts.single(_load(result), charts.PANEL_HEIGHT)
        panels.append(Panel(name, f"{title}, {name}: {_words(result)}", spec, drawn))
    sheet = charts.sheet([panel.in_sheet for panel in panels], title, caption, columns=3)
    return Figure("pipeline-load", title, caption, tuple(panels), sheet, tuple(_PERCENTILES.items()))


def _words(result: PipelineResult) -> str:
    return "; ".join(
        f"{text.number(load.offered_per_s)} images/s "
        + ("overloaded" if load.p50_ns is None else f"p50 {text.number(load.p50_ns / 1e6)} ms")
        for load in result.loads
    )


def _load(result: PipelineResult, *, legend: bool = False) -> Any:
    """Lines of percentiles over the rate; rules for the capacity and for rates without a steady latency."""
    import altair as alt

    dots = list(_dots(result))
    capacity = result.overlapped.per_s if result.overlapped is not None else None
    rates = [load.offered_per_s for load in result.loads] + ([capacity] if capacity else [])
    axis = alt.Axis(title="Images per second that arrive", tickCount=5, grid=False)
    x = alt.X("rate:Q", scale=alt.Scale(domain=[0, 1.05 * max(rates)], nice=False), axis=axis)
    known = [dot["value"] for dot in dots]
    layers = []
    if capacity:
        layers.append(_rule([capacity], x, "muted", dash=[]))
    over = [load.offered_per_s for load in result.loads if load.overloaded]
    if over:
        layers.append(_rule(over, x, "s4", dash=[4, 4]))
    if dots:
        wide = wide_range(known)
        scale = alt.Scale(type="log", nice=True) if wide else alt.Scale(zero=True, nice=5)
        form = {"format": "~g", "labelOverlap": "greedy"} if wide else {}
        axis_y = alt.Axis(title="Milliseconds" + (" (log scale)" if wide else ""), tickCount=5, **form)
        y = alt.Y("value:Q", scale=scale, axis=axis_y)
        base = alt.Chart(alt.Data(values=dots))
        colour = _scaled(alt.Color, "colour", legend)
        layers.append(base.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=colour))
        shape = _scaled(alt.Shape, "shape", legend)
        layers.append(base.mark_point(size=58, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape))
    return alt.layer(*layers)


def _dots(result: PipelineResult) -> Iterator[dict[str, Any]]:
    for load in result.loads:
        for name, value in (("p50", load.p50_ns), ("p95", load.p95_ns), ("p99", load.p99_ns)):
            if value is not None:
                yield {"series": name, "rate": load.offered_per_s, "value": value / 1e6}


def _rule(rates: Sequence[float], x: Any, role: str, dash: Sequence[int]) -> Any:
    import altair as alt

    chart = alt.Chart(alt.Data(values=[{"rate": rate} for rate in rates]))
    return chart.mark_rule(strokeWidth=1.6, color=PALETTE[role][0], strokeDash=list(dash)).encode(x=x)


def _scaled(channel: Any, what: str, legend: bool) -> Any:
    import altair as alt

    scale = alt.Scale(domain=list(_PERCENTILES), range=[str(getattr(style, what)) for style in _PERCENTILES.values()])
    key = alt.Legend(orient="bottom", columns=3, title=None) if legend else None
    return channel("series:N", scale=scale, legend=key)
