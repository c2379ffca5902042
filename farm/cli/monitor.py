# SPDX-License-Identifier: Apache-2.0
"""`farm metrics`, `farm healthcheck`: the farm for Prometheus, and one part of it for whoever restarts it."""

from __future__ import annotations

import click

from farm.cli.common import EXIT_NOT_OK, open_farm


@click.group()
def metrics() -> None:
    """Serve the farm's numbers for Prometheus, or print them once.

    Queues, devices, jobs by state, outcomes, how long jobs took, leases, canaries and the last night. A broker's user
    with the role `reader` is enough. `farm status` and `farm devices` show the same facts without it.

    \b
    Examples:
      farm metrics serve
      farm metrics show
    """


@metrics.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port (default FARM_METRICS_PORT, 9464).")
@click.option("--address", help="The address (default FARM_METRICS_ADDRESS, 127.0.0.1). Any other asks for a login.")
@click.pass_context
def serve(ctx: click.Context, port: int | None, address: str | None) -> int:
    """Serve /metrics until stopped.

    On an address that other machines reach, a login is asked for: user `farm`, password in HOME/metrics.password.
    """
    from farm.monitoring.serve import serve as run

    changes = {"metrics_port": port, "metrics_address": address}
    settings = open_farm(ctx).settings
    run(settings.model_copy(update={k: v for k, v in changes.items() if v is not None}), click.echo)
    return 0


@metrics.command()
@click.pass_context
def show(ctx: click.Context) -> int:
    """Print what would be served now."""
    from prometheus_client import generate_latest

    from farm.monitoring.serve import registry_of

    click.echo(generate_latest(registry_of(open_farm(ctx).settings)).decode(), nl=False)
    return 0


@click.command()
@click.argument("role", type=click.Choice(("scheduler", "nightly", "worker", "flower", "metrics")))
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when it is well.")
@click.pass_context
def healthcheck(ctx: click.Context, role: str, quiet: bool) -> int:
    """Say whether ROLE is at work on this host: 0 if so, 1 if not. Made for containers: one question, no more.

    \b
    Examples:
      farm healthcheck worker
    """
    import redis

    from farm.errors import UnavailableError
    from farm.healthcheck import check

    try:
        well = check(open_farm(ctx).settings, role)
    except (UnavailableError, redis.RedisError) as error:
        click.echo(f"{role}: {error}", err=True)
        return EXIT_NOT_OK
    if not quiet:
        click.echo(well)
    return 0
