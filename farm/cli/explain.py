# SPDX-License-Identifier: Apache-2.0
"""`farm explain`: where the time of a run goes, by layer or stage; for two runs, which layers make the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from farm.cli.common import open_farm, print_json, print_table

if TYPE_CHECKING:
    from farm.contract.pipeline import PipelineResult, QueueFill
    from farm.contract.record import Record
    from farm.explain import Profiled

#: So many kinds of operator are shown: the rest makes no difference.
_KINDS = 8
#: A name longer than this is cut in the middle: fused layers are named after all of their parts.
_LONGEST = 64


@click.command()
@click.argument("run")
@click.argument("other", required=False)
@click.option("--top", "count", default=15, show_default=True, type=click.IntRange(min=1), help="So many rows.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def explain(ctx: click.Context, run: str, other: str | None, count: int, form: str) -> int:
    """Show where the time of RUN goes; with OTHER, which layers make OTHER slower or faster than RUN.

    Both are run ids, or sweeps, with words to say which of its runs is meant: `SWEEP:pytorch:fp16:b1`. They were
    measured with `profile: layers` in the sweep; or RUN with `study: pipeline`: then its stages are shown.
    """
    farm = open_farm(ctx)
    base = farm.explained(run) if other is None else farm.layers(run)
    if isinstance(base, tuple):
        record, study = base
        _show_study(record, study, form)
        return 0
    new = None if other is None else farm.layers(other)
    if form == "json":
        from farm.explaining import as_json, difference_as_json

        print_json(as_json(base, count) if new is None else difference_as_json(base, new, count))
    elif new is None:
        _show(base, count)
    else:
        _show_difference(base, new, count)
    return 0


def _show(found: Profiled, count: int) -> None:
    from farm.explain import by_precision, outside_tensorrt, top

    table = found.table
    click.echo(f"{found.record.run_id}  {found.name}")
    click.echo(f"  {table.source}, {table.iterations} inferences, times on the {table.clock}, {table.statistic}s")
    for line in total_lines(found):
        click.echo(f"  {line}")
    outside = outside_tensorrt(table)
    if outside is not None:
        click.echo(f"  outside of TensorRT: {100 * outside:.1f} % of the layers' time")
    click.echo(f"  computed in: {_shares(by_precision(table))} of that time")
    for note in table.notes:
        click.echo(f"  note: {note}")
    rows = [
        [layer.time_ns / 1e3, round(100 * layer.share, 1), _short(layer.name), layer.kind, layer.precision, layer.place,
         _short(layer.tactic or "") or None]
        for layer in top(table, count)
    ]  # fmt: skip
    title = f"The {len(rows)} longest of {len(table.layers)} rows"
    print_table(title, ["us", "%", "layer", "kind", "precision", "where", "tactic"], rows)


def _show_study(record: Record, found: PipelineResult, form: str) -> None:
    from farm.explain.pipeline import STAGE_WORDS, pipeline_lines
    from farm.explaining import study_as_json

    if form == "json":
        print_json(study_as_json(record, found))
        return
    click.echo(f"{record.run_id}  {record.job.name}")
    for line in pipeline_lines(found):
        click.echo(f"  {line}")
    if found.serial is not None:
        rows = [
            [STAGE_WORDS[stage.name], stage.per, stage.median_ns / 1e6,
             None if stage.p95_ns is None else stage.p95_ns / 1e6, round(100 * stage.share, 1)]
            for stage in found.serial.stages
        ]  # fmt: skip
        print_table("One stage after the other", ["stage", "of one", "median ms", "p95 ms", "%"], rows)
    if found.overlapped is not None:
        queues = {queue.name: queue for queue in found.overlapped.queues}
        loads = [
            [load.name, load.threads, round(100 * load.utilisation, 1), *_queue(queues.get(load.name))]
            for load in found.overlapped.workers
        ]
        columns = ["worker", "threads", "busy %", "queue in front", "of", "full %", "empty %"]
        print_table("All at once", columns, loads)


def _queue(found: QueueFill | None) -> list[float | int | None]:
    if found is None:
        return [None, None, None, None]
    return [round(found.mean, 2), found.capacity, round(100 * found.full_share, 1), round(100 * found.empty_share, 1)]


def total_lines(found: Profiled) -> list[str]:
    """The sum of rows against the unprofiled median, in words."""
    from farm.explain import total_of

    total = total_of(found)
    if total.median_ms is None or total.ratio is None:
        return [f"rows together {total.sum_ms:.4g} ms", *(f"  {why}" for why in total.why)]
    told = (
        f"rows together {total.sum_ms:.4g} ms, {total.ratio:.3f} times the measured median of {total.median_ms:.4g} ms"
    )
    verdict = "within 10 %" if total.close else "not within 10 %:"
    return [f"{told}: {verdict}", *(f"  - {why}" for why in total.why)]


def _show_difference(base: Profiled, new: Profiled, count: int) -> None:
    from farm.explain import by_kind, by_precision, compare_layers

    found = compare_layers(base.table, new.table)
    for word, side in (("base", base), ("new ", new)):
        click.echo(f"{word}  {side.record.run_id}  {side.name}: rows together {side.table.sum_ns / 1e6:.4g} ms")
        click.echo(f"      computed in: {_shares(by_precision(side.table))} of that time")
        for line in total_lines(side):
            click.echo(f"      {line}")
    click.echo(
        f"new takes {found.change_ns / 1e6:+.4g} ms; {100 * found.matched:.0f} % of the time is in matched parts"
    )
    explaining = found.explaining()
    if explaining:
        made = sum(group.change_ns for group in explaining)
        click.echo(f"{len(explaining)} of {len(found.groups)} parts make {made / 1e6:+.4g} ms of it")
    rows = [
        [group.change_ns / 1e3, group.base_ns / 1e3, group.new_ns / 1e3, _short(group.name), "; ".join(group.notes)]
        for group in found.groups[:count]
    ]
    print_table(None, ["change us", "base us", "new us", "part", "what differs"], rows)
    kinds = by_kind(base.table.layers, new.table.layers)
    listed = [
        [kind.change_ns / 1e3, kind.base_ns / 1e3, kind.new_ns / 1e3, kind.name, kind.base_rows, kind.new_rows]
        for kind in kinds[:_KINDS]
    ]
    title = f"By what the rows do: the {len(listed)} largest changes of {len(kinds)}"
    print_table(title, ["change us", "base us", "new us", "kind", "base rows", "new rows"], listed)


def _shares(shares: dict[str, float]) -> str:
    """`int8 81 %, fp32 19 %`."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())


def _short(name: str) -> str:
    if len(name) <= _LONGEST:
        return name
    half = (_LONGEST - 5) // 2
    return f"{name[:half]} ... {name[-half:]}"
