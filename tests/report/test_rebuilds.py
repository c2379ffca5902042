# SPDX-License-Identifier: Apache-2.0
"""What the table of rebuilds says of engines that were built several times."""

from __future__ import annotations

from typing import Any

from farm.contract.job import Rebuild
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.report import markdown, tables
from farm.report.rebuilds import rebuild_table
from farm.report.select import select
from tests.report import demo

CLASS = demo.DEVICE.device_class
WAY = ("onnx_tensorrt", "fp16")


def build(index: int, latency_ms: float, *, count: int = 3, cache: str = "cold", **effective: Any) -> Record:
    """The run of one build at batch 1."""
    job = demo.job(way=WAY, rebuild=Rebuild(index, count, cache))
    held = {"engine_sha256": f"e{index}", "tactics_sha256": "t", "outputs_sha256": "o", "engine_build_s": 10.0 + index}
    metrics = {"latency_ms": latency_ms, "build_s": 99.0}
    return demo.ok(job, 1, metrics=metrics, intervals={}, effective=held | effective)


def test_the_builds_of_one_engine_are_one_row() -> None:
    records = [build(0, 2.0), build(1, 2.2, tactics_sha256="other"), build(2, 2.1)]
    table = rebuild_table(select(records), CLASS)
    ((model, row),) = table.rows
    assert model == "resnet18"
    assert row.heading == f"onnx_tensorrt fp16, cold timing cache, batch 1, on {demo.DEVICE.device_id}"
    assert [cell.text for cell in row.cells] == ["3", "3", "2", "1", "11.00", "2.10", "10.00"]
    assert [cell.sub for cell in row.cells[4:6]] == ["10.00\u201312.00", "2.00\u20132.20, 75 % between 3 builds"]


def test_five_builds_have_an_interval_between_builds() -> None:
    ((_, row),) = rebuild_table(select([build(i, 2.0 + i / 10, count=5) for i in range(5)]), CLASS).rows
    assert row.cells[5].text == "2.20"
    assert row.cells[5].sub.endswith(", 95 % between 5 builds")
    assert row.cells[5].note.startswith("t on the logarithms of 5 medians")


def test_the_order_of_the_records_does_not_matter() -> None:
    records = [build(i, 2.0 + i / 10) for i in range(3)]
    assert rebuild_table(select(records), CLASS) == rebuild_table(select(records[::-1]), CLASS)


def test_timing_caches_are_rows_apart_and_a_build_that_is_missing_is_counted() -> None:
    records = [build(0, 2.0), build(1, 2.1), build(0, 2.0, cache="shared"), build(2, 2.0, cache="shared")]
    failed = demo.bad(demo.job(way=WAY, rebuild=Rebuild(1, 3, "shared")), 1, Outcome.FAILED, "x")
    rows = [row for _, row in rebuild_table(select([*records, failed]), CLASS).rows]
    assert [(row.cells[0].text, row.cells[0].sub) for row in rows] == [("2", "of 3"), ("2", "of 3")]
    assert ["cold" in row.heading for row in rows] == [True, False]


def test_a_digest_that_no_record_has_is_a_dash_with_the_reason() -> None:
    records = [build(i, 2.0, tactics_sha256=None) for i in range(2)]
    ((_, row),) = rebuild_table(select(records), CLASS).rows
    assert "tactics_sha256" in row.cells[2].note


def test_the_table_is_in_a_report_only_where_a_sweep_has_rebuilds() -> None:
    def shown(records: list[Record]) -> list[str]:
        return [table.title for table in tables.measured_tables(select(records), CLASS)]

    assert "Rebuilds" in shown([build(0, 2.0), build(1, 2.1)])
    assert "Rebuilds" not in shown(demo.sweep())
    made = rebuild_table(select([build(0, 2.0), build(1, 2.1)]), CLASS)
    assert "cold timing cache" in markdown.table(made)


def test_rows_of_other_tables_name_the_build() -> None:
    found = {s.label for s in select([build(0, 2.0), build(1, 2.1)]).series()}
    assert found == {"onnx_tensorrt fp16 (build 01 of 3, cold)", "onnx_tensorrt fp16 (build 02 of 3, cold)"}
