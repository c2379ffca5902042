# SPDX-License-Identifier: Apache-2.0
"""Sequences in a report: rows, references and panels apart, and a figure of the latency against the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import altair

from farm.contract.job import JobSpec, ModelSpec
from farm.contract.record import Record
from farm.identity import identity
from farm.report import sequences
from farm.report.results import result_rows
from farm.report.select import Selection, select
from farm.store.columns import row_of
from tests.report import demo

LENGTHS = (64, 128, 512)


def job(tokens: int, way: tuple[str, str] = demo.WAYS[0]) -> JobSpec:
    made = demo.job(way=way, job_id=f"{way[0]}{way[1]}{tokens}")
    return replace(made, model=ModelSpec("bert-base", "encoder", (tokens,)))


def record(tokens: int, batch: int = 1, way: tuple[str, str] = demo.WAYS[0]) -> Record:
    return demo.ok(job(tokens, way), batch)


def chosen(lengths: tuple[int, ...] = LENGTHS, batches: tuple[int, ...] = (1, 4, 16)) -> Selection:
    return select([record(n, batch, way) for n in lengths for batch in batches for way in demo.WAYS[:2]])


def test_each_length_is_a_model_of_its_own_in_order_with_its_own_reference() -> None:
    selection = chosen()
    (name,) = selection.classes
    assert selection.models(name) == ("bert-base@64", "bert-base@128", "bert-base@512")
    for series in selection.series(name):
        assert series.variant == ""
        bases = selection.references(series)
        assert {p.record.job.model.label for p in bases} == {series.model}


def test_the_index_and_the_comparison_tell_lengths_apart() -> None:
    row = row_of(record(512))
    assert (row["model"], row["sequence"]) == ("bert-base@512", 512)
    assert "sequence" not in row_of(demo.ok(demo.job(), 1))
    assert identity(record(64))["model"] == "bert-base@64"
    assert identity(demo.ok(demo.job(), 1))["model"] == "resnet18"


def test_every_line_of_the_results_has_its_tokens() -> None:
    kinds, rows = result_rows(chosen((64,), (1,)))
    assert kinds["sequence"] == "BIGINT"
    assert {(row["model"], row["sequence"]) for row in rows} == {("bert-base@64", 64)}
    assert {row["sequence"] for row in result_rows(select(demo.sweep()))[1]} == {None}


def values(spec: dict[str, Any]) -> set[tuple[str, int]]:
    return {(v["series"], v["batch"]) for layer in spec["layer"] for v in layer["data"]["values"]}


def test_latency_is_drawn_against_tokens_at_the_smallest_and_the_largest_batch() -> None:
    figure = sequences.sequence_figure(chosen())
    assert figure is not None
    assert [panel.title for panel in figure.panels] == ["bert-base, batch 1", "bert-base, batch 16"]
    for spec in (figure.sheet, *(panel.spec for panel in figure.panels)):
        altair.Chart.from_dict(spec, validate=True)
    drawn = values(figure.panels[0].spec)
    assert drawn == {(label, n) for label in ("pytorch fp32", "onnxruntime_cpu fp32") for n in LENGTHS}
    assert "pytorch fp32 512 tokens: " in figure.panels[0].alt


def test_one_length_or_none_draws_nothing() -> None:
    assert sequences.sequence_figure(chosen((64,))) is None
    assert sequences.sequence_figure(select(demo.sweep())) is None
