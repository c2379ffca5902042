# SPDX-License-Identifier: Apache-2.0
"""`farm store`: copy it, see what fills it, compact old days, serve it to workers elsewhere, and their tokens."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from farm.cli.common import EXIT_NOT_OK, open_farm, print_table


@click.group()
def store() -> None:
    """Copy the store, show what fills it, compact old days; serve it over HTTPS to other workers, and their tokens."""


@store.command()
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DAY",
    help="Days before this one (UTC). Default: those older than FARM_COMPACT_AFTER_DAYS.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, only say what would be compacted.")
@click.pass_context
def compact(ctx: click.Context, before: datetime | None, dry_run: bool) -> int:
    """Put the records of each old day into one file; every command reads them as before.

    Each record is compared with its file before that goes. It may be stopped at any time, and goes on when it is run
    again. Records that come later lie beside their day's file until the next time.

    \b
    Example:
      farm store compact --before 2026-01-01 --dry-run
    """
    from farm.errors import UsageError
    from farm.store.compact import before_which

    farm = open_farm(ctx)
    if before is None and not farm.settings.compact_after_days:
        raise UsageError("compact_after_days is 0: no day is ever old enough", hint="Name a day: --before 2026-01-01.")
    limit = before_which(farm.settings.compact_after_days, before.date() if before else None)
    days, records, left = 0, 0, 0
    for done in farm.store.compact(limit, dry_run=dry_run):
        days, records, left = days + 1, records + done.records, left + len(done.left)
        sizes = f"{done.size_before / 1e6:.1f} MB" + ("" if dry_run else f", now {done.size_after / 1e6:.1f} MB")
        click.echo(f"{done.day.replace('/', '-')}: {_counted(done.records, 'record')}, {sizes}")
        for bad in done.left:
            click.echo(f"  left as it is: {bad.path}: {bad.problem}")
    told = "would be compacted" if dry_run else "compacted"
    click.echo(f"{_counted(records, 'record')} of {_counted(days, 'day')} {told}" + (f"; {left} left" if left else ""))
    return EXIT_NOT_OK if left else 0


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@store.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Really: a record that is removed is gone, unless a backup has it.")
@click.pass_context
def remove(ctx: click.Context, run: str, yes: bool) -> int:
    """Remove the record of RUN, compacted or not. Its artifacts go with the next `farm artifacts gc`."""
    from farm.errors import UsageError

    if not yes:
        raise UsageError(f"the record of {run} would be gone for good", hint="Add --yes if that is meant.")
    open_farm(ctx).store.remove_record(run)
    click.echo(f"the record of {run} is removed; `farm retry` measures its job again")
    return 0


@store.command()
@click.option("--port", type=click.IntRange(0, 65535), help="The port (default FARM_STORE_PORT, 8470).")
@click.option("--address", help="The address (default FARM_STORE_ADDRESS, 127.0.0.1). Any other needs a certificate.")
@click.pass_context
def serve(ctx: click.Context, port: int | None, address: str | None) -> int:
    """Serve the store until stopped. On the controller, as a user that may write the store."""
    import logging

    from farm.store_service.server import serve as serve_store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    changes = {"store_port": port, "store_address": address}
    settings = open_farm(ctx).settings
    serve_store(settings.model_copy(update={key: value for key, value in changes.items() if value is not None}))
    return 0


@store.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--device", "devices", metavar="ID", multiple=True, help="Only records of this device; may be repeated.")
@click.pass_context
def token(ctx: click.Context, name: str, file: Path, devices: tuple[str, ...]) -> int:
    """Give the worker NAME the token in FILE; where there is no such file, a new one is made and written there.

    Bring FILE to the worker and name it in FARM_STORE_TOKEN_FILE. What this farm keeps is its digest.
    """
    from farm.secrets import private_file, read_secret
    from farm.store_service.access import Access

    access = Access(open_farm(ctx).settings.access_dir)
    if file.exists():
        access.grant(name, devices, read_secret(file, "the token", str(file)))
        return 0
    made = access.grant(name, devices)
    private_file(file, made + "\n")
    click.echo(f"the token of {name} is in {file}")
    return 0


@store.command()
@click.argument("name")
@click.pass_context
def revoke(ctx: click.Context, name: str) -> int:
    """Refuse the worker NAME from now on. Its user at the broker is the broker's own matter."""
    from farm.store_service.access import Access

    Access(open_farm(ctx).settings.access_dir).revoke(name)
    click.echo(f"{name} is refused from now on")
    return 0


@store.command()
@click.pass_context
def create(ctx: click.Context) -> int:
    """Make a new store in the directory that the settings name. Harmless on a store that is there.

    `farm up` and `farm run` do it by themselves; where the parts are services, somebody has to, once.
    """
    kept = open_farm(ctx).store
    kept.create()
    click.echo(f"the store is in {kept.root}")
    return 0


@store.command()
@click.argument("to", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def copy(ctx: click.Context, to: Path) -> int:
    """Copy the store to the directory TO: a backup, a restore, a move. Repeated, it adds what is new.

    The farm may be at work meanwhile. TO is a store like any other: `farm --store TO results` reads it. Ends with 1
    when something could not be copied, and names it.

    \b
    Examples:
      farm store copy /mnt/backup/store
      farm --store /mnt/backup/store store copy /var/lib/inferfarm/store
    """
    from farm.store.copying import copy_store

    done = copy_store(open_farm(ctx).store, to)
    for problem in done.problems:
        click.echo(problem, err=True)
    left = f", {len(done.problems)} not as they should be" if done.problems else ""
    click.echo(f"{done.files} files copied, {done.size_bytes / 2**20:.1f} MiB; {done.present} were there{left}")
    return EXIT_NOT_OK if done.problems else 0


@store.command()
@click.pass_context
def usage(ctx: click.Context) -> int:
    """Show what fills the store: records, documents, and blobs by what they are. Reads every record."""
    import shutil

    from farm.store.usage import store_use

    kept = open_farm(ctx).store
    rows = store_use(kept)
    print_table(None, ["what", "files", "MiB"], [[use.what, use.files, use.size_bytes / 2**20] for use in rows])
    click.echo(f"free on its file system: {shutil.disk_usage(kept.root).free / 2**30:.1f} GiB")
    return 0
