# SPDX-License-Identifier: Apache-2.0
"""`farm recommend`: which workflow, precision and batch size to take under stated limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from farm.cli.common import EXIT_NOT_OK, open_farm, print_json

if TYPE_CHECKING:
    from farm.choice import Recommendation

_GOALS = ["latency", "throughput", "accuracy", "memory", "energy"]


@click.command()
@click.argument("sweeps", nargs=-1)
@click.option("--model", required=True, help="Of which network.")
@click.option("--device", required=True, help="On which class of devices, or on which device.")
@click.option("--max-latency-ms", type=float, metavar="MS", help="Median time of a request at most.")
@click.option("--min-throughput", type=float, metavar="N", help="Inputs per second at least.")
@click.option("--min-top1", type=float, metavar="PCT", help="Top-1 accuracy in per cent at least.")
@click.option("--max-memory-mb", type=float, metavar="MB", help="Memory in 10^6 bytes at most.")
@click.option("--max-energy-j", type=float, metavar="J", help="Energy per input at most.")
@click.option("--batch", type=click.IntRange(min=1), help="This batch size only.")
@click.option("--precision", help="This precision only.")
@click.option("--weights", help="These weights only, where several were measured (`default`, `digits:0` ...).")
@click.option("--dataset", help="Accuracy on these images only, where it was taken on several.")
@click.option("--for", "objective", type=click.Choice(_GOALS), help="What to be best at (see below).")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def recommend(ctx: click.Context, /, sweeps: tuple[str, ...], form: str, **given: Any) -> int:
    """Name the workflow, precision and batch size to take, from what is recorded of SWEEPS (of none: of all).

    The best is that of the lowest latency; with --max-latency-ms and no --batch that of the highest throughput. It is
    judged by intervals: what they cannot tell apart is said to be undecided. Ends with 0 if decided, with 1 if not or
    if nothing fits.

    \b
    Examples:
      farm recommend --model resnet50 --device nvidia-h200 --max-latency-ms 5 --min-top1 75
      farm recommend --model resnet18 --device lab-gpu1 --batch 1 --max-memory-mb 800 --for energy
    """
    from farm.choice import Limits, Status
    from farm.choice import recommend as choose

    found = choose(open_farm(ctx).records(*sweeps), Limits(**given))
    _print(found, form)
    return 0 if found.status is Status.DECIDED else EXIT_NOT_OK


def _print(found: Recommendation, form: str) -> None:
    from farm.choice import words

    if form == "json":
        print_json(words.document(found))
        return
    for line in words.lines(found):
        click.echo(line)
