# SPDX-License-Identifier: Apache-2.0
"""`farm worker`, `farm scheduler`, `farm flower`: the parts, each in the foreground."""

from __future__ import annotations

import click

from farm.cli.common import open_farm


@click.command()
@click.option("--device", metavar="ID", help="The device to serve (default: this machine's CPU).")
@click.pass_context
def worker(ctx: click.Context, device: str | None) -> int:
    """Serve one device of this machine: one job at a time, alone on its hardware.

    A second worker for the same device is refused. SIGTERM lets the running job finish first.

    \b
    On another machine than the broker's:
      FARM_BROKER_URL=redis://HOST:PORT/0 FARM_BROKER_PASSWORD_FILE=password FARM_STORE=/mnt/store farm worker
    """
    from workers.daemon.serve import serve

    serve(open_farm(ctx).settings, device)
    return 0


@click.command()
@click.pass_context
def scheduler(ctx: click.Context) -> int:
    """Decide what runs when. One scheduler per farm; a second one is refused and told who is at work."""
    from scheduler.main import serve

    serve(open_farm(ctx).settings)
    return 0


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port (default FARM_FLOWER_PORT, 5555).")
@click.pass_context
def flower(ctx: click.Context, port: int | None) -> int:
    """Serve Flower's pages on the loopback address: tasks by job name, workers, queues. Read-only."""
    from farm.broker.celery_app import make_app
    from farm.broker.connection import broker_url

    settings = open_farm(ctx).settings
    app = make_app(settings, broker_url(settings))
    # Without a login it stays on the loopback address and read-only: its pages can revoke and shut down otherwise.
    app.start(
        [
            "flower",
            "--address=127.0.0.1",
            f"--port={port or settings.flower_port}",
            "--read_only=True",
            "--max_tasks=20000",
            "--purge_offline_workers=86400",
        ]
    )
    return 0
