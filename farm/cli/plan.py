# SPDX-License-Identifier: Apache-2.0
"""What `farm submit` prints: the plan of a dry run, or what a submission did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from farm.cli.common import print_table

if TYPE_CHECKING:
    from scheduler.submit import Plan, Submission

#: A list longer than this is cut, and the cut is said.
MAX_ROWS = 200


def print_plan(plan: Plan) -> None:
    """Every job with where it would go, what is recorded already, and every refusal with its reason."""
    rows: list[list[Any]] = []
    for job in plan.jobs[:MAX_ROWS]:
        sizes = ", ".join(map(str, job.batches.sizes)) + (", accuracy" if job.accuracy else "")
        sizes = f"pipeline at {sizes}" if job.pipeline else sizes
        done = "recorded already" if job.job_id in plan.recorded else ""
        rows.append([job.job_id, job.name, sizes, job.target.device_id or f"any {job.target.device_class}", done])
    runs = sum(len(job.run_ids()) for job in plan.jobs)
    click.echo(f"sweep {plan.sweep_id}: {_count(len(plan.jobs), 'job')}, {_count(runs, 'run')}")
    print_table(None, ["job", "name", "batch sizes", "device", ""], rows)
    _say_cut(len(plan.jobs))
    _print_refusals(plan.refusals)
    for note in plan.notes:
        click.echo(f"note: {note}")
    click.echo("dry run: nothing was submitted")


def print_submission(done: Submission) -> None:
    """What was queued, what was known or recorded already, and every refusal."""
    known = done.total - done.new - done.recorded
    parts = [f"{_count(done.new, 'job')} queued"]
    parts += [f"{known} queued before"] if known else []
    parts += [f"{done.recorded} recorded already"] if done.recorded else []
    parts += [f"{len(done.refusals)} refused"] if done.refusals else []
    click.echo(f"sweep {done.sweep_id}: {', '.join(parts)}")
    _print_refusals(done.refusals)
    for note in done.notes:
        click.echo(f"note: {note}")
    if not done.new and not done.refusals:
        click.echo("`--again` measures once more what is recorded.")


def _print_refusals(refusals: Sequence[Any]) -> None:
    if not refusals:
        return
    rows = [
        [refused.job.name, refused.target.device_id or refused.target.device_class, refused.reason, refused.hint]
        for refused in refusals[:MAX_ROWS]
    ]
    print_table("Refused", ["name", "device", "why", "what to do"], rows)
    _say_cut(len(refusals))


def _say_cut(count: int) -> None:
    if count > MAX_ROWS:
        click.echo(f"... and {count - MAX_ROWS} more")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
