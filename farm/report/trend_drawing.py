# SPDX-License-Identifier: Apache-2.0
"""One metric over the nights as a small SVG, drawn by hand: a farm has hundreds of series, and draws them every night.

Colours are the page's variables, as in `farm.report.drawing`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape

from farm.history.model import NightPoint
from farm.report import text

_WIDTH, _HEIGHT = 400, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 388, 44, 194
#: Days between labels of the nights' axis.
_STEPS = (1, 2, 5, 7, 14, 28, 56, 112, 182, 364)
_MOST_LABELS = 6
_TICKS = 4
_LINE_HEIGHT = 13


@dataclass(frozen=True)
class Mark:
    """An event: its first night, a few words, and the palette's role."""

    night: str
    words: str
    role: str


def trend_svg(title: str, sound: Sequence[NightPoint], flagged: Sequence[NightPoint], marks: Sequence[Mark]) -> str:
    """The drawing; `title` names the axis of values, with its unit. Flagged points are hollow, off the line."""
    points = [*sound, *flagged]
    if not points:
        return ""
    ticks = _ticks(min(p.value for p in points), max(p.value for p in points))
    nights = sorted({p.night for p in points})
    # The first date must not stand below the lowest value's label.
    x = _Scale(_day(nights[0]), _day(nights[-1]), _LEFT + 18, _RIGHT - 8)
    y = _Scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    parts = [
        f'<svg focusable="false" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" font-size="12">',
        _text(4, 14, title),
        *_value_axis(ticks, y),
        *_night_axis(nights, x),
        *_marks(marks, x),
        *_line(sound, x, y),
        *(_dot(p, x, y, hollow=False) for p in sound),
        *(_dot(p, x, y, hollow=True) for p in flagged),
        "</svg>",
    ]
    return "".join(parts)


@dataclass(frozen=True)
class _Scale:
    """From values to pixels; the middle where all values are one."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.first + share * (self.last - self.first), 1)


def _ticks(low: float, high: float) -> list[float]:
    """Round values that enclose both, about `_TICKS` steps apart. Some 2 % are always shown: noise is no cliff."""
    middle = (low + high) / 2
    room = max(high - low, 0.02 * abs(middle)) or 1.0
    rough = room / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    first = math.floor(min(low, middle - room / 2) / step + 1e-9)
    last = math.ceil(max(high, middle + room / 2) / step - 1e-9)
    # A quantity that cannot be negative has no axis below 0.
    return [n * step for n in range(max(first, 0) if low >= 0 else first, last + 1)]


def _value_axis(ticks: Sequence[float], y: _Scale) -> list[str]:
    step = ticks[1] - ticks[0]
    places = max(0, math.ceil(-math.log10(step) - 1e-9))
    # 0.025 needs a digit more than its size says.
    places += 0 if math.isclose(round(step, places), step, rel_tol=1e-6) else 1
    found = []
    for tick in ticks:
        height = y.at(tick)
        found.append(f'<path d="M{_LEFT},{height}H{_RIGHT}" stroke="var(--fig-grid)"/>')
        found.append(_text(_LEFT - 6, height + 4, text.number(tick, places), "end"))
    return found


def _night_axis(nights: Sequence[str], x: _Scale) -> list[str]:
    first, last = date.fromisoformat(nights[0]), date.fromisoformat(nights[-1])
    days = (last - first).days
    step = next((s for s in _STEPS if days / s < _MOST_LABELS), _STEPS[-1])
    found = [_text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, "Night (UTC date)", "middle")]
    for n in range(0, days + 1, step):
        day = first + timedelta(days=n)
        place = x.at(day.toordinal())
        found.append(f'<path d="M{place},{_BOTTOM}v4" stroke="var(--fig-muted)"/>')
        found.append(_text(place, _BOTTOM + 17, f"{day.day} {day:%b}", "middle"))
    return found


def _marks(marks: Sequence[Mark], x: _Scale) -> list[str]:
    """A dashed line where each new level begins; the words on the side that has more room, none above another."""
    found = []
    for n, mark in enumerate(sorted(marks, key=lambda m: m.night)):
        place = min(max(x.at(_day(mark.night)), _LEFT), _RIGHT)
        before = place > (_LEFT + _RIGHT) / 2
        colour = f"var(--fig-{mark.role})"
        found.append(
            f'<path class="event" d="M{place},{_TOP - 12}V{_BOTTOM}" stroke="{colour}" '
            'stroke-width="1.6" stroke-dasharray="4 3"/>'
        )
        height = _TOP - 6 + _LINE_HEIGHT * n
        found.append(_text(place + (-5 if before else 5), height, mark.words, "end" if before else "start", colour))
    return found


def _line(sound: Sequence[NightPoint], x: _Scale, y: _Scale) -> list[str]:
    if len(sound) < 2:
        return []
    path = "L".join(f"{x.at(_day(p.night))},{y.at(p.value)}" for p in sound)
    return [f'<path d="M{path}" fill="none" stroke="var(--fig-s1)" stroke-width="1.4"/>']


def _dot(point: NightPoint, x: _Scale, y: _Scale, *, hollow: bool) -> str:
    look = 'fill="var(--fig-surface)" stroke="var(--fig-s1)" stroke-width="1.6"' if hollow else 'fill="var(--fig-s1)"'
    said = f"<title>{point.night}: {text.number(point.value)}{', flagged' if hollow else ''}</title>"
    return f'<circle cx="{x.at(_day(point.night))}" cy="{y.at(point.value)}" r="3" {look}>{said}</circle>'


def _text(x: float, y: float, words: str, anchor: str = "start", colour: str = "var(--fig-muted)") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def _day(night: str) -> int:
    return date.fromisoformat(night).toordinal()
