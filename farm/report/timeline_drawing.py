# SPDX-License-Identifier: Apache-2.0
"""A run's timeline as a still SVG: stages with telemetry below them, and the last inference on host and device. Pure.

Colours are the page's variables, as in `farm.report.drawing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _LEFT, _RIGHT = 760, 150, 748
_BAR, _LANE, _PLOT = 18, 30, 40
_ROLES = ("s1", "s2", "s3", "s4", "s5", "s6")
#: Narrower spans have no room for their name: some six pixels a letter.
_LETTER = 6.2
_MOST_COUNTERS = 4

#: Name, start and duration in microseconds.
Span = Sequence[Any]


def stages_svg(told: Mapping[str, Any]) -> str:
    """The stages of the run, and what was sampled meanwhile, on one axis."""
    stages: list[Span] = told.get("stages", [])
    if not stages:
        return ""
    end = max(start + length for _, start, length in stages)
    counters = list(told.get("counters", {}).items())[:_MOST_COUNTERS]
    bottom = 24 + _LANE + len(counters) * (_PLOT + 8)
    parts = [*_lane("stages", stages, end, 20, named=True)]
    for number, (name, points) in enumerate(counters):
        parts += _counter(name, points, end, 24 + _LANE + number * (_PLOT + 8))
    return _svg([*parts, *_axis(end, bottom)], bottom + 26)


def inference_svg(told: Mapping[str, Any]) -> str:
    """The last inference: what the host did, operators of it, and what the device did."""
    end = float(told.get("inference_us") or 0)
    if end <= 0:
        return ""
    own = [span for span in told.get("host", []) if span[0] in ("infer", "wait")]
    operators = [span for span in told.get("host", []) if span[0] not in ("infer", "wait")]
    lanes = [("runner", own), ("operators", operators), ("device", told.get("device", []))]
    parts, y = list[str](), 20
    for name, spans in lanes:
        if spans:
            parts += _lane(name, spans, end, y, named=name == "runner")
            y += _LANE
    return _svg([*parts, *_axis(end, y)], y + 26)


def _lane(name: str, spans: Sequence[Span], end: float, y: int, *, named: bool) -> Iterator[str]:
    yield _text(4, y + 13, name)
    for number, (word, start, length) in enumerate(spans):
        x, right = _x(start, end), _x(start + length, end)
        width = max(right - x, 0.6)
        role = _ROLES[number % len(_ROLES)]
        yield (
            f'<rect x="{x}" y="{y}" width="{round(width, 1)}" height="{_BAR}" fill="var(--fig-{role})">'
            f"<title>{escape(str(word))}: {_time(length)}</title></rect>"
        )
        if named and width > _LETTER * len(str(word)) + 4:
            yield _text(x + 3, y + 13, str(word), "surface")


def _counter(name: str, points: Sequence[Sequence[float]], end: float, y: int) -> Iterator[str]:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) or 1.0
    path = " ".join(f"{_x(at, end)},{round(y + _PLOT - (_PLOT - 4) * (v - low) / room, 1)}" for at, v in points)
    yield _text(4, y + 14, name)
    yield _text(4, y + 30, f"{low:.4g} to {high:.4g}", "muted")
    yield f'<polyline points="{path}" fill="none" stroke="var(--fig-s1)" stroke-width="1.4"/>'


def _axis(end: float, y: int) -> Iterator[str]:
    yield f'<path d="M{_LEFT},{y}H{_RIGHT}" stroke="var(--fig-grid)"/>'
    yield _text(_LEFT, y + 16, "0", "muted")
    yield _text(_RIGHT, y + 16, _time(end), "muted", anchor="end")


def _x(at: float, end: float) -> float:
    share = min(max(at / end, 0.0), 1.0)
    return round(_LEFT + share * (_RIGHT - _LEFT), 1)


def _time(us: float) -> str:
    for limit, size, unit in ((1e3, 1.0, "us"), (1e6, 1e3, "ms")):
        if us < limit:
            return f"{us / size:.4g} {unit}"
    return f"{us / 1e6:.4g} s"


def _text(x: float, y: float, words: str, role: str = "ink", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="var(--fig-{role})">{escape(words)}</text>'


def _svg(parts: Sequence[str], height: int) -> str:
    opened = f'<svg focusable="false" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" font-size="12">'
    return opened + "".join(parts) + "</svg>"
