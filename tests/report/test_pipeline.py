# SPDX-License-Identifier: Apache-2.0
"""The section on pipelines: its tables, its figures, and that no pipeline stands among latencies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from farm.contract.codec import to_json
from farm.contract.outcome import Outcome
from farm.contract.pipeline import (
    STAGES,
    WORKERS,
    Bottleneck,
    LoadPoint,
    OverlappedPass,
    PipelineResult,
    PipelineSpec,
    QueueFill,
    SerialPass,
    StageTimes,
    WorkerLoad,
)
from farm.contract.record import PIPELINE, Record
from farm.report import compose
from farm.report.compose import write_report
from farm.report.pipeline import pipeline_section
from farm.report.pipeline_drawing import shares_svg
from farm.report.select import select
from tests.report import demo

SHARES = {"decode": 0.3, "preprocess": 0.2, "infer": 0.4}
SAID = "The bottleneck is inference: <b>busy</b>."


def load(rate: float, p50_ms: float | None, why: str = "") -> LoadPoint:
    p50 = None if p50_ms is None else p50_ms * 1e6
    p99 = None if p50 is None else 3 * p50
    return LoadPoint(rate, rate / 100, 500, 0, rate, 100, 5.0, 1e6, 2e6, p50, p50, p99, why)


def result(**changes: Any) -> PipelineResult:
    """A made-up study at batch 8 with a slow inference."""
    stages = [StageTimes(n, "batch", 200, 2e6, 3e6, 2e6, SHARES.get(n, 0.02)) for n in STAGES]
    serial = SerialPass(1600, 200, 10**10, 50.0, 16e6, 0.02, stages)
    loads = [WorkerLoad(n, 1, 0.9 if n == "device" else 0.2, dict.fromkeys(WORKERS[n], 0.1)) for n in WORKERS]
    queues = [QueueFill(n, 16, 3.5, 0.25, 0.5) for n in WORKERS if n != "decode"]
    over = OverlappedPass(
        900, 10**10, 90.0, loads, queues, Bottleneck("device", "infer", 0.9, "device", True, SAID), 1.8, 100.0, 0.9
    )
    rates = [load(30.0, 10.0), load(80.0, 25.0), load(120.0, None, "more than it can do")]
    made = PipelineResult(8, 64, 64 * 81920, "ab" * 32, "Pillow 0, libjpeg-turbo 0", "copies", serial, over, rates)
    return replace(made, **changes)


def study(of: PipelineResult | None = None, **overrides: Any) -> Record:
    job = demo.job(pipeline=PipelineSpec())
    effective = {"precision": "fp32", "threads": 8, "pipeline": to_json(of or result())}
    fields = {"point": PIPELINE, "effective": effective, "metrics": {"pipeline_serial_per_s": 50.0}, "intervals": {}}
    return demo.ok(job, 16, withheld={}, mismatch=[], **(fields | overrides))


def test_the_section_has_the_passes_the_stages_the_load_and_the_bottleneck() -> None:
    section = pipeline_section(select([study()]))
    assert section is not None
    tables = {table.key: list(table.rows) for table in (*section.tables, *section.folded)}
    ((_, passes),) = tables["pipeline-passes"]
    assert passes.heading == "resnet18 pytorch fp32, batch 16"
    assert [cell.text for cell in passes.cells] == ["50.00", "90.00", "1.80", "100.0", "90.00", "infer", "90.00"]
    assert passes.cells[5].sub == "the serial pass agrees"
    ((_, stages),) = tables["pipeline-stages"]
    assert [cell.text for cell in stages.cells] == ["2.00"] * 7
    assert stages.cells[4].sub == "40.00 %"
    loads = [row for _, row in tables["pipeline-load"]]
    assert [cell.text for cell in loads[0].cells] == ["30.00", "30.00", "5.00", "10.00", "10.00", "30.00", "yes"]
    assert [cell.text for cell in loads[2].cells][3:] == ["\u2013"] * 3 + ["overloaded"]
    assert loads[2].cells[6].sub == "more than it can do"
    assert [row.heading for _, row in tables["pipeline-workers"]] == list(WORKERS)
    assert [figure.key for figure in section.figures] == ["pipeline-shares", "pipeline-load"]
    assert [sentence.text for sentence in section.sentences] == [f"resnet18 pytorch fp32, batch 16: {SAID}"]


def test_a_pass_that_was_not_made_is_a_dash_and_no_figure() -> None:
    section = pipeline_section(select([study(result(serial=None, loads=[]))]))
    assert section is not None and section.figures == ()
    assert [table.key for table in section.tables] == ["pipeline-passes"]
    ((_, row),) = section.tables[0].rows
    assert (row.cells[0].text, row.cells[0].note) == ("\u2013", "this pass was not asked for")
    alone = pipeline_section(select([study(result(overlapped=None, loads=[]))]))
    assert alone is not None and alone.sentences == () and alone.folded == ()


def test_no_study_stands_among_latencies_and_no_latency_among_studies() -> None:
    mixed = [study(), *(demo.ok(demo.job(), size) for size in demo.SIZES)]
    chosen = select(mixed)
    assert len(chosen.pipelines) == 1 and len(chosen.ok) == 3 and len(chosen.ran) == 4
    assert len(chosen.timed.points) == 3 and len(chosen.timed.series()) == 1
    document = compose.compose(mixed, title="t")
    rows = [row.heading for s in document.sections if s.key.startswith("on-") for t in s.tables for _, row in t.rows]
    assert rows and not any("pipeline" in row for row in rows)
    assert any(sentence.text == "The bottleneck of 1 pipeline: infer in 1." for sentence in document.summary)
    assert any("lowest latency at batch 1" in sentence.text for sentence in document.summary)


def test_a_failed_study_is_told_with_the_others_and_has_no_section() -> None:
    failed = demo.bad(demo.job(pipeline=PipelineSpec()), 16, Outcome.FAILED, "no file", point=PIPELINE)
    document = compose.compose([failed], title="t")
    assert "pipeline" not in {section.key for section in document.sections}
    text = "".join(sentence.text for sentence in document.summary)
    assert "no file" in text and "no point ran" not in text


def test_runs_are_in_the_order_of_their_batch_sizes() -> None:
    records = [study(result(batch_size=size), batch_size=size, run_id=f"run-b{size}") for size in (16, 1, 4)]
    chosen = select(records)
    assert [point.record.batch_size for point in chosen.pipelines] == [1, 4, 16]
    assert select(records[::-1]) == chosen


def test_what_cannot_be_read_is_left_out() -> None:
    broken = study(effective={"pipeline": {"schema": 99, "from": "later"}})
    assert pipeline_section(select([broken])) is None


def test_the_page_is_written_escaped_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report([study()], tmp_path / name, title="t")
    page = (tmp_path / "a" / "index.html").read_text()
    assert page == (tmp_path / "b" / "index.html").read_text()
    assert "<b>busy</b>" not in page and "&lt;b&gt;busy" in page
    assert "figures/pipeline-load.png" in (tmp_path / "a" / "report.md").read_text()
    assert (tmp_path / "a" / "figures" / "pipeline-shares.svg").is_file()
    assert (tmp_path / "a" / "figures" / "pipeline-load.png").stat().st_size > 1000


def test_bars_are_in_the_order_of_the_stages_and_end_at_the_whole() -> None:
    shares = [("decode", 25.0), ("infer", 75.0)]
    drawn = shares_svg([("one & all", shares)], {"decode": "decode", "infer": "infer"})
    assert drawn.index("decode 25 %") < drawn.index("infer 75 %")
    assert "one &amp; all" in drawn and 'x="194.0"' in drawn
