# SPDX-License-Identifier: Apache-2.0
"""The papers' tables and figures: all are there, each cell is what its record says, and none is filled otherwise."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from farm.contract.job import JobSpec, ModelSpec
from farm.contract.outcome import Outcome
from farm.contract.record import Flag, Interval, Record
from farm.errors import UnavailableError, UsageError
from farm.report import text
from farm.report.document import Document
from farm.report.papers import compose_paper, papers, write_paper
from farm.report.papers.document import KINDS, SPREAD
from farm.report.papers.published import Paper
from farm.report.table import Cell, Table
from tests.report import demo, paper_demo
from tests.report.paper_demo import FASTER, job, mean_ms, out_of_memory, timed, whole

EXPLORING, QUANTIZATION = papers()["exploring-tensorrt"], papers()["quantization-soc"]
BOTH = pytest.mark.parametrize("of", [EXPLORING, QUANTIZATION], ids=lambda of: of.key)


def composed(of: Paper, records: list[Record], **more: object) -> Document:
    """The one document of records of one class."""
    (made,) = compose_paper(of, records, **more).values()  # type: ignore[arg-type]
    return made


@cache
def full(key: str) -> Document:
    """The document of all records of a paper."""
    return composed(papers()[key], whole(papers()[key]))


def table(document: Document, key: str) -> Table:
    found = [t for section in document.sections for t in section.tables if t.key == f"{key}-table"]
    assert len(found) == 1, key
    return found[0]


def cells(document: Document, key: str, heading: str, group: str = "") -> tuple[Cell, ...]:
    """The row of a table by its heading, and by its group where several have that heading."""
    rows = [row for title, row in table(document, key).rows if row.heading.startswith(heading) and group in title]
    assert len(rows) == 1, [row.heading for _, row in table(document, key).rows]
    return rows[0].cells


def texts(found: tuple[Cell, ...]) -> list[str]:
    return [cell.text for cell in found]


def shown(values: list[float]) -> list[str]:
    return [text.number(value) for value in values]


def test_every_table_and_figure_that_the_papers_have_is_listed() -> None:
    assert [e.key for e in EXPLORING.exhibits] == ["table_1", "table_3", "table_4", *(f"fig_{n}" for n in range(2, 7))]
    assert [e.key for e in QUANTIZATION.exhibits] == [
        *("table_1", "table_2", "table_3", "headline", "gpu_utilisation"),
        *(f"fig_{n}" for n in range(2, 14)),
    ]


@BOTH
def test_nothing_of_a_paper_is_left_out_with_all_records_or_with_one(of: Paper) -> None:
    few = [timed(of, job(of, of.models[0], of.ways[0]), "W0", 1)]
    for made in (full(of.key), composed(of, few)):
        assert {e.kind for e in of.exhibits} <= {*KINDS, SPREAD}
        assert [t.key for s in made.sections for t in s.tables if t.key.endswith("-table")] == [
            f"{e.key}-table" for e in of.exhibits
        ]
        for exhibit in of.exhibits:
            found = [cell for _, row in table(made, exhibit.key).rows for cell in row.cells]
            assert found and all(cell.text for cell in found), exhibit.key
    assert {f.key for f in full(of.key).all_figures} == {
        e.key.replace("_", "-") for e in of.exhibits if e.key.startswith("fig")
    }


@BOTH
def test_a_published_number_stands_in_its_table_as_printed(of: Paper) -> None:
    made = full(of.key)
    for exhibit in of.exhibits:
        for values in exhibit.published.values():
            listed = values if isinstance(values, list) else values.values() if isinstance(values, dict) else [values]
            on_page = [
                c.text for _, row in table(made, exhibit.key).rows if row.heading.startswith("Paper") for c in row.cells
            ]
            assert [
                v for v in listed if v is not None and str(v) not in on_page and f"{v:f}".rstrip("0") not in on_page
            ] == []


def test_execution_times_are_the_means_and_throughput_the_largest_over_batch_sizes() -> None:
    made = full(EXPLORING.key)
    for way in EXPLORING.ways:
        expected = [mean_ms(EXPLORING, model, way.tag, 1) for model in EXPLORING.models]
        assert texts(cells(made, "fig_2", way.label)) == shown(expected)
        best = [1000 * 256 / mean_ms(EXPLORING, model, way.tag, 256) + 256 for model in EXPLORING.models]
        assert texts(cells(made, "fig_3", way.label)) == shown(best)
        assert {c.sub for c in cells(made, "fig_3", way.label)} == {"batch 256"}


def test_figures_over_the_batch_size_hold_their_model_and_metric() -> None:
    made = full(EXPLORING.key)
    for key in ("fig_5", "fig_6"):
        memory = [1024.0 + batch for batch in EXPLORING.batches]
        assert texts(cells(made, key, "W2")) == shown(memory)
    speed = [1000 * b / mean_ms(EXPLORING, "resnet152", "W1", b) + b for b in EXPLORING.batches]
    assert texts(cells(made, "fig_4", "W1")) == shown(speed)
    used = [100 * (0.9 + b / 10000) for b in QUANTIZATION.batches]
    assert texts(cells(full(QUANTIZATION.key), "fig_7", "W3")) == shown(used)


def test_the_largest_speed_up_is_of_means_and_names_workflow_and_batch_size() -> None:
    made = full(EXPLORING.key)
    row = cells(made, "table_4", "Here, batch 1")
    assert texts(row) == shown([FASTER["W2"]] * 8)
    assert {c.sub for c in row} == {"W2, batch 1"}
    records = [r for r in whole(EXPLORING) if not (r.job.workflow == "torch_tensorrt" and r.batch_size == 4)]
    fast = job(EXPLORING, "resnet18", EXPLORING.way("W1"))
    one = timed(EXPLORING, fast, "W1", 4)
    one = replace(one, metrics=one.metrics | {"latency_mean_ms": mean_ms(EXPLORING, "resnet18", "W0", 4) / 5})
    found = cells(composed(EXPLORING, [*records, one]), "table_4", "Here, any")[0]
    assert (found.text, found.sub) == (text.number(5.0), "W1, batch 4")


def test_runs_of_another_protocol_are_not_compared_and_the_reason_is_said() -> None:
    records = [r if r.job.workflow == "pytorch" else _rougher(r) for r in whole(EXPLORING)]
    found = cells(composed(EXPLORING, records), "table_4", "Here, batch 1")
    assert set(texts(found)) == {text.ABSENT}
    assert {c.note for c in found} == {"not compared with pytorch fp32: the two ran with different protocol switches"}


def _rougher(record: Record) -> Record:
    protocol = replace(record.job.protocol, min_iterations=30)
    return replace(record, job=replace(record.job, protocol=protocol))


def test_the_largest_batch_size_says_why_the_ladder_ended() -> None:
    of = job(EXPLORING, "resnet18", EXPLORING.way("W1"))
    short = job(EXPLORING, "resnet34", EXPLORING.way("W1"), batches=replace(of.batches, sizes=(1, 2)))
    saturated = job(EXPLORING, "resnet50", EXPLORING.way("W1"))
    records = [timed(EXPLORING, of, "W1", b) for b in (1, 2, 4)] + [out_of_memory(of, 8)]
    records += [timed(EXPLORING, short, "W1", b) for b in (1, 2)]
    records += [timed(EXPLORING, saturated, "W1", 1), timed(EXPLORING, saturated, "W1", 2, ladder_stop="saturated")]
    row = cells(composed(EXPLORING, records), "table_1", "Here", "W1")
    assert [(c.text, c.sub) for c in row[:3]] == [
        ("4", "out of memory at 8"),
        ("2", "no more asked for"),
        ("2", "saturated"),
    ]
    assert {c.text for c in row[3:]} == {"not asked"}


def test_mismatch_is_the_worst_over_batch_sizes_by_both_of_the_papers_tolerances() -> None:
    made = full(EXPLORING.key)
    for rtol, worst in (("1e-3", 0.256), ("1e-4", 2.56)):
        row = cells(made, "table_3", f"Here, rtol {rtol}", "W2")
        assert texts(row) == [text.percent(worst)] * 8
        assert {c.sub for c in row} == {"batch 256"}


def test_accuracies_are_the_best_over_calibrations_and_drawn_against_the_calibration_batch() -> None:
    made = full(QUANTIZATION.key)
    row = cells(made, "table_2", "Here", "Top-1")
    assert texts(row) == ["70.000"] * 4
    assert ["calibration batch 8" in c.sub for c in row] == [False, True, True, True]
    assert texts(cells(made, "fig_10", "W1")) == ["65.000", "70.000"]
    assert [c.heading for c in table(made, "fig_10").columns] == ["Calibration batch 1", "Calibration batch 8"]
    assert texts(cells(made, "gpu_utilisation", "Here")) == [f"{text.number(90.01)} to {text.number(91.28)}"] * 3


def test_a_cell_without_a_record_says_why_and_is_never_filled() -> None:
    base = job(EXPLORING, "resnet152", EXPLORING.way("W0"))
    refused = job(EXPLORING, "resnet152", EXPLORING.way("W1"))
    ended = job(EXPLORING, "resnet152", EXPLORING.way("W2"))
    owed = job(EXPLORING, "resnet152", EXPLORING.way("W3"))
    other = job(EXPLORING, "resnet152", EXPLORING.way("W3"), workflow="onnxruntime_cuda", job_id="other")
    records = [timed(EXPLORING, base, "W0", 1), timed(EXPLORING, other, "W3", 1)]
    records += [demo.bad(refused, None, Outcome.UNSUPPORTED, "no torch_tensorrt here", device=paper_demo.GPU)]
    records += [timed(EXPLORING, ended, "W2", 1), out_of_memory(ended, 2)]
    made = composed(EXPLORING, records, expected=[replace(owed, target=_at_the_gpu())])
    assert texts(cells(made, "fig_4", "W1")) == ["unsupported"] * 9
    assert {c.note for c in cells(made, "fig_4", "W1")} == {"no torch_tensorrt here"}
    assert texts(cells(made, "fig_4", "W2"))[1:] == ["out of memory", *["not run"] * 7]
    assert texts(cells(made, "fig_4", "W3")) == ["no record"] * 9
    assert set(texts(cells(made, "fig_5", "W3"))) == {"not asked"}


def _at_the_gpu() -> object:
    from farm.contract.job import Target

    return Target(device_class=paper_demo.GPU.device_class)


def test_the_newest_record_that_is_ok_stands_in_a_cell_and_a_flagged_one_is_marked_and_hollow() -> None:
    old = job(EXPLORING, "resnet18", EXPLORING.way("W0"))
    new = replace(old, job_id="newer", sweep_id="later")
    flagged = [Flag("unstable", "suspect", "robust CV 4.1 % is above 2.5 %")]
    faster = timed(EXPLORING, new, "W0", 1, finished_at="2026-04-01T00:00:00.000000+00:00", flags=flagged)
    faster = replace(faster, metrics=faster.metrics | {"latency_mean_ms": 3.21})
    broken = replace(old, job_id="newest", sweep_id="last")
    failed = demo.bad(broken, 1, Outcome.FAILED, "it broke", finished_at="2026-05-01T00:00:00.000000+00:00")
    records = [timed(EXPLORING, old, "W0", 1), faster, replace(failed, device=paper_demo.GPU)]
    for order in (records, records[::-1]):
        made = composed(EXPLORING, order)
        found = cells(made, "fig_2", "W0")[0]
        assert found.text == "3.21"
        assert found.mark.startswith("\u2020")
        figure = next(f for f in made.all_figures if f.key == "fig-2")
        assert figure.hollow


def test_intervals_are_drawn_and_other_inputs_stand_aside_from_the_papers() -> None:
    of = job(EXPLORING, "resnet152", EXPLORING.way("W0"))
    small = job(EXPLORING, "resnet152", EXPLORING.way("W2"))
    small = replace(small, model=ModelSpec("resnet152", input_shape=(3, 32, 32)))
    span = Interval(100.0, 140.0, 0.95, "test", "within this run")
    records = [timed(EXPLORING, of, "W0", b, intervals={"throughput_per_s": span}) for b in (1, 2)]
    made = composed(EXPLORING, [*records, timed(EXPLORING, small, "W2", 1)])
    assert "100" in cells(made, "fig_4", "W0")[0].sub
    assert '"low": 100.0' in str(next(f for f in made.all_figures if f.key == "fig-4").sheet).replace("'", '"')
    assert texts(cells(made, "fig_4", "W2"))[0] == "other inputs"
    alone = composed(EXPLORING, [timed(EXPLORING, small, "W2", 1)])
    found = cells(alone, "fig_4", "W2")[0]
    assert found.mark.startswith("\u00a7")
    assert any("inputs of 3 x 32 x 32" in words for _, words in table(alone, "fig_4").notes)


def test_what_differs_from_the_paper_comes_from_the_records() -> None:
    def differing(records: list[Record]) -> dict[str, tuple[str, ...]]:
        section = next(s for s in composed(EXPLORING, records).sections if s.key == "differing")
        return {row.heading: tuple(texts(row.cells)) for _, row in section.tables[0].rows}

    facts = differing(whole(EXPLORING))
    assert facts["Device"] == ("NVIDIA Quadro P620", "Made-up GPU (test data)", "differs")
    assert facts["tensorrt"] == ("8.2.4", "8.6.0", "differs")
    assert facts["onnx"] == ("1.12.0", "1.12.0", "same")
    assert facts["Timed runs"] == ("50", "50", "same")
    assert facts["Batch sizes"][2] == "same"
    rough = differing([_rougher(r) for r in whole(EXPLORING)])
    assert rough["Timed runs"] == ("50", "at least 30 runs and 0 s", "differs")
    same = replace(paper_demo.GPU, name="NVIDIA Quadro P620")
    assert differing([replace(r, device=same) for r in whole(EXPLORING)])["Device"][2] == "same"


def test_each_device_class_has_a_document_and_jobs_that_are_no_cell_of_the_paper_are_left_out(tmp_path: Path) -> None:
    def moved(record: Record) -> Record:
        return replace(record, device=replace(paper_demo.GPU, device_id="b", device_class="other-gpu"))

    jobs: list[JobSpec] = [job(EXPLORING, "resnet18", way) for way in EXPLORING.ways]
    first = [timed(EXPLORING, of, f"W{n}", 1) for n, of in enumerate(jobs)]
    second = [moved(timed(EXPLORING, replace(of, job_id=f"x{n}"), f"W{n}", 1)) for n, of in enumerate(jobs)]
    files = write_paper("exploring-tensorrt", [*first, *second], tmp_path / "two")
    assert [f.html.parent.name for f in files] == ["made-up-gpu", "other-gpu"]
    (alone,) = write_paper("exploring-tensorrt", first, tmp_path / "one")
    assert alone.html == tmp_path / "one" / "index.html"
    graphs = [replace(r, job=replace(r.job, job_id=f"g{n}", options={"cuda_graph": True})) for n, r in enumerate(first)]
    (alone,) = write_paper("exploring-tensorrt", [*first, *graphs], tmp_path / "one")
    assert alone.csv is not None and alone.csv.read_text().count(",ok,") == 4
    with pytest.raises(UnavailableError, match="no record here belongs"):
        compose_paper(QUANTIZATION, [replace(r, job=replace(r.job, precision="fp16")) for r in first])


def test_an_unknown_paper_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no paper 'exploring'") as caught:
        write_paper("exploring", [], tmp_path)
    assert all(name in str(caught.value.hint) for name in papers())


def test_samples_that_cannot_be_read_are_listed_and_the_rest_is_written() -> None:
    def unreadable(record: Record) -> list[int] | None:
        raise OSError("gone")

    made = composed(QUANTIZATION, whole(QUANTIZATION), samples=unreadable)
    assert any(f.key == "fig-3" for f in made.all_figures)
    assert made.selection is not None
    assert {p.problem for p in made.selection.problems} == {"its samples could not be read: gone"}


def test_older_records_of_a_cell_are_left_out_of_the_records_behind_the_page() -> None:
    old = [r for r in whole(EXPLORING) if r.job.model.name == "resnet18"]
    later = "2026-06-01T00:00:00.000000+00:00"
    new = [
        replace(r, job=replace(r.job, job_id=r.job.job_id + "x"), run_id=r.run_id + "x", finished_at=later) for r in old
    ]
    made = composed(EXPLORING, [*old, *new])
    assert made.selection is not None
    assert {p.record.finished_at for p in made.selection.points} == {later}
    assert len(made.selection.points) == len(new)
