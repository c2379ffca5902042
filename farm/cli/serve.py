# SPDX-License-Identifier: Apache-2.0
"""`farm scheduler`, `farm flower`: the parts, each in the foreground."""

from __future__ import annotations

import click

from farm.cli.common import open_farm


@click.command()
@click.pass_context
def scheduler(ctx: click.Context) -> int:
    """Decide what runs when. One scheduler per farm; a second one is refused and told who is at work."""
    from scheduler.main import serve

    serve(open_farm(ctx).settings)
    return 0


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port (default FARM_FLOWER_PORT, 5555).")
@click.option("--address", help="The address (default FARM_FLOWER_ADDRESS, 127.0.0.1). Any other asks for a login.")
@click.pass_context
def flower(ctx: click.Context, port: int | None, address: str | None) -> int:
    """Serve Flower's pages: tasks by job name, workers, queues. Read-only.

    On an address that other machines reach, a login is asked for: user `farm`, password in HOME/flower.password.
    """
    from farm.broker.flower import serve

    settings = open_farm(ctx).settings
    changes = {"flower_port": port, "flower_address": address}
    serve(settings.model_copy(update={key: value for key, value in changes.items() if value is not None}))
    return 0
