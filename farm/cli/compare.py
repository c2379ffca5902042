# SPDX-License-Identifier: Apache-2.0
"""`farm compare`: is one thing faster than another? From records, or measured alternately for the purpose."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import click

from farm.cli.common import EXIT_NOT_OK, open_farm, print_json, print_table
from farm.cli.local import DEVICES, running_farm

if TYPE_CHECKING:
    from farm.api import Farm
    from farm.compare import Comparison, Rules
    from farm.compare.order import Turn


@click.command()
@click.argument("base")
@click.argument("new")
@click.option("--measure", is_flag=True, help="BASE and NEW are sweep files: measure both here, alternately, first.")
@click.option("--processes", default=5, show_default=True, help="With --measure: how often each is measured.")
@click.option("--seed", default=0, show_default=True, help="With --measure: of the order.")
@click.option("--again", is_flag=True, help="With --measure: measure anew what is recorded already.")
@DEVICES
@click.option("--repeats", is_flag=True, help="A sweep stands for all its repeats (`farm submit --again`).")
@click.option("--where", metavar="SQL", help="Only runs that fit, on both sides, as in `farm results`.")
@click.option("--metric", default="latency_ms", show_default=True, help="What to compare (docs/metrics.md lists them).")
@click.option("--threshold", default=2.0, show_default=True, metavar="PCT", help="A change up to this counts as none.")
@click.option(
    "--treatment", metavar="A,B", help="What may differ: options, workflow, precision, stack, device, weights ..."
)
@click.option("--accept", metavar="FLAG", multiple=True, help="A `suspect` flag to take as sound; may be repeated.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option("--fail-on", type=click.Choice(["slower"]), help="End with 1 if a cell is worse, or fails in NEW alone.")
@click.pass_context
def compare(ctx: click.Context, /, base: str, new: str, form: str, fail_on: str | None, **given: Any) -> int:
    """Say for each cell whether NEW is FASTER, SLOWER or the SAME as BASE, or that it is UNCLEAR.

    BASE and NEW are sweeps, run ids, `last` (the latest finished sweep) or `previous` (the one before it of the same
    name); several with commas between. `SWEEP:resnet18:int8` are those of a sweep's runs that have all of these words.
    Runs are compared, not iterations: five of each are the fewest for a verdict.

    \b
    Examples:
      farm compare previous last
    farm compare quickstart:fp32 quickstart:int8
      farm compare --measure before.yaml after.yaml --processes 5
      farm compare quickstart other --where "batch_size = 1" --threshold 5 --fail-on slower
    """
    from farm.compare import Rules

    rules = Rules(
        metric=given["metric"],
        threshold=given["threshold"] / 100,
        treatment=tuple(given["treatment"].split(",")) if given["treatment"] else None,
        accept=given["accept"],
    )
    farm = open_farm(ctx)
    if given["measure"]:
        found = _measured(farm, base, new, rules, given)
    else:
        _refuse_files(base, new)
        found = farm.compare(base, new, rules=rules, where=given["where"], repeats=given["repeats"])
    _print(found, form)
    return EXIT_NOT_OK if fail_on and found.regressed else 0


def _refuse_files(*sides: str) -> None:
    from farm.errors import UsageError

    for side in sides:
        if side.endswith((".yaml", ".yml")):
            hint = "To measure two sweep files and compare them: `farm compare --measure BASE.yaml NEW.yaml`."
            raise UsageError(f"{side} is a file, and what is recorded is named by sweep or run", hint=hint)


def _measured(farm: Farm, base: str, new: str, rules: Rules, given: dict[str, Any]) -> Comparison:
    """Measure first. What is said on the way goes to standard error, so that JSON and CSV stay whole."""
    from farm.cli.live import ProgressView
    from farm.errors import UsageError

    if given["where"] or given["repeats"]:
        raise UsageError("--where and --repeats choose among records; with --measure there is nothing to choose")
    running = running_farm(farm.settings)

    def say(text: str) -> None:
        click.echo(text, err=True)

    def on_turn(turn: Turn, left: int) -> None:
        say(f"{left} left: {turn.side} {turn.number} of {given['processes']} ({turn.spec.sweep_id})")

    with ProgressView(err=True) as view:
        return farm.compare_measured(
            base,
            new,
            processes=given["processes"],
            seed=given["seed"],
            again=given["again"],
            devices=None if running else given["devices"],
            rules=rules,
            on_turn=on_turn,
            on_progress=view.show,
            say=say,
        )


def _print(found: Comparison, form: str) -> None:
    from farm.compare import table

    if form == "json":
        print_json(table.document(found))
        return
    if form == "csv":
        click.echo(_csv(table.objects(found)), nl=False)
        return
    for line in table.header(found):
        click.echo(line)
    for device, cells in table.by_device(found).items():
        print_table(f"\n{device}", table.HEADINGS, [table.row(cell) for cell in cells])
    if found.left_out:
        rows = [table.left_out_row(left) for left in found.left_out]
        print_table("\nNot compared", ("cell", "device", "why"), rows)


def _csv(objects: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for each in objects for name in each))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in each.items()} for each in objects)
    return stream.getvalue()
