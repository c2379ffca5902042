# SPDX-License-Identifier: Apache-2.0
"""What the tables say, cell by cell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farm.contract.outcome import Outcome
from farm.contract.record import Flag, Interval, Record
from farm.report import coverage, provenance, tables
from farm.report.select import select
from farm.report.table import Cell, Table, run_anchor
from tests.report import demo

CLASS = demo.DEVICE.device_class


def cells(table: Table, group: str, row: str) -> tuple[Cell, ...]:
    """The cells of one row."""
    return next(r.cells for title, r in table.rows if (title, r.heading) == (group, row))


def small(**overrides: object) -> Record:
    """A run at batch 1 with a known median and interval."""
    metrics = {"latency_ms": 8.25, "throughput_per_s": 121.21, "sample_count": 90.0, "latency_p90_ms": 9.0}
    fields = {
        "metrics": metrics,
        "intervals": {"latency_ms": Interval(8.125, 8.5, 0.95, "order statistics", "within this run")},
        "withheld": {"latency_p99_ms": "needs 662 samples, has 90"},
    }
    return demo.ok(demo.job(), 1, **(fields | overrides))


def test_the_latency_table_has_a_column_for_each_batch_with_its_unit() -> None:
    table = tables.latency_table(select(demo.sweep()), CLASS)
    assert [(c.heading, c.unit) for c in table.columns] == [(f"Batch\u00a0{b}", "ms") for b in (1, 4, 16)]
    assert [g.title for g in table.groups] == ["mobilenet_v2", "resnet18", "resnet50"]
    assert all(len(g.rows) == 3 for g in table.groups)


def test_a_latency_is_shown_with_its_interval_and_leads_to_its_record() -> None:
    record = small()
    cell = cells(tables.latency_table(select([record]), CLASS), "resnet18", "pytorch fp32")[0]
    assert (cell.text, cell.sub) == ("8.25", "8.12\u20138.50")
    assert cell.note == "95 % interval, order statistics, within this run"
    assert cell.anchor == run_anchor(record)


def test_an_interval_narrower_than_the_last_digit_gets_one_more() -> None:
    narrow = {"latency_ms": Interval(8.2502, 8.2517, 0.95, "order statistics", "within this run")}
    cell = cells(tables.latency_table(select([small(intervals=narrow)]), CLASS), "resnet18", "pytorch fp32")[0]
    assert (cell.text, cell.sub) == ("8.250", "8.250\u20138.252")


def test_the_speed_up_table_names_the_reference_and_its_interval() -> None:
    records = [
        demo.ok(demo.job(way=way), 1, metrics={"latency_ms": ms}, intervals=within(ms))
        for way, ms in zip(demo.WAYS, (10.0, 5.0, 4.0), strict=True)
    ]
    table = tables.speed_up_table(select(records), CLASS)
    assert [cells(table, "resnet18", f"{w} {p}")[0].text for w, p in demo.WAYS] == ["1", "2.00", "2.50"]
    assert "within one run each" in table.caption


def within(ms: float) -> dict[str, Interval]:
    return {"latency_ms": Interval(ms - 0.1, ms + 0.1, 0.95, "order statistics", "within this run")}


def test_a_flagged_number_is_marked_with_its_evidence() -> None:
    flagged = small(flags=[Flag("unstable", "suspect", "robust CV 4.1 %"), Flag("slow_start", "info", "a bit")])
    table = tables.latency_table(select([flagged]), CLASS)
    assert cells(table, "resnet18", "pytorch fp32")[0].mark == "\u20201"
    note = "resnet18 pytorch fp32, batch 1: unstable (suspect): robust CV 4.1 %"
    assert table.notes == (("\u20201", note),)


def test_an_invalid_run_has_a_mark_of_its_own_and_info_has_none() -> None:
    invalid = tables.latency_table(select([small(flags=[Flag("foreign_process", "invalid", "x")])]), CLASS)
    assert cells(invalid, "resnet18", "pytorch fp32")[0].mark == "\u20211"
    info = tables.latency_table(select([small(flags=[Flag("slow_start", "info", "x")])]), CLASS)
    assert (cells(info, "resnet18", "pytorch fp32")[0].mark, info.notes) == ("", ())


def test_a_speed_up_over_a_flagged_reference_is_marked() -> None:
    base = small(flags=[Flag("unstable", "suspect", "robust CV 4.1 %")])
    other = demo.ok(demo.job(way=demo.WAYS[2]), 1)
    table = tables.speed_up_table(select([base, other]), CLASS)
    assert cells(table, "resnet18", "onnxruntime_cpu int8")[0].mark == "\u20201"


def test_what_is_not_ok_says_so_in_its_cell() -> None:
    table = tables.latency_table(select(demo.rough_sweep()), CLASS)
    of = [c.text for c in cells(table, "resnet50", "pytorch fp32")]
    assert of[1:] == ["out of memory", "not run"]
    assert [c.text for c in cells(table, "resnet50", "onnxruntime_cpu int8")] == ["unsupported"] * 3
    assert cells(table, "mobilenet_v2", "onnxruntime_cpu fp32")[1].text == "no record"
    assert cells(table, "resnet50", "pytorch fp32")[1].note == "the host ran out of memory"


def test_a_withheld_percentile_is_a_dash_with_its_reason() -> None:
    record = small()
    record.metrics["latency_p99_ms"] = 11.0
    table = tables.spread_table(select([record]), CLASS)
    by_head = dict(zip((c.heading for c in table.columns), table.groups[0].rows[0].cells, strict=True))
    assert (by_head["p99"].text, by_head["p99"].note) == ("\u2013", "needs 662 samples, has 90")
    assert (by_head["p90"].text, by_head["Samples"].text) == ("9.00", "90")


def test_the_best_throughput_names_its_batch() -> None:
    rates = {1: 50.0, 4: 90.0, 16: 80.0}
    records = [demo.ok(demo.job(), b, metrics={"throughput_per_s": r}) for b, r in rates.items()]
    row = cells(tables.throughput_table(select(records), CLASS), "resnet18", "pytorch fp32")
    assert [c.text for c in row] == ["50.00", "90.00", "80.00", "90.00"]
    assert row[-1].sub == "batch 4"


def test_the_mismatch_table_gives_the_smallest_cosine_and_names_what_made_the_reference() -> None:
    of, made = demo.job(way=demo.WAYS[2]), {"reference_workflow": "pytorch", "reference_precision": "fp32"}
    made |= {"reference_device": "cpu", "reference_versions": {"torch": "torch 2.9.0", "numpy": "numpy 2.3.1"}}
    metrics = [{"relative_l2_error": 0.02, "cosine_similarity": c} for c in (0.9998, 0.9991)]
    records = [demo.ok(of, b, metrics=m, effective=made) for b, m in zip((1, 4), metrics, strict=True)]
    table = tables.mismatch_table(select(records), CLASS)
    assert cells(table, "resnet18", "onnxruntime_cpu int8")[3].sub == "0.999100"
    assert "made by pytorch fp32 on cpu (numpy 2.3.1, torch 2.9.0)" in table.caption
    before = tables.mismatch_table(select([demo.ok(of, 1)]), CLASS)
    assert cells(before, "resnet18", "onnxruntime_cpu int8")[3].sub == ""
    assert "made by" not in before.caption


def test_the_mismatch_table_shows_the_worst_batch() -> None:
    of = demo.job(way=demo.WAYS[2])
    worse = {"mismatch_1e-3_pct": 97.0, "mismatch_1e-4_pct": 99.0, "top1_agreement": 0.5, "relative_l2_error": 0.00004}
    better = {"mismatch_1e-3_pct": 1.0, "mismatch_1e-4_pct": 99.5, "top1_agreement": 1.0, "relative_l2_error": 0.00002}
    selection = select([demo.ok(of, 1, metrics=worse), demo.ok(of, 4, metrics=better), demo.ok(of, 16, metrics={})])
    row = cells(tables.mismatch_table(selection, CLASS), "resnet18", "onnxruntime_cpu int8")
    assert [c.text for c in row] == ["97.00", "99.50", "50.00", "4.0e-05", "0", "1, 4, 16"]
    assert [c.note for c in row[:2]] == ["batch 1", "batch 4"]


def test_columns_that_no_run_fills_are_left_out() -> None:
    table = tables.cost_table(select([small(metrics={"load_ms": 12.5, "engine_bytes": 2**21})]), CLASS)
    assert [(c.heading, c.unit) for c in table.columns] == [("Engine file", "MiB"), ("Load", "ms")]
    assert [c.text for c in table.groups[0].rows[0].cells] == ["2.00", "12.50"]


def test_the_outcome_table_accounts_for_every_point() -> None:
    table = coverage.outcome_table(select(demo.rough_sweep()))
    heads = [c.heading for c in table.columns]
    assert heads == ["Asked", "Ok", "Ok but flagged", "Unsupported", "Out of memory", "Not run", "No record"]
    totals = [sum(int(row.cells[i].text) for _, row in table.rows) for i in range(len(heads))]
    assert totals == [27, 21, 2, 3, 1, 1, 1]
    assert totals[0] == sum(totals) - totals[0] - totals[2]


def test_everything_that_is_not_ok_has_its_reason_and_hint() -> None:
    table = coverage.reason_table(select(demo.rough_sweep()))
    assert table is not None
    found = {(title, r.heading): [c.text for c in r.cells] for title, r in table.rows}
    refused = found["resnet50", "onnxruntime_cpu int8"]
    assert refused[:2] == ["all of batches 1, 4, 16", "unsupported"]
    assert refused[3:] == ["this stack's onnxruntime has no static quantizer", "Do something about it."]
    assert found["mobilenet_v2", "onnxruntime_cpu fp32"][:2] == ["batch 4", "no record"]
    assert len(list(table.rows)) == 4


def test_a_sweep_in_which_all_is_well_has_no_table_of_reasons_or_flags() -> None:
    assert [t.key for t in coverage.coverage_tables(select(demo.sweep()))] == ["outcomes"]


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.OK])
def test_every_outcome_is_counted_and_explained(outcome: Outcome) -> None:
    selection = select([demo.bad(demo.job(), 1, outcome, "because of this")])
    row = next(coverage.outcome_table(selection).rows)[1]
    assert sum(int(c.text) for c in row.cells) - int(row.cells[0].text) == 3
    reasons = coverage.reason_table(selection)
    assert reasons is not None and "because of this" in [c.text for _, r in reasons.rows for c in r.cells]


def test_runs_that_agree_have_no_differences() -> None:
    assert provenance.difference_table(select(demo.sweep())) is None


def test_another_library_version_is_called_out_with_the_runs_it_holds_for() -> None:
    records = demo.sweep()
    libraries = {**demo.STACK.libraries, "torch": "2.9.0"}
    records[0] = replace(records[0], stack=replace(demo.STACK, libraries=libraries))
    table = provenance.difference_table(select(records))
    assert table is not None
    rows = [[r.heading, *(c.text for c in r.cells)] for _, r in table.rows]
    assert rows[0][:3] == ["Stack: libraries.torch", "2.8.0", "26"]
    assert rows[1] == ["", "2.9.0", "1", "pytorch fp32; mobilenet_v2"]


def test_facts_of_the_moment_are_shown_as_a_range_and_are_no_difference() -> None:
    selection = select(demo.sweep())
    table = provenance.provenance_table(selection, CLASS)
    assert cells(table, "Host", "load_1min")[0].text == "0.0300 to 0.480"
    assert cells(table, "Provenance", "git_revision")[1].text == "all 27"
    assert cells(table, "Stack", "libraries.onnxruntime")[0].text == "1.22.1"
