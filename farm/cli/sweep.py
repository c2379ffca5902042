# SPDX-License-Identifier: Apache-2.0
"""`farm submit`, `status`, `watch`, `cancel`, `retry`: sweeps and jobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.common import EXIT_NOT_OK, SWEEP_FILE, duration, open_farm, print_json, print_table

if TYPE_CHECKING:
    from farm.api import Farm
    from farm.broker.jobs import JobView, SweepView
    from farm.progress import Progress

#: States of jobs that nobody has claimed yet.
_WAITING = ("queued", "dispatched")

#: So many jobs of a sweep are shown where nothing else is said.
_SHOWN = 100

PRIORITY = click.IntRange(0, 9)


@click.command()
@click.argument("sweep", type=SWEEP_FILE)
@click.option("--watch", "follow", is_flag=True, help="Follow the sweep until it ends.")
@click.option("--priority", type=PRIORITY, help="0 to 9, 9 first. Given for a known sweep, it changes what waits.")
@click.option("--dry-run", is_flag=True, help="Show the jobs, where each would go, and refusals; change nothing.")
@click.option("--again", is_flag=True, help="Measure once more although the sweep was submitted before.")
@click.pass_context
def submit(ctx: click.Context, sweep: Path, follow: bool, priority: int | None, dry_run: bool, again: bool) -> int:
    """Send SWEEP to the farm. Sending the same sweep twice adds nothing, unless --again.

    \b
    Examples:
      farm submit examples/quickstart.yaml --dry-run
      farm submit examples/quickstart.yaml --priority 9 --watch
    """
    from farm.cli.plan import print_plan, print_submission
    from farm.sweep import load_sweep

    farm = open_farm(ctx)
    spec = load_sweep(sweep)
    if dry_run:
        print_plan(farm.plan(spec, again=again))
        return 0
    submission = farm.submit(spec, priority=priority, again=again)
    print_submission(submission)
    return _follow(farm, submission.sweep_id) if follow else 0


@click.command()
@click.argument("sweep", required=False)
@click.option("--state", "wanted", help="Only SWEEP's jobs in one of these states, e.g. failed,running.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help=f"So many of SWEEP's jobs: at work, gone wrong, waiting, over. Default: {_SHOWN}, json: all; 0: all.",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def status(ctx: click.Context, sweep: str | None, wanted: str | None, limit: int | None, form: str) -> int:
    """Show all sweeps, what devices hold and what waits, or the jobs of one SWEEP (its id, its beginning, its name).

    Runs are counted by outcome, the newest sweeps first, as far as quickly told. "held" is how long a device has had
    its job, "lease" how long it may keep it if its worker falls silent. Canaries that have ended are left out of the
    list: `farm devices` has their verdicts.

    \b
    Example:
      farm status quickstart --state running,failed
    """
    from farm.errors import UsageError

    farm = open_farm(ctx)
    if sweep:
        states = _states(wanted) if wanted else []
        most = limit if limit is not None or form == "json" else _SHOWN
        jobs = farm.status(sweep, states=states, limit=most or None)
        _print_jobs(jobs, farm.waiting(job.target_key for job in jobs if job.state in _WAITING), form)
        if form == "table":
            _print_rest(len(jobs), farm.find_sweep(sweep).counts, states)
    elif wanted or limit is not None:
        raise UsageError("--state and --limit are about the jobs of one sweep", hint="Name it: farm status SWEEP ...")
    else:
        _print_sweeps(farm, form)
    return 0


@click.command()
@click.argument("sweep")
@click.pass_context
def watch(ctx: click.Context, sweep: str) -> int:
    """Follow SWEEP until it ends: done, running and failed runs, the current stage, the time left.

    Ends with 0 when every run is ok, with 1 otherwise. Stopping the watch leaves the sweep alone.
    """
    farm = open_farm(ctx)
    return _follow(farm, farm.find_sweep(sweep).sweep_id)


@click.command()
@click.argument("name", metavar="SWEEP|JOB")
@click.pass_context
def cancel(ctx: click.Context, name: str) -> int:
    """Cancel a sweep or a job: what waits at once, what runs as soon as its worker hears of it."""
    done = open_farm(ctx).cancel(name)
    click.echo(f"{done.at_once} cancelled, {done.asked} running and asked to stop")
    return 0


@click.command()
@click.argument("name", metavar="SWEEP|JOB")
@click.option("--outcome", help="Only jobs that have a run with one of these outcomes, e.g. failed,lost.")
@click.pass_context
def retry(ctx: click.Context, name: str, outcome: str | None) -> int:
    """Run the runs of a sweep or a job again that are not ok. Their old records stay; results show the newest.

    \b
    Example:
      farm retry quickstart --outcome crashed,timed_out
    """
    farm = open_farm(ctx)
    count = farm.retry(name, outcomes=_outcomes(outcome)) if outcome else farm.retry(name)
    click.echo(f"{count} {'job' if count == 1 else 'jobs'} queued again")
    return 0


def _outcomes(text: str) -> list[Any]:
    from farm.contract.outcome import Outcome

    return _named(text, Outcome, "outcome")


def _states(text: str) -> list[Any]:
    from farm.broker.jobs import JobState

    return _named(text, JobState, "state")


def _named(text: str, kind: Iterable[Any], what: str) -> list[Any]:
    from farm.errors import UsageError

    known = {str(one): one for one in kind}
    wrong = [word for word in text.split(",") if word not in known]
    if wrong:
        raise UsageError(f"no {what} {', '.join(map(repr, wrong))}", hint=f"{what.capitalize()}s: {', '.join(known)}.")
    return [known[word] for word in text.split(",")]


def _follow(farm: Farm, sweep_id: str) -> int:
    from farm.cli.live import ProgressView, headline

    last: Progress | None = None
    with ProgressView() as view:
        for last in farm.watch(sweep_id):
            view.show(last)
    if last is None:
        return 0
    click.echo(headline(last))
    return EXIT_NOT_OK if last.not_ok or last.cancelled else 0


def _print_sweeps(farm: Farm, form: str) -> None:
    from farm.canary import NAME as CANARY
    from farm.cli.standing import print_standing

    sweeps = farm.sweeps()
    runs = farm.outcomes(sweeps)
    if form == "json":
        print_json([vars(sweep) | {"outcomes": runs.get(sweep.sweep_id)} for sweep in sweeps])
        return
    sweeps = [sweep for sweep in sweeps if sweep.name != CANARY or not _ended(sweep)]
    if sweeps:
        rows = [
            [s.sweep_id, s.priority, _state_words(s.counts), _state_words(runs.get(s.sweep_id) or {}), _ago(s)]
            for s in sweeps
        ]
        print_table(None, ["sweep", "priority", "jobs", "runs", "submitted"], rows)
    else:
        click.echo("no sweeps yet; `farm submit SWEEP.yaml` sends one")
    print_standing(farm.devices(), farm.held(), farm.queue_depth())


def _ago(sweep: SweepView) -> str:
    return duration(time.time() - sweep.submitted_at) + " ago"


def _ended(sweep: SweepView) -> bool:
    from farm.broker.jobs import ENDED

    return all(state in ENDED for state in sweep.counts)


def _state_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "none"


def _print_jobs(jobs: list[JobView], held: dict[str, str], form: str) -> None:
    if form == "json":
        keys = ("job_id", "name", "state", "device_id", "attempt", "priority", "progress", "summary", "times", "reason")
        print_json([{key: getattr(job, key) for key in keys} | {"waits_for": _held(job, held)} for job in jobs])
        return
    rows = [[j.job_id, j.name, str(j.state), j.device_id or j.target_key, j.attempt, _note(j)] for j in jobs]
    print_table(None, ["job", "name", "state", "device", "attempt", "note"], rows)
    counts = Counter(job.target_key for job in jobs if _held(job, held))
    for target, count in sorted(counts.items()):
        click.echo(f"{count} {'job waits' if count == 1 else 'jobs wait'}: {held[target]}")


def _print_rest(shown: int, counts: Mapping[str, int], states: Collection[Any]) -> None:
    """What of a large sweep is not in the table."""
    found = {state: count for state, count in counts.items() if not states or state in states}
    total = sum(found.values())
    if shown < total:
        click.echo(f"{shown} of {total:,} jobs shown ({_state_words(found)}); --state and --limit choose others")


def _held(job: JobView, held: dict[str, str]) -> str | None:
    """What a job that waits, waits for, where no device could take it."""
    return held.get(job.target_key) if job.state in _WAITING else None


def _note(job: JobView) -> str:
    if job.state.ended:
        return ", ".join(f"{n} {outcome}" for outcome, n in job.summary.get("outcomes", {}).items())
    if job.progress and job.state.value in ("claimed", "running"):
        at = job.progress
        point = f"{at.get('point', 0)} of {at.get('points', '?')}"
        return f"{at.get('stage', '')} batch {at.get('batch_size') or '-'} ({point})"
    return job.reason or ""
