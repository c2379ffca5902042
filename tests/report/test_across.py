# SPDX-License-Identifier: Apache-2.0
"""Device classes side by side: which rows they share, what is shown where one has nothing, and what is not compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farm.contract.outcome import Outcome
from farm.contract.record import Flag, Record
from farm.report import figures, narrative, write_report
from farm.report.across import across_tables
from farm.report.best import best_table
from farm.report.select import select
from farm.report.software import software_table
from farm.report.table import Cell, Table
from tests.report import demo

GPU = replace(demo.DEVICE, device_id="bench-02-gpu", device_class="gpu-test-data", kind="gpu", host="bench-02")
NEAR, FAR = demo.DEVICE.device_class, GPU.device_class


def on_gpu(record: Record, **changes: object) -> Record:
    """The same run on another device, ten times as fast, with a newer torch."""
    stack = replace(demo.STACK, libraries={**demo.STACK.libraries, "torch": "2.9.0"})
    job = replace(record.job, job_id=f"{record.job.job_id}-gpu")
    metrics = {**record.metrics, "gpu_utilisation": 0.93, "gpu_memory_peak_bytes": 2.0**30}
    if "latency_ms" in metrics:
        metrics |= {"latency_ms": metrics["latency_ms"] / 10, "throughput_per_s": metrics["throughput_per_s"] * 10}
    made = replace(record, device=GPU, stack=stack, job=job, run_id=f"{record.run_id}-gpu", intervals={},
                   metrics=metrics)  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def both() -> list[Record]:
    """The made-up sweep on two devices."""
    return [*demo.sweep(), *(on_gpu(r) for r in demo.sweep())]


def tables(records: list[Record]) -> dict[str, Table]:
    """The tables across devices by key."""
    return {table.key: table for table in across_tables(select(records))}


def cell(table: Table, heading: str, place: str, title: str = "resnet18") -> Cell:
    """One cell of a table."""
    row = next(row for group, row in table.rows if (group, row.heading) == (title, heading))
    return row.cells[[column.heading for column in table.columns].index(place)]


def test_the_same_way_on_two_devices_is_one_row() -> None:
    made = tables(both())
    near, far = (cell(made["latency-across"], "pytorch fp32, batch 1", place) for place in (NEAR, FAR))
    assert near.anchor.startswith("run-") and far.anchor == near.anchor + "-gpu"
    assert float(near.text) == pytest.approx(10 * float(far.text), rel=0.01)
    assert {"throughput-across", "host-memory-across", "cpu-use-across", "mismatch-across"} <= made.keys()


def test_one_device_alone_has_no_such_section(tmp_path: Path) -> None:
    assert tables(demo.sweep()) == {}
    assert "Across devices" not in write_report(demo.sweep(), tmp_path, title="t").html.read_text()


def test_other_switches_are_another_row_and_so_not_side_by_side() -> None:
    far = [on_gpu(r, job=replace(r.job, job_id=f"{r.job.job_id}-b", options={"channels_last": True})) for r in
           demo.sweep()]  # fmt: skip
    assert "latency-across" not in tables([*demo.sweep(), *far])


def test_what_only_one_device_can_tell_is_a_dash_with_its_reason() -> None:
    found = cell(tables(both())["gpu-use-across"], "pytorch fp32, batch 16", NEAR)
    assert (found.text, found.note) == ("\u2013", "not measured in this run")
    assert cell(tables(both())["gpu-use-across"], "pytorch fp32, batch 16", FAR).text == "93.00"


def test_a_refusal_stands_in_its_cell_with_the_reason() -> None:
    refused = demo.bad(demo.job(), None, Outcome.UNSUPPORTED, "no such thing here")
    far = on_gpu(refused)
    found = cell(tables([*demo.sweep(), far])["latency-across"], "pytorch fp32, batch 4", FAR)
    assert (found.text, found.note, found.anchor) == ("unsupported", "no such thing here", f"run-{far.run_id}")


def test_of_several_runs_the_newest_sound_one_is_shown_with_their_range() -> None:
    of = demo.job()
    doubt = Flag("unstable", "suspect", "why")
    older = on_gpu(demo.ok(of, 1), run_id="older", job=replace(of, job_id="j-1", sweep_id="s-1"))
    newer = on_gpu(demo.ok(of, 1), run_id="newer", job=replace(of, job_id="j-2", sweep_id="s-2"),
                   finished_at="2026-03-02T10:00:00.000000+00:00")  # fmt: skip
    flagged = on_gpu(demo.ok(of, 1), run_id="flagged", job=replace(of, job_id="j-3", sweep_id="s-3"), flags=[doubt],
                     finished_at="2026-03-03T10:00:00.000000+00:00")  # fmt: skip
    found = cell(tables([demo.ok(of, 1), older, newer, flagged])["latency-across"], "pytorch fp32, batch 1", FAR)
    assert found.anchor == "run-newer" and "newest of 3 runs" in found.sub


def test_the_best_names_what_did_it() -> None:
    table = best_table(select(both()))
    assert table is not None
    found = cell(table, "Lowest latency at batch 1, ms", FAR)
    assert found.sub == "onnxruntime_cpu int8, batch 1" and found.anchor.endswith("-gpu")


def test_a_flagged_point_is_the_best_only_of_a_device_that_has_no_other_and_is_marked() -> None:
    of, doubt = demo.job(), Flag("unstable", "suspect", "why")
    table = best_table(select([demo.ok(of, 1), on_gpu(demo.ok(of, 1), flags=[doubt])]))
    assert table is not None and "only where a device has no other" in table.caption
    found = cell(table, "Lowest latency at batch 1, ms", FAR)
    assert found.text and found.mark


def test_stacks_that_differ_are_named_and_those_that_agree_are_not() -> None:
    table = software_table(select(both()))
    assert table is not None
    assert [row.heading for _, row in table.rows] == ["torch"]
    assert [c.text for _, row in table.rows for c in row.cells] == ["2.8.0", "2.9.0"]
    said = [s.text for s in narrative.summarise(select(both()))]
    assert any("other versions of torch" in words for words in said)


def test_the_figure_has_a_panel_for_each_shared_way_and_a_line_for_each_device() -> None:
    figure = figures.across_figure(select(both()))
    assert figure is not None
    assert len(figure.panels) == 9 and [label for label, _ in figure.legend] == [NEAR, FAR]
    assert figures.across_figure(select(demo.sweep())) is None
