# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the farm they act on, tables, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from farm.api import Farm

#: 0 all well; 1 the farm worked and some runs are not ok.
EXIT_NOT_OK = 1
#: What a shell expects of a command that Ctrl-C ended.
EXIT_INTERRUPTED = 130

SWEEP_FILE = click.Path(path_type=Path)


def open_farm(ctx: click.Context) -> Farm:
    """The farm of `--home` and `--store`, of the environment, or of the settings file."""
    from farm.api import Farm

    given = ctx.find_root().obj or {}
    return Farm(home=given.get("home"), store=given.get("store"))


def console(*, err: bool = False) -> Console:
    """A console for people; plain and unwrapped when its output goes to a file or a pipe."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(stderr=err, width=None if stream.isatty() else 200, highlight=False, soft_wrap=not stream.isatty())


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under headings; numbers to the right, None as a dash."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        right = any(isinstance(row[i], (int, float)) for row in rows)
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell(value)) for value in row])
    console().print(table)


def cell(value: Any) -> str:
    """One value as a person wants to read it: four significant digits, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"
    return str(value)


def print_json(value: Any) -> None:
    """Print JSON for another program to read."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


def duration(seconds: float | None) -> str:
    """`75.2` -> `1 min 15 s`; None -> `?`."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"
