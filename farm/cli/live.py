# SPDX-License-Identifier: Apache-2.0
"""Live progress: a changing display on a terminal, one line per change elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from farm.cli.common import console, duration

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from farm.progress import Progress, Running

#: Without a terminal a line is printed when a count changes, and at least this often.
QUIET_LIMIT_S = 15.0


class ProgressView:
    """Show `Progress` values as they come, on standard error if asked. Use it as a context manager."""

    def __init__(self, *, err: bool = False) -> None:
        self._err = err
        self._live: Live | None = None
        self._last: tuple[int, ...] | None = None
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        if (sys.stderr if self._err else sys.stdout).isatty():
            from rich.live import Live

            self._live = Live(console=console(err=self._err), refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def show(self, progress: Progress) -> None:
        """Draw the newest state."""
        if self._live:
            self._live.update(_drawing(progress))
        else:
            self._print(progress)

    def _print(self, progress: Progress) -> None:
        counts = (progress.done, progress.not_ok, len(progress.running), progress.finished)
        if counts == self._last and time.monotonic() - self._printed_at < QUIET_LIMIT_S:
            return
        self._last, self._printed_at = counts, time.monotonic()
        now = "; ".join(running_line(job) for job in progress.running)
        click.echo(headline(progress) + (f" | {now}" if now else ""), err=self._err)


def headline(progress: Progress) -> str:
    """`12/27 runs done, 11 ok, 1 not ok, 1 running, 14 waiting, 1 min 10 s, about 2 min left`."""
    parts = [f"{progress.done}/{progress.total} runs done", f"{progress.ok} ok"]
    parts += [f"{progress.not_ok} not ok"] if progress.not_ok else []
    parts += [f"{progress.cancelled} cancelled"] if progress.cancelled else []
    parts += [f"{len(progress.running)} running"] if progress.running else []
    parts += [f"{progress.waiting} waiting"] if progress.waiting else []
    parts.append(duration(progress.elapsed_s))
    if progress.eta_s is not None:
        parts.append(f"about {duration(progress.eta_s)} left")
    return ", ".join(parts)


def running_line(job: Running) -> str:
    """`resnet18/pytorch/fp32 on host-cpu: batch 2 (2 of 3), process 3 of 5, measure 40 %`."""
    at = f"batch {job.batch_size} ({job.point} of {job.points}), " if job.batch_size else ""
    at += f"{job.process}, " if job.process else ""
    note = f" ({job.note})" if job.note else ""
    share = "" if job.fraction is None else f" {job.fraction:.0%}"
    return f"{job.name} on {job.device_id}: {at}{job.stage}{share}{note}"


def _drawing(progress: Progress) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    style = "yellow" if progress.not_ok else "green"
    bar = ProgressBar(total=max(progress.total, 1), completed=progress.done, width=60, complete_style=style)
    lines = [Text("  " + running_line(job), style="dim") for job in progress.running]
    return Group(Text(headline(progress)), bar, *lines)
