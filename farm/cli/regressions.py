# SPDX-License-Identifier: Apache-2.0
"""`farm regressions`: what changed from night to night, why it is believed, and what people think of it."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import click

from farm.cli.common import open_farm, print_json, print_table

if TYPE_CHECKING:
    from farm.history.model import Event
    from farm.regressions import Explained, Regressions

FORMAT = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
REASON = click.option("--reason", required=True, help="Why: shown wherever the event is.")
COLUMNS = ["event", "group", "state", "since", "device", "what", "metric", "change", "cause"]


@click.group()
def regressions() -> None:
    """What changed from night to night: regressions, improvements, and what no longer runs.

    \b
    Examples:
      farm regressions list
      farm regressions explain 3f9a
      farm regressions accept 3f9a --reason "the new kernel is slower, and needed"
    """


@regressions.command("list")
@click.option("--device", help="Only events of this device.")
@click.option("--state", help="Only events in this state: new, confirmed, unconfirmed, accepted, fixed, dismissed.")
@click.option("--all", "every", is_flag=True, help="Also events that are closed.")
@FORMAT
@click.pass_context
def list_(ctx: click.Context, device: str | None, state: str | None, every: bool, form: str) -> int:
    """List the open events: new, confirmed and unconfirmed ones.

    Events of one group have the same cause on the same device. `accept` takes a group's id as well.
    """
    found: Regressions = open_farm(ctx).regressions
    events = found.events(device=device, state=state, every=every)
    names = found.names(events)
    if form == "json":
        print_json([_document(event, names[event.event_id]) for event in events])
    elif events:
        print_table(None, COLUMNS, [_row(event, names[event.event_id]) for event in events])
    else:
        click.echo("no events" if every or state or device else "no open events; --all lists the closed ones")
    for problem in found.problems():
        click.echo(f"farm: left out: {problem}", err=True)
    return 0


@regressions.command()
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@REASON
@click.pass_context
def accept(ctx: click.Context, events: tuple[str, ...], reason: str) -> int:
    """Take what is now for right. EVENT is an event's id, the beginning of one, or a group's id.

    From the next night on the series is judged by its new level. `farm regressions reopen` takes it back.
    """
    return _say("accepted", open_farm(ctx).regressions.accept(*events, reason=reason, by=_user()))


@regressions.command()
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@REASON
@click.pass_context
def reopen(ctx: click.Context, events: tuple[str, ...], reason: str) -> int:
    """Take an acceptance back: the next night judges as if it had never been."""
    return _say("reopened", open_farm(ctx).regressions.reopen(*events, reason=reason, by=_user()))


@regressions.command()
@click.argument("event")
@FORMAT
@click.pass_context
def explain(ctx: click.Context, event: str, form: str) -> int:
    """Tell one EVENT in full: its history, what set it off, what was measured to settle it, causes and runs."""
    found: Explained = open_farm(ctx).regressions.explain(event)
    if form == "json":
        from farm.contract.codec import to_json

        points = [to_json(point) for point in found.points]
        print_json(_document(found.event, found.name) | {"points": points, "base": found.base, "new": found.new})
        return 0
    from farm.cli.explained import lines

    for line in lines(found):
        click.echo(line)
    return 0


@regressions.command()
@click.argument("event")
@click.option("--budget", "budget_s", type=float, default=3600.0, show_default=True, help="Device seconds at most.")
@click.option("--accept-flag", "accept", multiple=True, help="Take runs with this suspect flag as sound.")
@FORMAT
@click.pass_context
def confirm(ctx: click.Context, event: str, budget_s: float, accept: tuple[str, ...], form: str) -> int:
    """Measure before and now of one EVENT alternately, on the farm that runs, and say whether the change is there.

    It answers, and changes no event: nights do. What is recorded of it already is not measured again.
    """
    from farm.cli.explained import confirmation_line
    from farm.confirming import Terms, asked_of, settle_all

    farm = open_farm(ctx)
    wanted = asked_of(farm.regressions.explain(event))
    found = settle_all(farm, wanted, Terms(budget_s, accept=accept), lambda text: click.echo(text, err=True))
    if form == "json":
        from farm.contract.codec import to_json

        print_json([to_json(made) for made in found.confirmations])
        return 0
    for made in found.confirmations:
        click.echo(confirmation_line(made) if made.verdict else f"not settled: {made.reason}")
    return 0


def _row(event: Event, name: str) -> list[Any]:
    from farm.history.naming import changed

    cause = "; ".join(event.cause)
    return [
        event.event_id, event.group, str(event.state), event.since, event.device, name, event.metric, changed(event),
        cause,
    ]  # fmt: skip


def _document(event: Event, name: str) -> dict[str, Any]:
    from farm.contract.codec import to_json

    document: dict[str, Any] = to_json(event)
    return document | {"name": name}


def _say(what: str, events: list[Event]) -> int:
    for event in events:
        click.echo(f"{what} {event.event_id}: {event.device}, {event.metric}, since {event.since}")
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""  # a user without a name, as in a container
