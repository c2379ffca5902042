# SPDX-License-Identifier: Apache-2.0
"""The coverage grid: one word for each device, model, workflow and precision, and the reasons below it."""

from __future__ import annotations

from dataclasses import replace

from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.report import markdown
from farm.report.grid import grid_table
from farm.report.select import select
from farm.report.table import Cell, Table
from tests.report import demo

REFUSAL = "this stack's onnxruntime has no static quantizer"


def _cells(table: Table) -> dict[tuple[str, str, str], Cell]:
    heads = [column.heading for column in table.columns]
    return {
        (title, row.heading, head): cell
        for title, row in table.rows
        for head, cell in zip(heads, row.cells, strict=True)
    }


def _grid(records: list[Record], **more: object) -> Table:
    table = grid_table(select(records, **more))  # type: ignore[arg-type]
    assert table is not None
    return table


def test_every_state_has_its_word_its_tint_and_its_reason() -> None:
    table = _grid(demo.rough_sweep(), expected=[demo.job("vgg11")])
    cells = _cells(table)
    place = demo.DEVICE.device_class
    refused = next(c for c in cells.values() if c.text == "refused")
    assert (refused.status, refused.note) == ("refused", f"unsupported: {REFUSAL}")
    flagged = cells[place, "resnet18 onnxruntime_cpu", "fp32"]
    assert (flagged.text, flagged.status) == ("2 ok, 1 flagged", "flagged")
    assert flagged.note == "unstable: robust CV 4.1 % is above 2.5 %"
    failed = cells[place, "resnet50 pytorch", "fp32"]
    assert (failed.text, failed.status) == ("1 ok, 1 not run, 1 failed", "failed")
    missing = cells[place, "vgg11 pytorch", "fp32"]
    assert (missing.text, missing.status, missing.anchor) == ("missing", "missing", "")
    assert cells[place, "resnet18 pytorch", "fp32"].text == "ok"
    assert cells[place, "resnet18 pytorch", "int8"].note == "not asked for"


def test_reasons_stand_below_the_grid_each_once_and_in_markdown() -> None:
    table = _grid(demo.rough_sweep())
    words = [text for _, text in table.notes]
    assert len(words) == len(set(words))
    said = markdown.table(table)
    assert f"unsupported: {REFUSAL}" in said and "- 1 " in said
    marks = {mark for _, row in table.rows for cell in row.cells for mark in cell.mark.split(",") if mark}
    assert marks == {mark for mark, _ in table.notes}


def test_a_cell_leads_to_a_record_of_its_worst_state() -> None:
    records = demo.rough_sweep()
    full = next(r for r in records if r.outcome is Outcome.OUT_OF_MEMORY)
    cell = _cells(_grid(records))[demo.DEVICE.device_class, "resnet50 pytorch", "fp32"]
    assert cell.anchor == f"run-{full.run_id}"


def test_devices_are_groups_and_precisions_go_from_wide_to_narrow() -> None:
    other = replace(demo.DEVICE, device_id="z", device_class="z-class")
    far = [replace(r, device=other, run_id=f"{r.run_id}-z", job=replace(r.job, job_id=f"{r.job.job_id}-z"))
           for r in demo.sweep()]  # fmt: skip
    table = _grid([*demo.sweep(), *far])
    assert [group.title for group in table.groups] == [demo.DEVICE.device_class, "z-class"]
    assert [column.heading for column in table.columns] == ["fp32", "int8"]


def test_nothing_asked_is_no_grid() -> None:
    assert grid_table(select([])) is None
