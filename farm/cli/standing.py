# SPDX-License-Identifier: Apache-2.0
"""The lower part of `farm status`: what each device holds, and what waits for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from farm.cli.common import duration, print_table
from farm.waiting import why_waiting

if TYPE_CHECKING:
    from farm.broker.register import DeviceEntry
    from farm.broker.standing import Held


def print_standing(entries: Sequence[DeviceEntry], held: Sequence[Held], depth: Mapping[str, int]) -> None:
    """Print a line for each device that holds a job or takes none, the others in a word, then the queues."""
    rows, idle = standing_rows(entries, held)
    if rows:
        click.echo()
        print_table(None, ["device", "state", "job", "held", "lease", "seen"], rows)
    if idle:
        click.echo(f"{idle} {'device takes jobs and has' if idle == 1 else 'devices take jobs and have'} none")
    reasons = why_waiting(depth, entries)
    for target, count in sorted(depth.items()):
        why = f": {reasons[target]}" if target in reasons else ""
        click.echo(f"{count} {'job waits' if count == 1 else 'jobs wait'} for {target}{why}")


def standing_rows(entries: Sequence[DeviceEntry], held: Sequence[Held]) -> tuple[list[list[str]], int]:
    """The devices' rows, and how many devices are idle and well. Pure."""
    rows, idle = [], 0
    for entry in entries:
        mine = [job for job in held if job.device_id == entry.device_id]
        if entry.takes_jobs and not mine:
            idle += 1
            continue
        state = entry.state if entry.takes_jobs else entry.standing
        ago = duration(entry.age_s) + " ago"
        rows += [[entry.device_id, state, job.name, duration(job.held_s), _lease(job.left_s), ago] for job in mine] or [
            [entry.device_id, state, "-", "-", "-", ago]
        ]
    return rows, idle


def _lease(left_s: float) -> str:
    """A lease that has ended stays listed until the scheduler takes the job back."""
    return f"{duration(left_s)} left" if left_s >= 0 else f"over by {duration(-left_s)}"
