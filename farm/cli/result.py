# SPDX-License-Identifier: Apache-2.0
"""`farm results`, `farm report`: what came out. Both read the store alone; no broker is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.common import SWEEP_FILE, open_farm, print_table

if TYPE_CHECKING:
    from farm.store.query import Table

#: What a person wants first; `--columns` and the other formats have everything.
COLUMNS = (
    "model",
    "workflow",
    "precision",
    "batch_size",
    "device_id",
    "outcome",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "throughput_per_s",
    "mismatch_1e_3_pct",
    "flags",
)
#: Shown where any row has another value than these.
OPTIONAL = (
    ("options", (None,)),
    ("scenario", (None, "single")),
    ("threads", (None,)),
    ("processes", (None, 1)),
    ("calibration", (None,)),
    ("top1", (None,)),
    ("top5", (None,)),
)


@click.command()
@click.argument("sweep", required=False)
@click.option("--where", metavar="SQL", help="""A condition, e.g. "model = 'resnet18' and latency_ms < 10".""")
@click.option("--columns", metavar="A,B", help="The columns to show; `--columns all` for every one.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv", "parquet"]), default="table", show_default=True
)
@click.option("-o", "--output", type=SWEEP_FILE, help="Write to this file (needed for Parquet).")
@click.option("--all-generations", is_flag=True, help="Also records that a retry has replaced.")
@click.pass_context
def results(
    ctx: click.Context,
    sweep: str | None,
    where: str | None,
    columns: str | None,
    form: str,
    output: Path | None,
    all_generations: bool,
) -> int:
    """Print the records of SWEEP, or of all sweeps, one row per run.

    \b
    Examples:
      farm results
      farm results quickstart --where "outcome <> 'ok'"
      farm results --where "latency_ms < 10 and batch_size = 1" --format csv -o fast.csv
    """
    from farm.errors import UnavailableError, UsageError

    if form == "parquet" and output is None:
        raise UsageError("Parquet is not text", hint="Name a file: `farm results --format parquet -o results.parquet`.")
    whole = open_farm(ctx).results(sweep, where=where, latest=not all_generations)
    table = whole.select(_columns(columns, form, whole))
    if form == "table" and output is None:
        print_table(None, table.columns, table.rows)
        if "latency_low_ms" in table.columns:
            _print_scopes(whole)
        return 0
    if output is None:
        click.echo(table.to_json() if form == "json" else table.to_csv(), nl=False)
        return 0
    try:
        table.write(output, form if form != "table" else "csv")
    except OSError as error:
        raise UnavailableError(f"{output} cannot be written: {error}") from error
    click.echo(f"{len(table.rows)} rows in {output}")
    return 0


def _columns(given: str | None, form: str, table: Table) -> list[str] | None:
    if given == "all" or (given is None and form != "table"):
        return None
    if given:
        return given.split(",")
    shown = [name for name, usual in OPTIONAL if {cell for (cell,) in table.select([name]).rows} - set(usual)]
    return [*COLUMNS[:-1], *shown, COLUMNS[-1]]


def _print_scopes(table: Table) -> None:
    """What the intervals cover: an interval within one run says nothing of the next one."""
    rows = table.select(["latency_confidence", "latency_scope"]).rows
    known = sorted({(str(scope), float(confidence)) for confidence, scope in rows if scope and confidence})
    if known:
        said = ", ".join(f"{100 * confidence:g} % {scope}" for scope, confidence in known)
        click.echo(f"latency_low_ms to latency_high_ms: {said}")


@click.command()
@click.argument("sweeps", metavar="[SWEEP]...", nargs=-1)
@click.option("-o", "--output", "out_dir", type=SWEEP_FILE, required=True, help="The directory to write to.")
@click.option("--title", help="The page's title (default: the sweeps' names).")
@click.option("--nightly", is_flag=True, help="The report of a night: SWEEP is its UTC date (default: the newest).")
@click.option("--paper", metavar="NAME", help="A paper's tables and figures: exploring-tensorrt, quantization-soc.")
@click.pass_context
def report(
    ctx: click.Context, sweeps: tuple[str, ...], out_dir: Path, title: str | None, nightly: bool, paper: str | None
) -> int:
    """Write the report of the SWEEPs named, or of all records: a self-contained page, Markdown, tables and figures.

    With --paper, the paper's own tables and figures instead, a page for each class of device.

    \b
    Examples:
      farm report quickstart -o report
      farm report --nightly -o report              the newest night: what changed, and its sweeps
      farm report --nightly 2026-11-21 -o report
      farm report --paper exploring-tensorrt -o paper
    """
    from farm.errors import UsageError

    farm = open_farm(ctx)
    if paper is not None:
        if nightly or title is not None:
            raise UsageError("--paper goes with neither --nightly nor a title", hint="Name sweeps to choose records.")
        for files in farm.report_paper(paper, *sweeps, out_dir=out_dir):
            click.echo(f"report: {files.html}")
        return 0
    if not nightly:
        click.echo(f"report: {farm.report(*sweeps, out_dir=out_dir, title=title).html}")
        return 0
    if len(sweeps) > 1 or title is not None:
        raise UsageError("--nightly takes one date, and no title", hint="Example: farm report --nightly 2026-11-21.")
    click.echo(f"report: {farm.report_night(*sweeps, out_dir=out_dir).html}")
    return 0
