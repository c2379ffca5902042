# SPDX-License-Identifier: Apache-2.0
"""`farm artifacts`: what runs left in the store."""

from __future__ import annotations

from pathlib import Path

import click

from farm.cli.common import SWEEP_FILE, open_farm, print_json, print_table


@click.group()
def artifacts() -> None:
    """List, fetch, verify and clear up the files that runs left: models, raw samples, references, logs."""


@artifacts.command()
@click.argument("sweep", required=False)
@click.option("--run", help="Only this run's.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def ls(ctx: click.Context, sweep: str | None, run: str | None, form: str) -> int:
    """List artifacts: of SWEEP, of one run, or all."""
    farm = open_farm(ctx)
    rows = farm.store.artifacts(sweep_id=farm.stored_sweep(sweep), run_id=run)
    if form == "json":
        print_json([vars(row) for row in rows])
        return 0
    table = [[r.run_id, f"{r.kind} ({r.process})" if r.process else r.kind, r.size_bytes, r.sha256] for r in rows]
    print_table(None, ["run", "kind", "bytes", "sha256"], table)
    return 0


@artifacts.command()
@click.argument("sha256")
@click.option("-o", "--output", type=SWEEP_FILE, required=True, help="The file to write.")
@click.pass_context
def get(ctx: click.Context, sha256: str, output: Path) -> int:
    """Write the artifact SHA256 to a file, after checking that its bytes are the recorded ones."""
    from farm.contract.names import check_sha256
    from farm.errors import UsageError

    try:
        check_sha256(sha256)
    except ValueError as error:
        raise UsageError(str(error), hint="`farm artifacts ls` lists the digests.") from error
    open_farm(ctx).store.blobs.get(sha256, output)
    click.echo(str(output))
    return 0


@artifacts.command()
@click.pass_context
def verify(ctx: click.Context) -> int:
    """Read every record and every artifact and check them: digests, names, references. Ends with 1 on any problem."""
    problems = list(open_farm(ctx).store.verify())
    for problem in problems:
        click.echo(str(problem))
    click.echo(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}")
    return 1 if problems else 0


@artifacts.command()
@click.option("--dry-run", is_flag=True, help="Remove nothing, only say what would be removed.")
@click.option(
    "--grace-days",
    type=click.FloatRange(min=1),
    default=14,
    show_default=True,
    help="Leave alone what is younger: a worker that was cut off may be about to refer to it.",
)
@click.option("--despite-damage", is_flag=True, help="Go on although a record is damaged or names a missing artifact.")
@click.pass_context
def gc(ctx: click.Context, dry_run: bool, grace_days: float, despite_damage: bool) -> int:
    """Remove artifacts that no record, sweep, baseline or report in the store refers to.

    Also puts the records of days older than FARM_COMPACT_AFTER_DAYS into one file a day.

    \b
    Example:
      farm artifacts gc --dry-run
    """
    farm = open_farm(ctx)
    store = farm.store
    if farm.settings.compact_after_days and not dry_run:
        from farm.store.compact import before_which

        for done in store.compact(before_which(farm.settings.compact_after_days)):
            click.echo(f"{done.day.replace('/', '-')}: {done.records} records compacted", err=True)
    found = store.collect_garbage(grace_s=grace_days * 86_400, dry_run=dry_run, despite_damage=despite_damage)
    for info in found.removed:
        click.echo(f"{info.sha256} {info.size_bytes}")
    told = "would be removed" if dry_run else "removed"
    click.echo(
        f"{len(found.removed)} {told}, {found.size_bytes / 2**20:.1f} MiB; kept: "
        f"{found.referred} that are referred to, {found.kept_young} younger than {grace_days:g} days"
    )
    return 0
