# SPDX-License-Identifier: Apache-2.0
"""`farm demo-history`: a history to look at before there is one of your own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo-history")
@click.argument("directory", type=click.Path(path_type=Path))
def demo_history(directory: Path) -> int:
    """Write a store of 30 made-up nights on 4 simulated devices to DIRECTORY, which must be new or empty.

    Nothing in it was measured, and every record says so. Some changes were put in on purpose: a step after a library's
    update, a smaller one, an improvement, a device that slowed down as a whole, more memory, less accuracy, a job that
    fails; and a drift and a spike that are no changes.

    \b
    Example:
      farm demo-history demo
      farm --store demo regressions list
      farm --store demo nightly index -o pages
    """
    from farm.demo import write_demo

    made = write_demo(directory)
    click.echo(
        f"{directory}: {len(made.nights)} simulated nights, {made.records} records, "
        f"{made.confirmations} changes measured again"
    )
    click.echo(f"  farm --store {directory} regressions list")
    click.echo(f"  farm --store {directory} nightly index -o pages")
    return 0
