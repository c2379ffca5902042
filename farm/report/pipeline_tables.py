# SPDX-License-Identifier: Apache-2.0
"""The tables of pipelines: stages one after the other, all at once, workers and queues, latency against load. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from farm.contract.pipeline import STAGES, LoadPoint, OverlappedPass, PipelineResult, SerialPass
from farm.explain.pipeline import STAGE_WORDS
from farm.report import text
from farm.report.select import Point, Selection
from farm.report.table import Cell, Column, Footnotes, Group, Row, Table, absent, run_anchor

#: A run and what it found.
Found = tuple[Point, PipelineResult]


def pipeline_name(point: Point, selection: Selection) -> str:
    """`resnet18 onnxruntime_cpu fp32, batch 8`, with the device's class where there are several."""
    series = point.series
    # The section says that it is of pipelines: the variant need not say so in every row.
    variant = ", ".join(word for word in series.variant.split(", ") if word != "pipeline")
    name = f"{series.model} {series.workflow} {series.precision}" + (f" ({variant})" if variant else "")
    place = f", {series.device_class}" if len(selection.classes) > 1 else ""
    return f"{name}, batch {point.record.batch_size}{place}"


def passes_table(found: Sequence[Found], selection: Selection) -> Table | None:
    """Serial against overlapped throughput, the bound, and the bottleneck."""
    notes, rows = Footnotes(), []
    for point, result in found:
        if result.overlapped is not None or result.serial is not None:
            rows.append(_passes(pipeline_name(point, selection), point, result, notes))
    if not rows:
        return None
    columns = (
        Column("One after the other", "images/s"),
        Column("All at once", "images/s"),
        Column("Speed-up"),
        Column("Slowest worker allows", "images/s"),
        Column("Of that", "%"),
        Column("Bottleneck", numeric=False),
        Column("Busy", "%"),
    )
    caption = (
        "From JPEG file to the five best classes. Higher is better. What the slowest worker allows is 1 over the"
        " longest time that a worker has for an image in the serial pass. Busy: the share of time in which the"
        " bottleneck's worker was at work; on a CPU stages share the processors, so one may be longer than alone."
    )
    groups = (Group("", tuple(rows)),)
    return Table("pipeline-passes", "Serial against overlapped", caption, "Run", columns, groups, "", notes.notes)


def _passes(name: str, point: Point, result: PipelineResult, notes: Footnotes) -> Row:
    serial, overlapped = result.serial, result.overlapped
    reason = "this pass was not asked for"
    cells = (
        _number(serial.per_s if serial else None, reason, point),
        _number(overlapped.per_s if overlapped else None, reason, point, notes.mark(point)),
        *_gains(overlapped, point),
        *_bottleneck(overlapped),
    )
    return Row(name, cells)


def _gains(found: OverlappedPass | None, point: Point) -> tuple[Cell, ...]:
    reason = "needs both passes"
    share = found.bound_share if found else None
    return (
        _number(found.speed_up if found else None, reason, point),
        _number(found.bound_per_s if found else None, reason, point),
        _number(None if share is None else 100 * share, reason, point),
    )


def _bottleneck(found: OverlappedPass | None) -> tuple[Cell, Cell]:
    if found is None:
        return absent("needs the overlapped pass"), absent("needs the overlapped pass")
    told = found.bottleneck
    confirmed = {True: "the serial pass agrees", False: "the serial pass says another", None: "no serial pass"}
    return (
        Cell(STAGE_WORDS[told.stage], sub=confirmed[told.confirmed], note=told.said),
        Cell(text.number(100 * told.utilisation)),
    )


def stages_table(found: Sequence[Found], selection: Selection) -> Table | None:
    """Each stage's median in the serial pass, and below it its share of the pass."""
    rows = [
        Row(pipeline_name(point, selection), tuple(_stages(result.serial, point)))
        for point, result in found
        if result.serial is not None
    ]
    if not rows:
        return None
    columns = tuple(Column(STAGE_WORDS[name].capitalize(), "ms") for name in STAGES)
    caption = (
        "Median time of one call: decode and preprocess take an image, the others a batch. Below: the stage's share of"
        " the whole pass. Copying on a GPU is waited for; on a CPU it is what handing the batch over takes."
    )
    return Table("pipeline-stages", "One stage after the other", caption, "Run", columns, (Group("", tuple(rows)),), "")


def _stages(serial: SerialPass, point: Point) -> list[Cell]:
    by_name = {stage.name: stage for stage in serial.stages}
    return [
        Cell(
            text.number(by_name[name].median_ns / 1e6),
            sub=f"{text.percent(100 * by_name[name].share)} %",
            note=f"{by_name[name].samples} samples, each of one {by_name[name].per}",
            anchor=run_anchor(point.record),
        )
        for name in STAGES
    ]


def workers_table(found: Sequence[Found], selection: Selection) -> Table | None:
    """Each worker of the overlapped pass, and the queue in front of it."""
    groups = [
        Group(pipeline_name(point, selection), tuple(_workers(result.overlapped)))
        for point, result in found
        if result.overlapped is not None
    ]
    if not groups:
        return None
    columns = (
        Column("Threads"),
        Column("Busy", "%"),
        Column("Queue in front, mean"),
        Column("Room"),
        Column("Full", "% of time"),
        Column("Empty", "% of time"),
    )
    caption = (
        "A worker that is always busy, with a full queue in front and an empty one behind, is the bottleneck. Queues in"
        " front of preprocess and collate hold images, the others batches."
    )
    title = "Workers and queues, all stages at once"
    return Table("pipeline-workers", title, caption, "Worker", columns, tuple(groups), "Run", wide=True)


def _workers(found: OverlappedPass) -> list[Row]:
    queues = {queue.name: queue for queue in found.queues}
    rows = []
    for load in found.workers:
        queue = queues.get(load.name)
        parts = "; ".join(f"{STAGE_WORDS[n]} {100 * share:.1f} %" for n, share in load.stages.items())
        held = (
            [absent("it takes files")] * 4
            if queue is None
            else [
                Cell(text.number(queue.mean)),
                Cell(str(queue.capacity)),
                Cell(text.percent(100 * queue.full_share)),
                Cell(text.percent(100 * queue.empty_share)),
            ]
        )
        busy = Cell(text.percent(100 * load.utilisation), note=parts)
        rows.append(Row(load.name, (Cell(str(load.threads)), busy, *held)))
    return rows


def load_table(found: Sequence[Found], selection: Selection) -> Table | None:
    """Latency at each rate of arrival."""
    groups = [
        Group(pipeline_name(point, selection), tuple(_load(load, point) for load in result.loads))
        for point, result in found
        if result.loads
    ]
    if not groups:
        return None
    columns = (
        Column("Of capacity", "%"),
        Column("Done", "images/s"),
        Column("Images a batch"),
        Column("p50", "ms"),
        Column("p95", "ms"),
        Column("p99", "ms"),
        Column("Steady", numeric=False),
    )
    caption = (
        "Images arrive one by one at times that were drawn beforehand, and each latency counts from the moment at which"
        " its image was due. Lower is better. Where more comes than can be done, latency grows as long as the run"
        " lasts: no figure of it is a steady one, and none is given."
    )
    return Table("pipeline-load", "Latency against load", caption, "Rate", columns, tuple(groups), "Run")


def _load(load: LoadPoint, point: Point) -> Row:
    few = load.overloaded or "too few images to bound it"
    share = load.of_capacity
    status = "overloaded" if load.overloaded else "yes"
    cells = (
        absent("no capacity was measured") if share is None else Cell(text.number(100 * share)),
        Cell(text.number(load.done_per_s), note=f"{load.arrivals} arrivals, {load.unfinished} given up"),
        Cell(text.number(load.mean_batch), note=f"{load.batches} batches"),
        *(_milliseconds(value, few, point) for value in (load.p50_ns, load.p95_ns, load.p99_ns)),
        Cell(status, sub=load.overloaded, status="flagged" if load.overloaded else "ok"),
    )
    return Row(f"{text.number(load.offered_per_s)} images/s", cells)


def _milliseconds(value_ns: float | None, reason: str, point: Point) -> Cell:
    return _number(None if value_ns is None else value_ns / 1e6, reason, point)


def _number(value: float | None, reason: str, point: Point, mark: str = "") -> Cell:
    if value is None:
        return absent(reason)
    return Cell(text.number(value), mark=mark, anchor=run_anchor(point.record))
