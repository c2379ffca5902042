# SPDX-License-Identifier: Apache-2.0
"""The accuracy in a report: its table, what it is held against, and that it disturbs no table of times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from farm.contract.record import BlobRef, Record
from farm.report import coverage, results, tables, write_report
from farm.report.accuracy import accuracy_table
from farm.report.select import Selection, select
from farm.report.table import Cell
from tests.report import demo

CLASS = demo.DEVICE.device_class


def row(selection: Selection, model: str, start: str) -> dict[str, Cell]:
    """The cells of the row of a model that begins so, by heading."""
    table = accuracy_table(selection, CLASS)
    ((_, found),) = [(m, r) for m, r in table.rows if m == model and r.heading.startswith(start)]
    return dict(zip((c.heading for c in table.columns), found.cells, strict=True))


def test_a_row_has_shares_with_intervals_and_the_difference_to_fp32_in_points() -> None:
    cells = row(select(demo.with_accuracy()), "resnet18", "onnxruntime_cpu int8 (calibration batch 16)")
    assert (cells["Top-1"].text, cells["Top-1"].sub) == ("98.33", "96.41\u201399.23")
    assert cells["Against fp32"].text == "\u22120.83"
    assert "pytorch fp32" in cells["Against fp32"].note
    assert (cells["Top-5"].text, cells["Images"].text) == ("100.00", "360")
    assert [cells[name].text for name in ("Calibration", "Samples", "Calibration batch")] == ["entropy", "64", "16"]
    assert cells["Top-1"].anchor.endswith("-accuracy")
    fp32 = row(select(demo.with_accuracy()), "resnet18", "onnxruntime_cpu fp32")
    assert (fp32["Against fp32"].text, fp32["Calibration"].text) == ("0.00", "\u2013")


def test_without_pytorch_the_workflows_own_fp32_is_the_base() -> None:
    kept = [r for r in demo.with_accuracy() if r.job.workflow != "pytorch"]
    cells = row(select(kept), "resnet18", "onnxruntime_cpu int8 (calibration batch 1)")
    assert (cells["Against fp32"].text, cells["Against fp32"].note) == ("\u22121.94", "against onnxruntime_cpu fp32")
    alone = [r for r in kept if r.job.precision == "int8"]
    cells = row(select(alone), "resnet18", "onnxruntime_cpu int8 (calibration batch 1)")
    assert "neither" in cells["Against fp32"].note


def test_weights_that_were_trained_apart_are_not_held_against_each_other() -> None:
    def trained(record: Record) -> Record:
        return replace(record, artifacts=[BlobRef("weights", ("a" if record.job.precision == "int8" else "b") * 64, 8)])

    cells = row(
        select([trained(r) for r in demo.with_accuracy()]), "resnet18", "onnxruntime_cpu int8 (calibration batch 1)"
    )
    assert cells["Top-1"].text == "97.22"
    assert "each trained where it ran" in cells["Against fp32"].note


def test_an_accuracy_that_was_not_run_says_why() -> None:
    cells = row(select(demo.with_accuracy()), "resnet50", "onnxruntime_cpu fp32")
    assert (cells["Top-1"].text, cells["Top-1"].muted) == ("\u2013", True)
    assert "no point of the ladder was ok" in cells["Top-1"].note


def test_no_other_table_changes_with_it() -> None:
    records = demo.with_accuracy()
    timed = [r for r in records if r.point == "latency"]
    whole, without = select(records), select(timed)
    for make in (tables.latency_table, tables.throughput_table, tables.speed_up_table, tables.mismatch_table,
                 tables.cost_table, tables.spread_table):  # fmt: skip
        assert make(whole, CLASS) == make(without, CLASS)
    assert "Accuracy" in [table.title for table in tables.measured_tables(whole, CLASS)]
    assert "Accuracy" not in [table.title for table in tables.measured_tables(select(demo.sweep()), CLASS)]


def test_it_is_counted_as_a_point_of_its_own() -> None:
    records = demo.with_accuracy()
    found = coverage.counts(select(records))
    assert (found["ok"], found["failed"], found.total()) == (36 + 11, 1, 48)
    lost = [r for r in records if r.point == "latency"]
    selection = select(lost)
    assert selection.asked == 48
    assert coverage.counts(selection)["missing"] == 12
    (reasons,) = [t for t in coverage.coverage_tables(selection) if t.key == "reasons"]
    assert {r.cells[0].text for _, r in reasons.rows} == {"accuracy"}


def test_a_refused_job_stands_for_its_accuracy_too() -> None:
    of = demo.with_accuracy()[0].job
    refused = demo.bad(of, None, demo.Outcome.UNSUPPORTED, "not here", device=None, stack=None)
    selection = select([refused])
    assert (selection.asked, coverage.counts(selection)["unsupported"], selection.gaps) == (4, 4, ())


def test_a_later_generation_replaces_it_at_whatever_batch_it_was_taken() -> None:
    first = demo.with_accuracy()[3]
    job = replace(first.job, generation=1)
    later = replace(demo.evaluated(job, 300), job=job, batch_size=4)
    selection = select([first, later])
    assert [p.record.metrics["top1"] for p in selection.accuracy] == [300 / 360]
    assert selection.superseded == 1


def test_the_page_and_the_csv_have_it(tmp_path: Path) -> None:
    files = write_report(demo.with_accuracy(), tmp_path, title="Accuracy (test data)", samples=demo.load_samples)
    page, told = files.html.read_text(), files.markdown.read_text()
    assert f'id="accuracy-{CLASS}"' in page
    assert "| Top-1, % | Against fp32, points |" in told
    lines = results.csv_text(select(demo.with_accuracy())).splitlines()
    head = lines[0].split(",")
    (line,) = [x.split(",") for x in lines if "resnet18" in x and "pytorch" in x and ",accuracy," in x]
    assert line[head.index("top1")] == str(357 / 360)
