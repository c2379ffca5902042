# SPDX-License-Identifier: Apache-2.0
"""`farm devices`, `farm probe`, `farm doctor`: what there is, and whether it is well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from farm.cli.common import duration, open_farm, print_json, print_table

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
      farm devices drain lab1-cpu --reason "new fan"
      farm devices resume lab1-cpu
    """
    if ctx.invoked_subcommand is not None:
        return 0
    entries = open_farm(ctx).devices()
    if form == "json":
        from farm.contract.codec import to_json

        print_json(
            [to_json(e.announcement) | {"online": e.online, "age_s": e.age_s, "state": e.state} for e in entries]
        )
    elif not entries:
        click.echo("no devices yet; `farm worker` on a machine serves its device")
    else:
        print_table(None, ["device", "class", "state", "seen", "name", "stacks", "why"], [_row(e) for e in entries])
    return 0


def _row(entry: DeviceEntry) -> list[str]:
    device = entry.announcement.device
    state = entry.state if entry.online else f"offline ({entry.state})"
    stacks = ", ".join(f"{s.name} (Python {s.python_version})" for s in entry.announcement.stacks)
    seen = duration(entry.age_s) + " ago"
    return [device.device_id, device.device_class, state, seen, device.name, stacks, entry.reason or ""]


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
@click.pass_context
def resume(ctx: click.Context, device: str) -> int:
    """Let a drained or quarantined DEVICE take jobs again."""
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
