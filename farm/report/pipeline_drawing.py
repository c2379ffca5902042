# SPDX-License-Identifier: Apache-2.0
"""Stacked bars of the stages' shares as SVG, in the page's colours (`farm.report.drawing`). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from farm.report.drawing import svg_text

#: The part of a pass that no stage has.
BETWEEN = "between"
#: Stages in their order, each with a colour far from its neighbours'.
ROLES = {
    "decode": "s1", "preprocess": "s6", "collate": "s4", "copy_in": "s5", "infer": "s2", "copy_out": "s0",
    "postprocess": "s3", BETWEEN: "grid",
}  # fmt: skip

_WIDTH, _LEFT, _RIGHT = 760, 8, 752
_ROW, _BAR = 56, 24
#: Some eight pixels a letter: narrower parts have no room for words.
_LETTER = 8.0


def shares_svg(bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], words: Mapping[str, str]) -> str:
    """A bar for each name, its parts (stage, per cent) side by side; `words` are the stages' names for people."""
    parts: list[str] = []
    for number, (name, shares) in enumerate(bars):
        y = number * _ROW
        parts.append(svg_text(_LEFT, y + 18, name))
        parts += _bar(y + 25, shares, words)
    bottom = len(bars) * _ROW + 4
    for percent in range(0, 101, 20):
        x = _x(percent)
        anchor = "start" if percent == 0 else "end" if percent == 100 else "middle"
        parts.append(f'<path d="M{x},{bottom}v5" stroke="var(--fig-muted)"/>')
        parts.append(svg_text(x, bottom + 27, f"{percent} %", "muted", anchor))
    opened = f'<svg focusable="false" viewBox="0 0 {_WIDTH} {bottom + 36}" width="{_WIDTH}" font-size="15">'
    return opened + "".join(parts) + "</svg>"


def _bar(y: int, shares: Sequence[tuple[str, float]], words: Mapping[str, str]) -> Iterator[str]:
    done = 0.0
    for stage, share in shares:
        x, right, role = _x(done), _x(done + share), ROLES[stage]
        done += share
        said = f"{words[stage]} {share:.3g} %"
        yield (
            f'<rect x="{x}" y="{y}" width="{round(max(right - x, 0.3), 1)}" height="{_BAR}" fill="var(--fig-{role})">'
            f"<title>{escape(said)}</title></rect>"
        )
        if right - x > _LETTER * len(said) + 6:
            yield svg_text(x + 5, y + 17, said, "ink" if stage == BETWEEN else "surface")


def _x(percent: float) -> float:
    return round(_LEFT + min(max(percent, 0.0), 100.0) / 100 * (_RIGHT - _LEFT), 1)
