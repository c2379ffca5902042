# SPDX-License-Identifier: Apache-2.0
"""One time axis: the offset of the profiler's clock, the trace that Perfetto reads, the still picture."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.run import StageTime
from farm.explain.timeline import MOST_POINTS, assemble, facts, picture
from farm.report.drawing import stacked
from farm.report.timeline_drawing import by_depth, inference_svg, stages_svg
from workers.runner.measure import other_clocks
from workers.runner.timeline import offset_of, placed

STAGES = [StageTime("start", 1_000_000, 2_000_000), StageTime("profile", 2_000_000, 9_000_000)]
PART: dict[str, Any] = {
    "source": "torch.profiler 2.2.0",
    "clocks": [{"monotonic_ns": 1, "uncertainty_ns": 2}],
    "offset": {"add_ns": -5.0, "uncertainty_ns": 700.0, "markers": 5},
    "spans": [
        {"name": "infer", "start_ns": 4_000_000, "dur_ns": 1_000_000},
        {"name": "wait", "start_ns": 5_000_000, "dur_ns": 3_000_000},
    ],
    "events": [
        {"name": "aten::conv2d", "cat": "cpu_op", "start_ns": 4_100_000, "dur_ns": 200_000, "lane": "77"},
        {"name": "<kernel>", "cat": "kernel", "start_ns": 4_500_000, "dur_ns": 2_000_000, "lane": "7"},
        {"name": "Memcpy HtoD", "cat": "gpu_memcpy", "start_ns": 3_000_000, "dur_ns": 10_000, "lane": "8"},
    ],
}
SAMPLES = [{"ns": 500_000 + i * 100_000, "util": float(i % 5), "cpu_mhz": [1.0], "pinned": True} for i in range(200)]


@given(
    st.integers(-(10**18), 10**18),
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 5000)), min_size=1, max_size=20),
)
def test_the_true_offset_lies_within_what_the_markers_leave_open(true: int, pairs: list[tuple[int, int]]) -> None:
    markers = [(i * 10**6, i * 10**6 + b + a, float(i * 10**6 + b - true)) for i, (b, a) in enumerate(pairs)]
    found = offset_of(markers)
    assert found is not None
    assert abs(found["add_ns"] - true) <= found["uncertainty_ns"] + abs(true) * 1e-15 + 600
    assert found["uncertainty_ns"] <= min(a + b for b, a in pairs) / 2 + 600
    assert offset_of([]) is None


def test_events_of_the_trace_are_put_on_the_runners_clock_and_marks_are_left_out() -> None:
    def of(name: str, cat: str, us: float, **more: Any) -> dict[str, Any]:
        return {"ph": "X", "name": name, "cat": cat, "ts": us, "dur": 2.5, "tid": 9, **more}

    trace = [
        of("aten::signbit", "cpu_op", 100.0),
        of("gemm", "kernel", 110.0, args={"stream": 7}),
        of("noise", "Trace", 111.0),
    ]
    events, offset = placed(trace, [(1_099_000, 1_101_000)])
    assert offset == {"add_ns": 1_100_000.0, "uncertainty_ns": 1000.0, "markers": 1, "base_us": 100.0}
    assert events == [{"name": "gemm", "cat": "kernel", "start_ns": 1_110_000, "dur_ns": 2500, "lane": "7"}]
    assert placed(trace, []) == ([], None)
    assert placed(trace, [(99_000, 101_000), (1_099_000, 1_101_000)]) == ([], None), "which of the two the mark is of"


def test_the_other_clocks_are_read_between_two_readings_of_the_monotonic_one() -> None:
    found = other_clocks()
    ahead = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
    assert abs(found["clock_realtime_ahead_ns"] - ahead) < 1e9
    assert found["uncertainty_ns"] >= 0


def test_the_trace_has_every_part_on_one_axis() -> None:
    trace = assemble(STAGES, PART, SAMPLES)
    events = trace["traceEvents"]
    assert trace["otherData"]["monotonic_zero_ns"] == 500_000
    spans = {(e["pid"], e["name"]): (e["ts"], e["dur"]) for e in events if e["ph"] == "X"}
    assert spans == {
        (1, "start"): (500.0, 1000.0),
        (1, "profile"): (1500.0, 7000.0),
        (2, "infer"): (3500.0, 1000.0),
        (2, "wait"): (4500.0, 3000.0),
        (2, "aten::conv2d"): (3600.0, 200.0),
        (3, "<kernel>"): (4000.0, 2000.0),
        (3, "Memcpy HtoD"): (2500.0, 10.0),
    }
    counters = [e for e in events if e["ph"] == "C"]
    assert {e["name"] for e in counters} == {"util"}
    assert (counters[0]["ts"], counters[0]["args"]) == (0.0, {"value": 0.0})
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    assert (named[2, 0], named[2, 1], named[3, 1], named[3, 2]) == ("runner", "thread 77", "stream 7", "stream 8")
    assert json.loads(gzip.decompress(gzip.compress(json.dumps(trace).encode()))) == trace


def test_the_record_keeps_no_spans_and_the_picture_is_of_the_last_inference() -> None:
    kept = facts(PART)
    assert set(kept) == {"source", "offset", "events", "device_events"}
    assert (kept["events"], kept["device_events"]) == (3, 2)
    told = picture(STAGES, PART, SAMPLES)
    assert told["inference_us"] == 4000.0
    assert told["device"] == [["<kernel>", 500.0, 2000.0]]
    assert [name for name, *_ in told["host"]] == ["infer", "aten::conv2d", "wait"]
    assert len(told["counters"]["util"]) <= MOST_POINTS
    assert picture([], {}, [])["stages"] == []


def test_the_still_picture_is_well_formed_and_escapes_names() -> None:
    told = picture(STAGES, PART, SAMPLES)
    for svg in (stages_svg(told), inference_svg(told)):
        ElementTree.fromstring(svg)
        assert "<kernel>" not in svg
    assert "&lt;kernel&gt;" in inference_svg(told)
    assert "util" in stages_svg(told)
    whole = stacked([stages_svg(told), inference_svg(told)])
    assert "var(--" not in whole.decode()
    assert len(ElementTree.fromstring(whole)) == 3


def test_a_file_of_drawings_has_its_legend_below_them_in_as_many_lines_as_it_needs() -> None:
    drawing = stages_svg(picture(STAGES, PART, SAMPLES))
    words = [(f"a kind of span & number {number}", "s1") for number in range(12)]
    found = ElementTree.fromstring(stacked([drawing], words))
    text = "{http://www.w3.org/2000/svg}text"
    assert [each.text for each in found if each.tag == text] == [said for said, _ in words]
    width, height = (float(size) for size in found.attrib["viewBox"].split()[2:])
    lines = {float(each.attrib["y"]) for each in found if each.tag == text}
    assert len(lines) > 1
    assert max(lines) < height
    assert all(float(each.attrib["x"]) + 8 * len(each.text or "") < width for each in found if each.tag == text)


@pytest.mark.parametrize("told", [{}, {"inference_us": 0, "stages": []}])
def test_without_anything_to_show_there_is_no_picture(told: dict[str, Any]) -> None:
    assert stages_svg(told) == inference_svg(told) == ""


def test_an_operator_stands_below_the_one_that_called_it() -> None:
    spans = [["outer", 0, 10], ["inner", 0, 4], ["deep", 1, 2], ["later", 4, 5], ["after", 10, 3]]
    assert [[name for name, *_ in row] for row in by_depth(spans)] == [["outer", "after"], ["inner", "later"], ["deep"]]
    assert by_depth([]) == []


def test_names_stand_in_spans_as_far_as_there_is_room() -> None:
    host = [["infer", 0, 60], ["wait", 60, 40], ["aten::scaled_dot_product_attention", 0, 12], ["aten::add", 20, 1]]
    drawn = ElementTree.fromstring(inference_svg({"inference_us": 100, "host": host}))
    words = [element.text for element in drawn.iter("text")]
    assert {"infer", "wait", "operators"} <= set(words)
    assert [word for word in words if word and word.startswith("scaled")] == ["scaled_do\u2026"]
    assert "add" not in words, "too narrow for a name; its title has it"
    assert float(drawn.attrib["font-size"]) >= 15
