# SPDX-License-Identifier: Apache-2.0
"""Turn Vega-Lite charts into SVG whose colours follow the page, and into PNG for mail. Nothing is fetched.

Charts are drawn in the light palette; in the page's SVG each of its colours becomes a CSS variable, so one drawing
serves light, dark and print. Series colours are Okabe and Ito's, safe for colour-blind readers
(jfly.uni-koeln.de/color), less yellow, which is lost on white; dark pages get lighter tints of the same hues.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: CSS variable -> (light, dark). Each light value is used for one role only, or it could not be told apart in an SVG.
PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1c2126", "#e4e7ea"),
    "muted": ("#59636e", "#9aa4ae"),
    "grid": ("#e2e6ea", "#31383f"),
    "surface": ("#ffffff", "#14181c"),
    "s0": ("#22282e", "#d5dade"),
    "s1": ("#0072b2", "#4aa3dc"),
    "s2": ("#d55e00", "#f0823a"),
    "s3": ("#009e73", "#2fbf95"),
    "s4": ("#cc79a7", "#e09cc2"),
    "s5": ("#e69f00", "#f2b632"),
    "s6": ("#56b4e9", "#a5d8f6"),
}
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
_PATHS = {
    "circle": "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
    "square": "M-4,-4H4V4H-4Z",
    "triangle-up": "M0,-4.8L5,4.2H-5Z",
    "diamond": "M0,-5.6L5.6,0L0,5.6L-5.6,0Z",
    "triangle-down": "M0,4.8L5,-4.2H-5Z",
    "cross": "M-5,-1.7H-1.7V-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5Z",
}


@dataclass(frozen=True)
class Style:
    """How a series is drawn everywhere in a report: a role of the palette and a shape."""

    role: str
    shape: str

    @property
    def colour(self) -> str:
        """The light value, which charts are drawn with."""
        return PALETTE[self.role][0]

    @property
    def path(self) -> str:
        """The shape as an SVG path around the origin, 10 units across, for the legend."""
        return _PATHS[self.shape]


def styles(labels: Iterable[tuple[str, bool]]) -> dict[str, Style]:
    """Give each label a colour and shape of its own (36 pairs); the reference, marked True, is drawn in ink."""
    found: dict[str, Style] = {}
    n = 0
    for label, reference in labels:
        if label in found:
            continue
        if reference and not any(s.role == "s0" for s in found.values()):
            found[label] = Style("s0", "circle")
            continue
        shape = SHAPES[(n + 1 + n // 6) % 6]
        found[label] = Style(f"s{n % 6 + 1}", shape)
        n += 1
    return found


def config() -> dict[str, Any]:
    """The look of every chart: quiet axes, no frame, the page's type sizes."""
    ink, muted, grid = (PALETTE[role][0] for role in ("ink", "muted", "grid"))
    axis = {
        "labelColor": muted,
        "titleColor": muted,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": grid,
        "domainColor": grid,
        "tickColor": grid,
        "titlePadding": 8,
        "labelPadding": 5,
    }
    return {
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"domain": False, "ticks": False},
        "title": {
            "color": ink,
            "fontSize": 13,
            "anchor": "start",
            "frame": "group",
            "offset": 14,
            "subtitleColor": muted,
            "subtitleFontSize": 12,
        },
        "legend": {"labelColor": ink, "labelFontSize": 12, "title": None, "labelLimit": 400},
    }


def to_svg(spec: dict[str, Any], prefix: str) -> str:
    """Draw `spec` as inline SVG: colours as `var(--fig-ROLE)`, ids made unique with `prefix`, no fixed size.

    The caller names the drawing for screen readers; the marks inside say nothing that the tables do not.
    """
    import vl_convert

    svg = str(vl_convert.vegalite_to_svg(spec, vl_version=_version(), allowed_base_urls=[], format_locale=_LOCALE))
    svg = re.sub(r'\s(?:aria-[a-z]+|role|class|xmlns:xlink|version)="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#)', lambda m: m[1] + prefix + "-", svg)
    for role, (light, _) in PALETTE.items():
        svg = re.sub(rf'(fill|stroke)="{light}"', rf'\1="var(--fig-{role})"', svg, flags=re.IGNORECASE)
    svg = re.sub(r"(?<=\d\.\d\d)\d+", "", svg)
    return re.sub(r'<svg xmlns="[^"]*" width="(\d+)" height="\d+"', r'<svg focusable="false" width="\1"', svg, count=1)


def to_png(spec: dict[str, Any]) -> bytes:
    """Draw `spec` as PNG in the light palette on white, at twice the size, for screens with many pixels."""
    import vl_convert

    sheet = {**spec, "background": PALETTE["surface"][0]}
    png = vl_convert.vegalite_to_png(sheet, vl_version=_version(), scale=2, allowed_base_urls=[], format_locale=_LOCALE)
    return bytes(png)


def svg_text(x: float, y: float, words: str, role: str = "ink", anchor: str = "start") -> str:
    """Words of a drawing of our own, escaped, in a colour of the palette."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="var(--fig-{role})">{html.escape(words)}</text>'


def stacked(svgs: Sequence[str], legend: Sequence[tuple[str, str]] = ()) -> bytes:
    """Our own drawings, one below the other, as an SVG file in the light palette; `legend`: words and their roles."""
    sizes = [re.search(r'viewBox="0 0 (\d+) (\d+)"', svg) for svg in svgs]
    width = max(int(size[1]) for size in sizes if size)
    parts, y = list[str](), 0
    for svg, size in zip(svgs, sizes, strict=True):
        height = int(size[2]) if size else 0
        parts.append(svg.replace("<svg ", f'<svg y="{y}" height="{height}" ', 1))
        y += height
    if legend:
        drawn, height = _legend(legend, y, width)
        parts.append(drawn)
        y += height
    text = "".join(parts)
    for role, (light, _) in PALETTE.items():
        text = text.replace(f"var(--fig-{role})", light)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="{FONT}" font-size="15">'
    return f'{head}<rect width="100%" height="100%" fill="{PALETTE["surface"][0]}"/>{text}</svg>'.encode()


#: Of a legend in an SVG: a line's height, a square's side, and what a letter and the gap behind a word take.
_LINE, _SQUARE, _LETTER, _GAP = 24, 14, 8.5, 24


def _legend(legend: Sequence[tuple[str, str]], top: int, width: int) -> tuple[str, int]:
    """Squares with their words, in lines below one another, and the height of all."""
    parts, x, y = list[str](), 8.0, top + 8
    for words, role in legend:
        taken = _SQUARE + 6 + _LETTER * len(words) + _GAP
        if x > 8 and x + taken > width:
            x, y = 8.0, y + _LINE
        parts.append(f'<rect x="{x:g}" y="{y}" width="{_SQUARE}" height="{_SQUARE}" fill="var(--fig-{role})"/>')
        parts.append(svg_text(x + _SQUARE + 6, y + _SQUARE - 1, words))
        x += taken
    return "".join(parts), y + _LINE - top


_LOCALE = {"decimal": ".", "thousands": "\u2009", "grouping": [3], "currency": ["", ""]}


def _version() -> str:
    """The Vega-Lite version that altair writes for, as vl-convert names it."""
    import altair

    return ".".join(str(altair.SCHEMA_VERSION).lstrip("v").split(".")[:2])
