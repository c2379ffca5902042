# SPDX-License-Identifier: Apache-2.0
"""What a report says of points that were measured in several processes, beside those that were in one."""

from __future__ import annotations

import csv
import io

import pytest

from farm.contract.outcome import Outcome
from farm.contract.record import BlobRef, Interval, ProcessFacts, Record
from farm.report import figures, narrative, stats, tables
from farm.report.results import appendix_table, csv_text
from farm.report.select import select
from farm.report.stats import Ratio
from farm.report.table import Cell, Table
from tests.report import demo

CLASS = demo.DEVICE.device_class
WITHIN = "within this run"


def several(count: int, ms: float = 8.25, way: tuple[str, str] = demo.WAYS[0], confidence: float = 0.95) -> Record:
    """A point of `count` processes with its interval between them."""
    span = Interval(ms - 0.2, ms + 0.2, confidence, "m", f"between {count} processes")
    refs = [BlobRef("samples:latency", f"{i}" * 64, 8, process=i) for i in range(1, count + 1)]
    return demo.ok(
        demo.job(way=way),
        1,
        metrics={"latency_ms": ms, "throughput_per_s": 121.2, "sample_count": 90.0},
        intervals={"latency_ms": span},
        withheld={},
        samples=refs,
        processes=[ProcessFacts(i, Outcome.OK, "a", "b", metrics={"latency_ms": ms}) for i in range(1, count + 1)],
    )


def alone(ms: float = 4.0, way: tuple[str, str] = demo.WAYS[1]) -> Record:
    return demo.ok(demo.job(way=way), 1, intervals={"latency_ms": Interval(ms - 0.1, ms + 0.1, 0.95, "m", WITHIN)})


def first_cell(table: Table, row: str) -> Cell:
    return next(r.cells[0] for _, r in table.rows if r.heading == row)


def test_a_latency_tells_its_processes_and_what_its_interval_covers() -> None:
    table = tables.latency_table(select([several(5)]), CLASS)
    cell = first_cell(table, "pytorch fp32")
    assert cell.sub == "8.05\u20138.45, 5 processes"
    assert cell.note == "95 % interval, m, between 5 processes"
    assert "small figures: interval of the median, 95 % between 5 processes" in table.caption


def test_an_interval_within_one_run_is_told_apart_where_both_stand_in_a_table() -> None:
    table = tables.latency_table(select([several(3, confidence=0.75), alone()]), CLASS)
    assert first_cell(table, "pytorch fp32").sub.endswith(", 3 processes")
    assert first_cell(table, "onnxruntime_cpu fp32").sub.endswith(", 1 process")
    assert "75 % between 3 processes and 95 % within this run" in table.caption


def test_a_table_of_single_processes_names_no_number_of_them() -> None:
    table = tables.latency_table(select([alone()]), CLASS)
    assert "process" not in first_cell(table, "onnxruntime_cpu fp32").sub
    assert "95 % within this run" in table.caption
    assert tables.spread_table(select([alone()]), CLASS).columns[0].heading == "Samples"


def test_the_spread_names_the_number_of_processes() -> None:
    table = tables.spread_table(select([several(5), alone()]), CLASS)
    assert table.columns[0].heading == "Processes"
    assert [row.cells[0].text for _, row in table.rows] == ["5", "1"]
    assert "the median of their figures" in table.caption


@pytest.mark.parametrize(
    ("base", "other", "scope"),
    [
        (several(5), several(5, 4.0, demo.WAYS[1]), "between 5 processes each"),
        (several(5), several(3, 4.0, demo.WAYS[1]), "between 5 processes against between 3 processes"),
        (several(5), alone(), "between 5 processes against within one run"),
        (alone(8.0, demo.WAYS[0]), alone(), "within one run each"),
    ],
)
def test_a_speed_up_covers_what_its_two_intervals_do(base: Record, other: Record, scope: str) -> None:
    chosen = select([base, other])
    point = next(p for p in chosen.ok if p.series.workflow == "onnxruntime_cpu")
    found = stats.speed_up(point, chosen.references(point.series))
    assert isinstance(found, Ratio)
    assert found.scope == scope
    table = tables.speed_up_table(chosen, CLASS)
    assert scope in table.caption
    assert first_cell(table, "onnxruntime_cpu fp32").note == f"90 % at least, {scope}"
    assert ("iterations of one run" in table.caption) is ("one run" in scope)


def test_two_ranges_that_cover_half_each_make_no_interval() -> None:
    chosen = select([several(2, confidence=0.5), several(2, 4.0, demo.WAYS[1], confidence=0.5)])
    point = next(p for p in chosen.ok if p.series.workflow == "onnxruntime_cpu")
    found = stats.speed_up(point, chosen.references(point.series))
    assert isinstance(found, Ratio)
    assert (found.low, found.scope) == (None, "")


def test_figures_and_summary_say_what_the_bars_cover() -> None:
    mixed, single = select([several(5), alone()]), select([alone()])
    made = figures.latency_figure(mixed)
    assert made is not None
    assert "between 5 processes and within this run" in made.caption
    assert "between 5 processes" in narrative.summarise(mixed)[-1].text
    assert "Intervals cover one run each" in narrative.summarise(single)[-1].text


def test_the_csv_counts_processes_and_names_all_samples() -> None:
    row, *gaps = csv.DictReader(io.StringIO(csv_text(select([several(3)]))))
    assert {gap["processes"] for gap in gaps} == {""}
    assert row["processes"] == "3"
    assert row["latency_ms_scope"] == "between 3 processes"
    assert row["samples_sha256"] == " ".join(f"{i}" * 64 for i in (1, 2, 3))
    ((_, told),) = appendix_table(select([several(3)])).rows
    assert told.cells[3].sub == "of the first of 3 processes"
