# SPDX-License-Identifier: Apache-2.0
"""`farm devices`, `farm probe`, `farm doctor`: what there is, and whether it is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from farm.cli.common import EXIT_NOT_OK, duration, open_farm, print_json, print_table

if TYPE_CHECKING:
    from farm.broker.register import DeviceEntry

FORMAT = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.group(invoke_without_command=True)
@FORMAT
@click.pass_context
def devices(ctx: click.Context, form: str) -> int:
    """Show the farm's devices: class, state, whether a worker serves it, and what its stacks hold.

    \b
    Examples:
      farm devices
      farm devices canary
      farm devices drain lab1-cpu --reason "new fan"
      farm devices maintenance lab1-cpu --for 2h --reason "new fan"
      farm devices resume lab1-cpu
    """
    if ctx.invoked_subcommand is not None:
        return 0
    entries = open_farm(ctx).devices()
    if form == "json":
        from farm.contract.codec import to_json

        print_json(
            [
                to_json(e.announcement)
                | {"online": e.online, "age_s": e.age_s, "state": e.state, "canary": to_json(e.canary.state)}
                | {"reason": e.reason, "by": e.by, "since_s": e.since_s, "until_s": e.until_s}
                for e in entries
            ]
        )
    elif not entries:
        click.echo("no devices yet; `farm worker` on a machine serves its device")
    else:
        columns = ["device", "class", "state", "canary", "seen", "name", "stacks", "why"]
        print_table(None, columns, [_row(entry) for entry in entries])
        for entry in entries:
            _say_doubt(entry)
    return 0


def _row(entry: DeviceEntry) -> list[str]:
    device = entry.announcement.device
    state = entry.state if entry.online else f"offline ({entry.state})"
    stacks = ", ".join(f"{s.name} (Python {s.python_version})" for s in entry.announcement.stacks)
    seen = duration(entry.age_s) + " ago"
    why = entry.standing if entry.state != "ready" else ""
    return [device.device_id, device.device_class, state, _canary(entry), seen, device.name, stacks, why]


def _canary(entry: DeviceEntry) -> str:
    """`steady, 0.4 %`; with what is under way and what went wrong with the last one."""
    known = entry.canary.state
    at_work = "one is under way" if entry.canary.sweep_id else "one is asked for" if entry.canary.asked else ""
    words = [known.summary, known.note, known.problem, at_work] if known is not None else [at_work or "-"]
    return "; ".join(filter(None, words))


def _say_doubt(entry: DeviceEntry) -> None:
    """What a shifted canary means for what was measured on the device."""
    from farm.canary.state import minute

    known = entry.canary.state
    if known is None or not known.shifted:
        return
    since = minute(known.steady_at) if known.steady_at else "it was first used"
    click.echo(f"\n{entry.device_id}: {known.evidence}. What ran on it since {since} is doubtful.")


@devices.command()
@click.argument("devices_", metavar="[DEVICE]...", nargs=-1)
@click.option("--accept", is_flag=True, help="Begin a new series: how the device is now is taken for right.")
@FORMAT
@click.pass_context
def canary(ctx: click.Context, devices_: tuple[str, ...], accept: bool, form: str) -> int:
    """Make a canary now on each DEVICE, or on all that take jobs, ahead of everything that waits.

    A canary is one small job that is always the same: when its time changes, the device has changed. Ends with 0 when
    all are well or still make their baseline, with 1 when one has shifted or could not be judged.

    \b
    Examples:
      farm devices canary
      farm devices canary lab1-cpu --accept
    """
    from farm.cli.live import ProgressView

    with ProgressView(err=form == "json") as view:
        entries = open_farm(ctx).canary(*devices_, accept=accept, on_progress=view.show)
    if form == "json":
        from farm.contract.codec import to_json

        print_json([{"device_id": entry.device_id, "canary": to_json(entry.canary.state)} for entry in entries])
    else:
        print_table(None, ["device", "canary", "ms", "points"], [_canary_row(entry) for entry in entries])
        for entry in entries:
            _say_doubt(entry)
    return 0 if all(_well(entry) for entry in entries) else EXIT_NOT_OK


def _canary_row(entry: DeviceEntry) -> list[Any]:
    known = entry.canary.state
    latency, points = (known.latency_ms, known.points) if known else (None, 0)
    return [entry.device_id, _canary(entry), latency, points]


def _well(entry: DeviceEntry) -> bool:
    known = entry.canary.state
    return known is not None and not entry.canary.busy and not known.problem and known.verdict in ("steady", "baseline")


@devices.command()
@click.argument("device")
@click.option("--reason", default="", help="Shown by `farm devices`.")
@click.pass_context
def drain(ctx: click.Context, device: str, reason: str) -> int:
    """Let DEVICE finish its job and take no new one."""
    open_farm(ctx).set_device(device, "drained", reason or None)
    click.echo(f"{device} takes no new jobs; `farm devices resume {device}` ends that")
    return 0


@devices.command()
@click.argument("device")
@click.option("--for", "length", metavar="LENGTH", help="Such as 45min, 2h or 1.5d.")
@click.option("--until", metavar="TIME", help='Such as 14:30, or "2026-11-22 14:30"; this machine\'s time.')
@click.option("--reason", required=True, help="What is done to it; shown by `farm devices` and `farm status`.")
@click.pass_context
def maintenance(ctx: click.Context, device: str, length: str | None, until: str | None, reason: str) -> int:
    """Put DEVICE into maintenance: it ends its job, or hands it back as its worker is set, and takes no new one.

    At the end it comes back by itself, its canary first. Without an end it stays until `farm devices resume`. What
    ends with the host meanwhile counts neither against its jobs nor against the device.

    \b
    Examples:
      farm devices maintenance lab1-cpu --for 2h --reason "new fan"
      farm devices maintenance lab1-gpu0 --until 18:00 --reason "driver update"
    """
    from datetime import datetime

    from farm.errors import UsageError
    from farm.operating import length_s, moment_s

    if length and until:
        raise UsageError("--for and --until both say when it ends", hint="Give one of them.")
    now = datetime.now().astimezone()
    open_farm(ctx).maintenance(
        device,
        reason,
        for_s=length_s(length) if length else None,
        until_s=moment_s(until, now) if until else None,
    )
    ends = " before its end" if length or until else ""
    click.echo(f"{device} is in maintenance; `farm devices resume {device}` ends that{ends}")
    return 0


@devices.command()
@click.argument("device")
@click.pass_context
def resume(ctx: click.Context, device: str) -> int:
    """Let a DEVICE that is drained, quarantined or in maintenance take jobs again."""
    open_farm(ctx).set_device(device, "ready")
    click.echo(f"{device} takes jobs")
    return 0


@devices.command()
@click.argument("device")
@click.option("--reason", required=True, help="What is wrong with it; shown by `farm devices`.")
@click.pass_context
def quarantine(ctx: click.Context, device: str, reason: str) -> int:
    """Trust DEVICE no longer: it takes no new jobs until it is resumed."""
    open_farm(ctx).set_device(device, "quarantined", reason)
    click.echo(f"{device} is quarantined; `farm devices resume {device}` ends that")
    return 0


@click.command()
@FORMAT
@click.pass_context
def probe(ctx: click.Context, form: str) -> int:
    """Show this machine's devices, what each of its stacks can do, and what runs there and why the rest does not."""
    from farm.cli.probed import show
    from farm.contract.codec import to_json

    found = open_farm(ctx).probe()
    if form == "json":
        print_json([to_json(announcement) for announcement in found])
        return 0
    for number, announcement in enumerate(found):
        click.echo("\n" if number else "", nl=False)
        show(announcement)
    return 0


@click.command()
@FORMAT
@click.pass_context
def doctor(ctx: click.Context, form: str) -> int:
    """Check this machine and its farm. Ends with 0 when all is well, with 1 when something needs mending."""
    from farm.cli.checks import run_checks

    checks = run_checks(open_farm(ctx).settings)
    if form == "json":
        print_json([vars(check) for check in checks])
    else:
        print_table(None, ["check", "result", "detail", "what to do"], [check.row() for check in checks])
    return 1 if any(check.result == "bad" for check in checks) else 0
