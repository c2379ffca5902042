# SPDX-License-Identifier: Apache-2.0
"""The lines of the benchmarks as a Markdown table, as JSON, and between the markers of a page. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.speed.line import Line

BEGIN = "<!-- speed: made by `python benchmarks/run.py --write docs/performance.md` -->"
END = "<!-- end of speed -->"
_HEADS = ("what", "ours", "baseline", "ratio", "limit", "held")


def number(value: float) -> str:
    """Three significant digits; whole numbers from 1,000 on."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def row(line: Line) -> tuple[str, ...]:
    """A line's cells: medians, and the ratio with the smallest and the largest round. '' where there is none."""
    ours = f"{number(statistics.median(line.ours))} {line.unit}"
    baseline = limit = ""
    low, high = line.spread
    spread = f"{number(statistics.median(line.ratios))} ({number(low)} to {number(high)})"
    if line.baseline:
        baseline = f"{number(statistics.median(line.baseline))} {line.unit} ({line.against})"
    if line.limit is not None:
        limit = f"{number(line.limit)}" if line.baseline else f"{number(line.limit)} {line.unit}"
    held = {None: "", True: "yes", False: "**no**"}[line.held]
    what = f"{line.what} ({line.note})" if line.note else line.what
    return what, ours, baseline, spread, limit, held


def markdown(lines: Sequence[Line], failed: Mapping[str, str]) -> str:
    """One table of all topics, in their order; below it the topics that could not be measured, and why."""
    rows = [("topic", *_HEADS), ("---",) * (1 + len(_HEADS))]
    rows += [(line.topic, *row(line)) for line in lines]
    told = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |" for cells in rows]
    told += [f"\nNot measured: {topic}: {why}" for topic, why in failed.items()]
    return "\n".join(told) + "\n"


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines as JSON values."""
    return [asdict(line) for line in lines]


def of_json(values: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The way back. Raises TypeError for what is no line."""
    return [Line(**{**each, "ours": tuple(each["ours"]), "baseline": tuple(each["baseline"])}) for each in values]


def replaced(page: str, table: str) -> str:
    """The page with what stands between its markers replaced.

    Raises:
        ValueError: the page does not have each marker once, in order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise ValueError(f"it must have once each, in this order: {BEGIN} and {END}")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{table.strip()}\n\n{END}{rest.split(END)[1]}"
