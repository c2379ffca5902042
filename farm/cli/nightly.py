# SPDX-License-Identifier: Apache-2.0
"""`farm nightly`: run nights, show them, keep them running."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.common import EXIT_INTERRUPTED, EXIT_NOT_OK, SWEEP_FILE, open_farm, print_json, print_table

if TYPE_CHECKING:
    from scheduler.nightly.status import Status


@click.group()
def nightly() -> None:
    """Measure the same sweeps every night, and say what changed.

    What runs, when, and who is told is in the [nightly] table of farm.toml (examples/farm-nightly.toml). A night:
    canaries, the sweeps until the deadline, canaries again, judgement, re-runs of what looks changed, report,
    notification where something changed. docs/nightly.md explains each step.

    \b
    Examples:
      farm nightly run --now               a night at once, with the farm that runs (`farm up`)
      farm nightly status                  the last nights, the next one, what it does right now
      farm nightly index -o pages          all nights and series as pages
      farm nightly install --user          a systemd unit that keeps `farm nightly run --serve` running
    """


@nightly.command()
@click.option("--now", "at_once", is_flag=True, help="Begin tonight's night at once; one a UTC date.")
@click.option("--night", metavar="DATE", help="Go on with this night; one that is done gets its report again.")
@click.option(
    "--label", "labels", multiple=True, metavar="LABEL", help="Only sweeps with this label, whatever the day."
)
@click.option("--serve", is_flag=True, help="Stay, and run each night at its time (embeds Celery beat; one per farm).")
@click.pass_context
def run(ctx: click.Context, at_once: bool, night: str | None, labels: tuple[str, ...], serve: bool) -> int:
    """Run what is due: go on with a night that was stopped, then the one whose time has come.

    Nothing is ever measured twice: a night that was killed goes on where it stood, and there is one night a UTC date.
    The farm itself (broker, scheduler, workers) must be running: `farm up`, or its parts.

    \b
    Examples:
      farm nightly run                     what is due now, then end (for a timer of your own)
      farm nightly run --now --label weekly
      farm nightly run --night 2026-11-21  its report and the index once more
    """
    from farm import nightly as real
    from farm.errors import UsageError
    from scheduler.nightly.run import Asked
    from scheduler.nightly.world import InterruptedNightError

    if serve and (at_once or night or labels):
        raise UsageError("--serve runs nights at their times", hint="Leave --now, --night and --label out.")
    if at_once and night:
        raise UsageError("--now begins a night, --night names one that is there", hint="Use one of them.")
    farm = open_farm(ctx)
    if serve:
        real.serve(farm)  # Celery sets up logging
        return 0
    _log_to_stderr()
    try:
        with _Signals() as signals:
            gone = real.run(farm, Asked(at_once or bool(labels), night, labels), stop=signals.stopped)
    except InterruptedNightError:
        click.echo("farm: the night was left; `farm nightly run` goes on with it", err=True)
        return EXIT_INTERRUPTED
    return _tell(ctx, gone)


def _tell(ctx: click.Context, gone: list[str]) -> int:
    from farm.nightly import nightly_status

    farm = open_farm(ctx)
    told = nightly_status(farm)
    lines = {line.night: line for line in told.nights}
    for name in gone:
        line = lines[name]
        click.echo(f"night {name}: {line.ok} of {line.records} records ok, {line.missing} jobs missing")
        for problem in line.problems:
            click.echo(f"  problem: {problem}")
        click.echo(f"report: {farm.settings.nightly_report_dir / line.report}")
    if not gone:
        click.echo(f"Nothing is due. The next night is at {told.next_at}." if told.next_at else "No nights are set up.")
    return EXIT_NOT_OK if any(lines[name].problems or lines[name].missing for name in gone) else 0


@nightly.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--last", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many nights.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, last: int) -> int:
    """Show the last nights, the next one, and what the nightly does right now. Works without a broker, too."""
    from farm.nightly import nightly_status

    told = nightly_status(open_farm(ctx), last=last)
    if as_json:
        print_json(dataclasses.asdict(told))
        return 0
    _show(told)
    return 0


def _show(told: Status) -> None:
    click.echo(f"nights: {told.schedule or 'none set up: name sweeps under [[nightly.sweeps]] in farm.toml'}")
    if told.next_at:
        click.echo(f"next:   {told.next_at}, {'served by ' + told.serving if told.serving else 'nobody serves it'}")
    if told.step:
        who = f" by {told.running}" if told.running else ", stopped: `farm nightly run` goes on"
        click.echo(f"now:    {told.step.replace('_', ' ')}, {told.steps_done} of {told.steps} steps done{who}")
        if told.step == "wait":
            click.echo(f"        {told.open_jobs} jobs to go")
    elif told.due:
        click.echo(f"due:    {told.due}")
    if told.missed:
        click.echo(f"missed: {', '.join(told.missed)}")
    rows = [
        (n.night, n.state, n.began_at, n.records, n.ok, n.missing, ", ".join(f"{c} {s}" for s, c in n.events.items()))
        for n in told.nights
    ]
    if rows:
        print_table(None, ("night", "state", "began", "records", "ok", "missing", "open events"), rows)
    for n in told.nights:
        for problem in n.problems:
            click.echo(f"{n.night}: {problem}")


@nightly.command()
@click.option("-o", "--output", "out_dir", type=SWEEP_FILE, help="The directory (default: `report_dir` of [nightly]).")
@click.option(
    "--reports",
    default=1,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="How many nights are to have a report.",
)
@click.pass_context
def index(ctx: click.Context, out_dir: Path | None, reports: int) -> int:
    """Write the pages of all nights: an index, a page for each series, and the newest nights' reports.

    Every night does this by itself. A report that is there is kept; `farm nightly run --night DATE` makes it again.

    \b
    Example:
      farm nightly index -o pages --reports 7
    """
    farm = open_farm(ctx)
    root = out_dir or farm.settings.nightly_report_dir
    click.echo(f"index: {farm.publish_nights(root, reports).html}")
    return 0


@nightly.command()
@click.option("--user", "user_unit", is_flag=True, help="For your own systemd (`systemctl --user`).")
@click.option("--as", "account", default="", metavar="NAME", help="The account that it runs as (system units).")
@click.option("-o", "--output", "out_dir", type=SWEEP_FILE, help="Write it to this directory; without: print it.")
@click.option("--enable", is_flag=True, help="Write it to where systemd looks, and enable and start it.")
@click.pass_context
def install(ctx: click.Context, user_unit: bool, account: str, out_dir: Path | None, enable: bool) -> int:
    """Print the systemd unit of `farm nightly run --serve`, or write it; nothing is started unless --enable.

    \b
    Examples:
      farm nightly install --user --enable
      farm nightly install --as inferfarm -o /etc/systemd/system
    """
    from scheduler.nightly import units

    settings = open_farm(ctx).settings
    text = units.unit(settings, user_unit=user_unit, user=account)
    if out_dir is None and not enable:
        click.echo(text, nl=False)
        return 0
    path = units.write_unit(text, out_dir or units.default_directory(user_unit=user_unit))
    click.echo(f"written: {path}")
    if enable:
        units.enable(user_unit=user_unit)
        click.echo(f"enabled and started: {units.NAME}")
    return 0


class _Signals:
    """Ctrl-C and SIGTERM ask the night to be left at its next step."""

    def __init__(self) -> None:
        self._told = False

    def stopped(self) -> bool:
        return self._told

    def __enter__(self) -> _Signals:
        import signal

        self._before = {n: signal.signal(n, self._hear) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        import signal

        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, _number: int, _frame: object) -> None:
        self._told = True


def _log_to_stderr() -> None:
    log = logging.getLogger("inferfarm")
    if not log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
