# SPDX-License-Identifier: Apache-2.0
"""What is drawn, and that Vega-Lite takes it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import altair
import pytest

from farm.contract.record import Flag, Interval
from farm.errors import IntegrityError
from farm.report import charts, drawing, figures
from farm.report.select import select
from tests.report import demo


def values(spec: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    """The data of every layer of a panel that has this mark."""
    found = []
    for layer in spec["layer"]:
        kind = layer["mark"]["type"] if isinstance(layer["mark"], dict) else layer["mark"]
        if kind == mark:
            found += layer.get("data", spec.get("data", {}))["values"]
    return found


@pytest.mark.parametrize("records", [demo.sweep(), demo.rough_sweep()], ids=["all ok", "rough"])
def test_every_chart_is_valid_vega_lite(records: list[Any]) -> None:
    made = figures.make_figures(select(records), demo.load_samples)
    assert [f.key for f in made] == ["throughput", "latency", "distribution"]
    for figure in made:
        for spec in (figure.sheet, *(p.spec for p in figure.panels)):
            altair.Chart.from_dict(spec, validate=True)


def test_there_is_a_panel_for_each_model_and_a_style_for_each_series() -> None:
    figure = figures.throughput_figure(select(demo.sweep()))
    assert figure is not None
    assert [p.title for p in figure.panels] == ["mobilenet_v2", "resnet18", "resnet50"]
    assert [label for label, _ in figure.legend] == ["pytorch fp32", "onnxruntime_cpu fp32", "onnxruntime_cpu int8"]
    assert len({(s.role, s.shape) for _, s in figure.legend}) == 3
    assert figure.legend[0][1].role == "s0"


def test_thirty_six_series_have_styles_of_their_own() -> None:
    found = drawing.styles([("reference", True), *((f"series {n}", False) for n in range(36))])
    assert len({(s.role, s.shape) for s in found.values()}) == 37


def test_a_flagged_point_is_drawn_hollow_and_an_invalid_one_off_the_line() -> None:
    of = demo.job()
    flags = {1: [], 4: [Flag("unstable", "suspect", "x")], 16: [Flag("foreign_process", "invalid", "x")]}
    figure = figures.throughput_figure(select([demo.ok(of, b, flags=f) for b, f in flags.items()]))
    assert figure is not None and figure.hollow and "Hollow" in figure.caption
    layers = figure.panels[0].spec["layer"]
    hollow = [x for x in layers if isinstance(x["mark"], dict) and x["mark"].get("fill")]
    assert len(hollow) == 1
    assert [v["batch"] for v in values(figure.panels[0].spec, "line")] == [1, 4]
    assert sorted(v["batch"] for v in values(figure.panels[0].spec, "point")) == [1, 4, 16]


def test_intervals_are_drawn_where_known() -> None:
    of = demo.job()
    span = Interval(90.0, 110.0, 0.95, "m", "within this run")
    known = demo.ok(of, 1, intervals={"throughput_per_s": span})
    figure = figures.throughput_figure(select([known, demo.ok(of, 4, intervals={})]))
    assert figure is not None
    assert [(v["low"], v["high"]) for v in values(figure.panels[0].spec, "rule")] == [(90.0, 110.0)]


def test_the_alternative_text_says_what_the_panel_shows() -> None:
    rates = {1: 50.0, 16: 80.0}
    records = [demo.ok(demo.job(), b, metrics={"throughput_per_s": r}) for b, r in rates.items()]
    figure = figures.throughput_figure(select(records))
    assert figure is not None
    expected = "resnet18: pytorch fp32 from 50.00 (batch 1) to 80.00 inputs/s (batch 16)"
    assert figure.panels[0].alt == f"Throughput against batch size, {expected}"


def test_a_strip_shows_both_extremes_and_few_samples() -> None:
    point = select([demo.ok(demo.job(), 1)]).points[0]
    raw = demo.samples_ns(demo.job(), 1)
    found = figures.spread(point, raw)
    assert found is not None
    median = point.record.metrics["latency_ms"]
    assert median is not None
    assert len(found.ticks) == figures.MOST_TICKS
    assert found.ticks[0] == pytest.approx(100 * (min(raw) / 1e6 / median - 1))
    assert found.ticks[-1] == pytest.approx(100 * (max(raw) / 1e6 / median - 1))
    assert found.low <= found.q1 <= found.median == 0 <= found.q3 <= found.high


def test_without_samples_the_box_comes_from_the_summary() -> None:
    figure = figures.distribution_figure(select([demo.ok(demo.job(), 1)]))
    assert figure is not None and not values(figure.panels[0].spec, "tick")[1:]
    assert "Ticks" not in figure.caption


def test_samples_that_cannot_be_read_are_a_problem_and_no_error() -> None:
    def broken(_record: object) -> list[int]:
        raise IntegrityError("the blob does not match its sha256")

    record = demo.ok(demo.job(), 1)
    figure = figures.distribution_figure(select([record]), broken)
    assert figure is not None
    assert [(p.where, "does not match" in p.problem) for p in figure.problems] == [(record.run_id, True)]


def test_a_long_tail_bends_the_scale_and_a_wide_range_is_logarithmic() -> None:
    tail = charts.Spread("a", "a", -1, -0.5, 0, 0.5, 900)
    spec = charts.single(charts.distribution_chart([tail], drawing.styles([("a", False)])), 100)
    assert "symlog" in str(spec)
    dots = [charts.Dot("a", "a", 1, 0.1), charts.Dot("b", "b", 1, 9.0)]
    spec = charts.single(charts.latency_chart(dots, drawing.styles([("a", False), ("b", False)])), 100)
    assert "'log'" in str(spec)


def test_a_drawing_takes_its_colours_from_the_page_and_keeps_its_ids_to_itself() -> None:
    figure = figures.throughput_figure(select(demo.rough_sweep()))
    assert figure is not None
    svg = drawing.to_svg(figure.panels[0].spec, "f1-2")
    ET.fromstring(svg)
    used = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg))
    assert {u for u in used if u.startswith("#")} == set()
    assert {"var(--fig-s0)", "var(--fig-s1)", "var(--fig-s2)", "var(--fig-surface)", "var(--fig-muted)"} <= used
    assert all(name.startswith("f1-2-") for name in re.findall(r'\bid="([^"]+)"', svg))


def test_a_large_figure_has_a_sheet_that_says_what_it_leaves_out() -> None:
    records = [demo.ok(demo.job(f"model_{n}"), batch) for n in range(14) for batch in (1, 2)]
    figure = figures.throughput_figure(select(records))
    assert figure is not None
    assert (len(figure.panels), len(figure.sheet["concat"])) == (14, charts.MOST_IN_SHEET)
    assert "The first 12 of the page's 14 panels" in " ".join(figure.sheet["title"]["subtitle"])


def test_a_figure_of_more_panels_than_a_page_can_carry_says_so_and_where_the_rest_is() -> None:
    count = charts.MOST_IN_PAGE + 3
    records = [demo.ok(demo.job(f"model_{n:02d}"), batch) for n in range(count) for batch in (1, 8)]
    made = figures.make_figures(select(records), demo.load_samples)
    assert [len(figure.panels) for figure in made] == [charts.MOST_IN_PAGE] * 3
    assert all(f"The first {charts.MOST_IN_PAGE} of {count} panels; the tables" in f.caption for f in made)


def test_one_batch_size_draws_no_throughput_against_it() -> None:
    assert figures.throughput_figure(select([demo.ok(demo.job("model"), 1)])) is None


def test_a_selection_in_which_nothing_ran_has_no_figures() -> None:
    from farm.contract.outcome import Outcome

    assert figures.make_figures(select([demo.bad(demo.job(), 1, Outcome.FAILED, "x")])) == []
