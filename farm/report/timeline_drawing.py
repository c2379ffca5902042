# SPDX-License-Identifier: Apache-2.0
"""A run's timeline as a still SVG: stages with telemetry below them, and the last inference on host and device. Pure.

Colours are the page's variables, as in `farm.report.drawing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from farm.report.drawing import svg_text

#: In units of the drawing, which are pixels where the page has room for all of it.
_WIDTH, _LEFT, _RIGHT = 1000, 190, 990
_BAR, _LANE, _PLOT, _GAP = 26, 34, 58, 14
_FONT = 15
#: Dark enough for the names in them.
_ROLES = ("s1", "s2", "s3", "s4")
#: A span has its name where there is room for this many letters of it, some eight units each.
_LETTER, _LEAST_LETTERS = 8.2, 4
_MOST_COUNTERS = 4
#: Operators call one another: deeper ones than these have no row.
_MOST_DEPTH = 4
_TICKS = 4

#: Name, start and duration in microseconds.
Span = Sequence[Any]


def stages_svg(told: Mapping[str, Any]) -> str:
    """The stages of the run, and what was sampled meanwhile, on one axis."""
    stages: list[Span] = told.get("stages", [])
    if not stages:
        return ""
    end = max(start + length for _, start, length in stages)
    counters = list(told.get("counters", {}).items())[:_MOST_COUNTERS]
    top = 20 + _LANE + _GAP
    parts = [*_lane("stages", stages, end, 20)]
    for number, (name, points) in enumerate(counters):
        parts += _counter(name, points, end, top + number * (_PLOT + _GAP))
    bottom = top + len(counters) * (_PLOT + _GAP)
    return _svg([*parts, *_axis(end, bottom)], bottom + 28)


def inference_svg(told: Mapping[str, Any]) -> str:
    """The last inference: what the host did, operators of it by who called whom, and what the device did."""
    end = float(told.get("inference_us") or 0)
    if end <= 0:
        return ""
    own = [span for span in told.get("host", []) if span[0] in ("infer", "wait")]
    operators = [span for span in told.get("host", []) if span[0] not in ("infer", "wait")]
    named = [("runner", own)]
    named += [("operators" if not depth else "", row) for depth, row in enumerate(by_depth(operators)[:_MOST_DEPTH])]
    named.append(("device", told.get("device", [])))
    parts, y = list[str](), 20
    for name, spans in named:
        if spans:
            parts += _lane(name, spans, end, y)
            y += _LANE
    return _svg([*parts, *_axis(end, y + 4)], y + 32)


def by_depth(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans in rows: what begins before another one has ended was called by it, and goes a row below."""
    rows: list[list[Span]] = []
    open_until: list[float] = []
    for span in sorted(spans, key=lambda span: (span[1], -span[2])):
        while open_until and open_until[-1] <= span[1]:
            open_until.pop()
        if len(open_until) == len(rows):
            rows.append([])
        rows[len(open_until)].append(span)
        open_until.append(span[1] + span[2])
    return rows


def _lane(name: str, spans: Sequence[Span], end: float, y: int) -> Iterator[str]:
    yield svg_text(4, y + 18, name)
    order = list(dict.fromkeys(str(word) for word, *_ in spans))
    roles = {word: _ROLES[number % len(_ROLES)] for number, word in enumerate(order)}
    for word, start, length in spans:
        x, right = _x(start, end), _x(start + length, end)
        width = max(right - x, 0.6)
        yield (
            f'<rect x="{x}" y="{y}" width="{round(width, 1)}" height="{_BAR}" fill="var(--fig-{roles[str(word)]})"'
            ' stroke="var(--fig-surface)" stroke-width="0.5">'
            f"<title>{escape(str(word))}: {_time(length)}</title></rect>"
        )
        shown = _fitting(str(word).removeprefix("aten::"), width - 8)
        if shown:
            yield svg_text(x + 4, y + 18, shown, "surface")


def _fitting(word: str, width: float) -> str:
    """As much of a name as there is room for; none of it where that says nothing."""
    letters = int(width / _LETTER)
    if len(word) <= letters:
        return word
    return word[: letters - 1] + "\u2026" if letters >= _LEAST_LETTERS else ""


def _counter(name: str, points: Sequence[Sequence[float]], end: float, y: int) -> Iterator[str]:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) or 1.0
    path = " ".join(f"{_x(at, end)},{round(y + _PLOT - (_PLOT - 4) * (v - low) / room, 1)}" for at, v in points)
    yield svg_text(4, y + 22, name.replace("_", " "))
    yield svg_text(4, y + 42, _between(low, high), "muted")
    yield f'<polyline points="{path}" fill="none" stroke="var(--fig-s1)" stroke-width="1.4"/>'


def _axis(end: float, y: int) -> Iterator[str]:
    yield f'<path d="M{_LEFT},{y}H{_RIGHT}" stroke="var(--fig-grid)"/>'
    yield svg_text(_LEFT, y + 20, "0", "muted")
    for tick in range(1, _TICKS + 1):
        at = end * tick / _TICKS
        anchor = "end" if tick == _TICKS else "middle"
        yield f'<path d="M{_x(at, end)},{y}v5" stroke="var(--fig-grid)"/>'
        yield svg_text(_x(at, end), y + 20, _time(at), "muted", anchor=anchor)


def _x(at: float, end: float) -> float:
    share = min(max(at / end, 0.0), 1.0)
    return round(_LEFT + share * (_RIGHT - _LEFT), 1)


def _between(low: float, high: float) -> str:
    """The range of a counter; bytes of memory in whole units."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if high >= size:
            return f"{_plain(low / size)} to {_plain(high / size)} {unit}"
    return f"{_plain(low)} to {_plain(high)}"


def _plain(value: float) -> str:
    """Three significant digits without an exponent: 1980 MHz, not 1.98e+03."""
    return f"{float(f'{value:.3g}'):g}"


def _time(us: float) -> str:
    for limit, size, unit in ((1e3, 1.0, "us"), (1e6, 1e3, "ms")):
        if us < limit:
            return f"{us / size:.4g} {unit}"
    return f"{us / 1e6:.4g} s"


def _svg(parts: Sequence[str], height: int) -> str:
    opened = f'<svg focusable="false" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" font-size="{_FONT}">'
    return opened + "".join(parts) + "</svg>"
