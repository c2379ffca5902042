# SPDX-License-Identifier: Apache-2.0
"""The report's part on requests in flight: which points are a curve, what tables and summary say, the figure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import altair

from farm.contract.record import Flag, Interval, Record
from farm.report import narrative
from farm.report.compose import compose
from farm.report.concurrency import concurrency_section, sentences
from farm.report.curves import Study, studies
from farm.report.select import Selection, select
from farm.report.text import ABSENT
from farm.sweep.concurrency import Concurrency, ways
from farm.sweep.spec import named
from tests.report import demo

TRT, ORT = ("onnx_tensorrt", "fp16"), ("onnxruntime_cpu", "fp32")
#: What the made-up device gives of contexts and streams: streams help up to two, contexts on a shared one a little.
CEILING = 2.0


def throughput(flight: int, streams: int) -> float:
    return 1000.0 * min(flight, streams, CEILING) * (1.04 if flight > streams else 1.0)


def record(way: tuple[str, str], protocol: Any, per_s: float, **more: Any) -> Record:
    of = demo.job(way=way, protocol=protocol)
    made = demo.ok(of, 1)
    memory = 2**20 * (100.0 + 30 * protocol.in_flight)
    metrics = made.metrics | {"throughput_per_s": per_s, "requests_per_s": per_s, "host_rss_peak_bytes": memory}
    metrics["latency_ms"] = 1000 * protocol.in_flight / per_s
    rates = {"window_rates_per_s": [0.99 * per_s, per_s, 1.01 * per_s]}
    return replace(made, metrics=metrics, intervals={}, effective=made.effective | rates, **more)


def study_records(study: Concurrency, way: tuple[str, str] = TRT) -> list[Record]:
    found = []
    for made in ways(study, way[0]):
        protocol = named(made.applied(demo.PROTOCOLS["quick"]))
        shared = made.streams if made.contexts else made.sessions or made.streams
        if protocol.in_flight == max(made.contexts or 0, made.streams) and shared <= protocol.in_flight:
            found.append(record(way, protocol, throughput(protocol.in_flight, shared)))
    return found


def contexts() -> Selection:
    """Contexts 1, 2, 4 on streams 1, 2, 4, without those that would be refused."""
    kept = [r for r in study_records(Concurrency((1, 2, 4), (1, 2, 4))) if _runs(r)]
    return select(kept)


def _runs(found: Record) -> bool:
    protocol = found.job.protocol
    return (protocol.contexts or 1) >= protocol.streams


def only(selection: Selection) -> Study:
    (found,) = studies(selection)
    return found


def test_points_become_curves_over_what_is_in_flight() -> None:
    found = only(contexts())
    lines = {curve.name: [level.level for level in curve.levels] for curve in found.curves}
    assert lines == {"a stream for each": [1, 2, 4], "1 stream": [1, 2, 4], "2 streams": [2, 4]}
    assert len(found.points) == 6
    assert found.most is not None
    assert found.most.name == "2 streams"


def test_threads_and_sessions_make_curves_of_their_own() -> None:
    study = Concurrency(sessions=(1, 2), threads=(1, 2), inter_threads=(1, 2))
    names = {curve.name for curve in only(select(study_records(study, ORT))).curves}
    assert names == {
        "a session for each, threads 1", "a session for each, threads 2",
        "a session for each, threads 1, inter-op threads 2", "a session for each, threads 2, inter-op threads 2",
    }  # fmt: skip
    shared = Concurrency(streams=(2, 4), sessions=(2,))
    names = {curve.name for curve in only(select(study_records(shared, ORT))).curves}
    assert names == {"2 sessions"}, "one point with a session for each is no line"


def test_what_is_not_in_flight_is_never_on_one_line() -> None:
    one, two = (study_records(Concurrency(streams=(n,)), ORT) for n in (1, 2))
    assert len(studies(select([*one, *two]))) == 1
    other = [replace(r, job=replace(r.job, options={"per_channel": False})) for r in two]
    assert studies(select([*one, *other])) == []
    single = [demo.ok(demo.job(way=ORT), 1)]
    assert studies(select([*one, *single])) == []
    assert concurrency_section(select(single)) is None


def rows(section: Any, key: str) -> dict[str, list[str]]:
    (table,) = [table for table in section.tables if table.key == key]
    return {row.heading: [cell.text for cell in row.cells] for _, row in table.rows}


def test_the_tables_say_where_it_saturates_and_what_a_request_costs() -> None:
    section = concurrency_section(contexts())
    assert section is not None
    saturated = rows(section, "saturation")
    each = saturated["a stream for each"]
    assert each[:2] == ["1, 2, 4", "2"]
    assert each[3] == "100"
    assert (each[4], each[6]) == ("1.00", "flat")
    points = rows(section, "in-flight")
    assert [group.title for group in section.tables[1].groups] == ["resnet18, onnx_tensorrt fp16, batch 1"]
    assert len(points) == 6
    four = points["streams 4, contexts 4"]
    assert four[0] == "4"
    assert four[2] == "50"
    assert four[7] == "30.00"
    assert points["streams 1, contexts 1"][7] == ABSENT


def test_what_holds_a_point_up_before_the_device_is_said() -> None:
    found = study_records(Concurrency(streams=(1, 2)), ORT)
    flags = [Flag("oversubscribed", "info", "x"), Flag("interpreter_bound", "info", "y")]
    busy = found[1].metrics | {"cpu_utilisation": 1.5}
    found[1] = replace(found[1], flags=flags, metrics=busy)
    found[0] = replace(found[0], metrics=found[0].metrics | {"gpu_utilisation": 0.42})
    section = concurrency_section(select(found))
    assert section is not None
    told = rows(section, "in-flight")
    assert [told[name][8:] for name in ("streams 1", "streams 2")] == [
        ["42\u00a0%", ""],
        ["1.50\u00a0CPUs", "processors and interpreter"],
    ]
    assert section.tables[1].notes == (), "neither is a doubt"


def test_a_level_that_is_the_last_is_no_saturation() -> None:
    rising = [r for r in study_records(Concurrency(streams=(1, 2)), ORT)]
    section = concurrency_section(select(rising))
    assert section is not None
    (cells,) = rows(section, "saturation").values()
    assert (cells[1], cells[6]) == ("\u2265 2", "not tried")
    (said,) = sentences(select(rising))
    assert "throughput still rises at 2, the most that were tried: 2.00 times the throughput of 1" in said.text


def test_a_rise_within_the_intervals_is_not_called_one() -> None:
    found = study_records(Concurrency(streams=(1, 2)), ORT)
    for index, per_s in enumerate((1000.0, 1080.0)):
        rates = {"window_rates_per_s": [0.9 * per_s, per_s, 1.1 * per_s]}
        metrics = found[index].metrics | {"throughput_per_s": per_s}
        found[index] = replace(found[index], metrics=metrics, effective=found[index].effective | rates)
    (said,) = sentences(select(found))
    assert "still rises" not in said.text
    assert "throughput is highest at 2, the most that were tried: 1.08 times the throughput of 1" in said.text
    assert "by the intervals it may be saturated at 1 to 2" in said.text


def test_the_summary_has_one_sentence_for_a_study_and_none_for_each_of_its_points() -> None:
    selection = contexts()
    said = [(s.kind, s.text, s.target) for s in narrative.summarise(selection) if s.kind in ("fastest", "concurrency")]
    ((kind, words, target),) = said
    assert (kind, target) == ("concurrency", "concurrency")
    assert words.startswith("resnet18, onnx_tensorrt fp16, batch 1, requests in flight (2 streams): ")
    beside = select([*(p.record for p in selection.points), demo.ok(demo.job(way=ORT), 1)])
    kinds = [s.kind for s in narrative.summarise(beside)]
    assert (kinds.count("fastest"), kinds.count("concurrency")) == (1, 1)


def test_many_protocols_of_one_name_are_counted() -> None:
    assert narrative.protocol_names(["quick", "paper", "quick"]) == ["paper", "quick"]
    many = [f"quick-00000{i}" for i in range(5)]
    assert narrative.protocol_names([*many, "paper"]) == ["paper", "quick with 5 sets of switches"]
    first = narrative.summarise(contexts())[0].text
    assert "protocol quick with 6 sets of switches" in first


def test_an_invalid_point_counts_for_nothing_and_a_flagged_one_is_marked() -> None:
    found = study_records(Concurrency(streams=(1, 2, 4)), ORT)
    broken, doubted = (Flag("foreign_process", "invalid", "x"), Flag("host_busy", "suspect", "y"))
    found[2] = replace(found[2], flags=[broken])
    found[1] = replace(found[1], flags=[doubted])
    section = concurrency_section(select(found))
    assert section is not None
    (cells,) = rows(section, "saturation").values()
    assert cells[1] == "\u2265 2"
    table = section.tables[1]
    assert [row.cells[0].mark[:1] for _, row in table.rows] == ["", "\u2020", "\u2021"]
    assert "Hollow points are flagged." in section.figures[0].caption


def test_what_a_study_varies_is_no_difference_to_read_first_and_fills_no_other_figure() -> None:
    records = [p.record for p in contexts().points]
    document = compose(records, title="t")
    assert document.figures == ()
    assert [s.text for s in document.summary if "side by side" in s.text] == []
    warm = demo.ok(demo.job(way=ORT, protocol=replace(demo.PROTOCOLS["quick"], inputs="warm")), 1)
    beside = compose([*records, warm], title="t")
    assert [figure.key for figure in beside.figures] == ["latency", "distribution"]
    (said,) = [s.text for s in beside.summary if "side by side" in s.text]
    assert "protocol inputs" in said or "facts" in said


def test_an_interval_between_processes_is_taken_before_the_rates_of_one_run() -> None:
    found = study_records(Concurrency(streams=(1, 2, 4)), ORT)
    wide = Interval(900.0, 1999.0, 0.95, "t", "between 5 processes")
    found[0] = replace(found[0], intervals={"throughput_per_s": wide})
    curve = only(select(found)).curves[0]
    assert (curve.levels[0].low, curve.levels[0].high) == (900.0, 1999.0)
    assert curve.saturation is not None
    assert (curve.saturation.at.level, curve.saturation.earliest) == (2, 1)


def test_the_page_has_the_part_and_the_figure_marks_the_saturation() -> None:
    document = compose([p.record for p in contexts().points], title="t")
    (section,) = [section for section in document.sections if section.key == "concurrency"]
    (figure,) = section.figures
    assert [panel.title for panel in figure.panels] == [
        "resnet18, onnx_tensorrt fp16, batch 1: throughput",
        "resnet18, onnx_tensorrt fp16, batch 1: median latency of a request",
    ]
    rings = figure.panels[0].spec["layer"][-1]
    assert rings["mark"]["filled"] is False
    assert sorted(value["batch"] for value in rings["data"]["values"]) == [1, 2, 2]
    assert [name for name, _ in figure.legend] == ["a stream for each", "1 stream", "2 streams"]
    altair.Chart.from_dict(figure.panels[0].spec, validate=True)
