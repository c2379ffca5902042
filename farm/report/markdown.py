# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown (GitHub's flavour): the same tables, for mail, tickets and terminals. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from farm.report import text
from farm.report.table import Cell, Column, Row, Table

_MOST_REASONS = 6


def escape(words: str) -> str:
    """Keep text from being read as markup: one line, no HTML, no table bars, emphasis, links or code."""
    flat = " ".join(words.split(" ")).replace("\r", " ").replace("\n", " ")
    flat = re.sub(r"([\\`*\[\]|~])", r"\\\1", flat)
    flat = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def table(made: Table, level: int = 3) -> str:
    """A heading, a caption, the table, its footnotes and the reasons of its dashes."""
    first = [Column(made.group_heading, numeric=False)] if made.group_heading else []
    heads = [*first, Column(made.heading, numeric=False), *made.columns]
    lines = [f"{'#' * level} {escape(made.title)}", "", escape(made.caption), ""]
    lines.append(_line([_head(c) for c in heads]))
    lines.append("|" + "|".join(" ---: " if c.numeric else " --- " for c in heads) + "|")
    for title, row in made.rows:
        names = [escape(title)] if made.group_heading else []
        lines.append(_line([*names, _heading(row), *(_cell(c) for c in row.cells)]))
    lines.append("")
    lines += [f"- {mark} {escape(words)}" for mark, words in made.notes]
    lines += [f"- {text.ABSENT} {escape(reason)}" for reason in _reasons(made)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _head(column: Column) -> str:
    return escape(f"{column.heading}, {column.unit}" if column.unit else column.heading)


def _heading(row: Row) -> str:
    return f"[{escape(row.heading)}]({row.href})" if row.href else escape(row.heading)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    words = f"[{escape(cell.text)}]({cell.href})" if cell.href else escape(cell.text)
    if cell.sub:
        words += f" ({escape(cell.sub)})"
    return words + (f" {cell.mark}" if cell.mark else "")


def _reasons(made: Table) -> Iterator[str]:
    """What a page says on hover, each reason once; beyond the first few, how many more there are."""
    found = dict.fromkeys(c.note for _, row in made.rows for c in row.cells if c.text == text.ABSENT and c.note)
    yield from list(found)[:_MOST_REASONS]
    if len(found) > _MOST_REASONS:
        yield f"and {len(found) - _MOST_REASONS} more reasons, in the HTML report"
