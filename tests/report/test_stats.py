# SPDX-License-Identifier: Apache-2.0
"""Speed-ups and bests: right where they are given, absent with a reason where they can't be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.outcome import Outcome
from farm.contract.protocols import PROTOCOLS
from farm.contract.record import Flag, Interval, Record
from farm.report import stats
from farm.report.select import Point, select
from farm.report.stats import Absent, Best, Ratio
from tests.report import demo

FAST = ("onnxruntime_cpu", "int8")
SUSPECT = Flag("unstable", "suspect", "robust CV 4 %")
INVALID = Flag("foreign_process", "invalid", "someone else")


def timed(way: tuple[str, str], median: float, spread: float = 0.1, **overrides: Any) -> Record:
    """A run at batch 1 with a median in ms and an interval of `spread` on each side."""
    span = {"latency_ms": Interval(median - spread, median + spread, 0.95, "order statistics", "within this run")}
    job = overrides.pop("job", None) or demo.job(way=way)
    fields = {"metrics": {"latency_ms": median, "throughput_per_s": 1000 / median}, "intervals": span, "withheld": {}}
    return demo.ok(job, 1, **(fields | overrides))


def speed_up(base: Record, other: Record) -> Ratio | Absent:
    """The speed-up of `other`, as a table would ask for it."""
    selection = select([base, other])
    point = next(p for p in selection.points if p.record is other)
    return stats.speed_up(point, selection.references(point.series))


def test_the_speed_up_is_the_ratio_of_medians_with_a_conservative_interval() -> None:
    found = speed_up(timed(demo.WAYS[0], 10.0, 0.5), timed(FAST, 4.0, 0.2))
    assert isinstance(found, Ratio)
    assert found.value == pytest.approx(2.5)
    assert found.low == pytest.approx(9.5 / 4.2)
    assert found.high == pytest.approx(10.5 / 3.8)
    assert found.confidence == pytest.approx(0.90)
    assert not found.doubtful


@given(
    base=st.tuples(st.floats(0.01, 1e4), st.floats(0, 0.9)),
    other=st.tuples(st.floats(0.01, 1e4), st.floats(0, 0.9)),
    place=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_the_interval_holds_every_ratio_of_values_in_the_two_intervals(
    base: tuple[float, float], other: tuple[float, float], place: tuple[float, float]
) -> None:
    points = [_point(timed(way, m, m * share)) for way, (m, share) in ((demo.WAYS[0], base), (FAST, other))]
    found = stats.ratio(*points)
    assert isinstance(found, Ratio) and found.low is not None and found.high is not None
    real = [m + m * share * at for (m, share), at in zip((base, other), place, strict=True)]
    assert found.low * (1 - 1e-9) <= real[0] / real[1] <= found.high * (1 + 1e-9)


def _point(record: Record) -> Point:
    return select([record]).points[0]


def test_the_reference_against_itself_is_exactly_one() -> None:
    point = _point(timed(demo.WAYS[0], 10.0))
    found = stats.speed_up(point, [point])
    assert isinstance(found, Ratio)
    assert (found.value, found.low, found.base) == (1.0, None, point)


def test_without_an_interval_on_both_sides_there_is_none() -> None:
    found = speed_up(timed(demo.WAYS[0], 10.0), timed(FAST, 4.0, intervals={}))
    assert isinstance(found, Ratio)
    assert (found.value, found.low, found.high) == (2.5, None, None)


def test_a_suspect_side_makes_the_ratio_doubtful() -> None:
    found = speed_up(timed(demo.WAYS[0], 10.0, flags=[SUSPECT]), timed(FAST, 4.0))
    assert isinstance(found, Ratio) and found.doubtful


@pytest.mark.parametrize("side", [0, 1])
def test_an_invalid_side_is_never_compared(side: int) -> None:
    flags: list[list[Flag]] = [[], []]
    flags[side] = [INVALID]
    found = speed_up(timed(demo.WAYS[0], 10.0, flags=flags[0]), timed(FAST, 4.0, flags=flags[1]))
    assert isinstance(found, Absent) and "invalid" in found.reason


def test_another_protocol_is_not_compared_and_the_reason_says_so() -> None:
    other = demo.job(way=FAST, protocol=PROTOCOLS["paper"])
    found = speed_up(timed(demo.WAYS[0], 10.0), timed(FAST, 4.0, job=other))
    assert found == Absent("not compared with pytorch fp32: the two ran with different protocol switches")


def test_other_weights_are_not_compared() -> None:
    of = demo.job(way=FAST)
    other = replace(of, model=replace(of.model, weights="random:1"))
    found = speed_up(timed(demo.WAYS[0], 10.0), timed(FAST, 4.0, job=other))
    assert isinstance(found, Absent) and "weights" in found.reason


def test_protocols_that_differ_in_name_and_time_limits_alone_are_compared() -> None:
    quick = PROTOCOLS["quick"]
    renamed = replace(quick, name="mine", stage_limits_s={"default": 1.0})
    found = speed_up(timed(demo.WAYS[0], 10.0), timed(FAST, 5.0, job=demo.job(way=FAST, protocol=renamed)))
    assert isinstance(found, Ratio) and found.value == 2.0


def test_without_a_reference_there_is_no_speed_up() -> None:
    found = speed_up(timed(("openvino", "fp32"), 10.0), timed(FAST, 4.0))
    assert found == Absent("there is no pytorch fp32 run of this model, batch and device class")


def test_a_reference_that_failed_is_no_reference() -> None:
    failed = demo.bad(demo.job(), 1, Outcome.FAILED, "broke")
    assert isinstance(speed_up(failed, timed(FAST, 4.0)), Absent)


def test_another_unit_of_the_class_is_named() -> None:
    other = replace(demo.DEVICE, device_id="bench-02-cpu")
    found = speed_up(timed(demo.WAYS[0], 10.0, device=other), timed(FAST, 4.0))
    assert isinstance(found, Ratio)
    assert found.caveat == "pytorch fp32 ran on bench-02-cpu, this on bench-01-cpu: same class, not same unit"


def test_the_same_unit_is_preferred_as_reference() -> None:
    near = timed(demo.WAYS[0], 10.0)
    far_job = replace(demo.job(), job_id="demo-a-far")
    far = timed(demo.WAYS[0], 30.0, job=far_job, device=replace(demo.DEVICE, device_id="bench-02-cpu"))
    selection = select([near, far, timed(FAST, 5.0)])
    point = next(p for p in selection.points if p.series.precision == "int8")
    found = stats.speed_up(point, selection.references(point.series))
    assert isinstance(found, Ratio)
    assert (found.value, found.base.record) == (2.0, near)


def test_a_withheld_metric_stays_withheld_even_with_a_number() -> None:
    record = timed(FAST, 4.0, withheld={"latency_p99_ms": "needs 662 samples, has 90"})
    record.metrics["latency_p99_ms"] = 5.0
    assert stats.value(record, "latency_p99_ms") == Absent("needs 662 samples, has 90")


def test_a_value_that_is_not_finite_is_absent() -> None:
    assert stats.value(timed(FAST, 4.0, metrics={"latency_ms": float("inf")}), "latency_ms") == Absent(
        "the recorded value is inf"
    )
    assert stats.value(timed(FAST, 4.0, metrics={"latency_ms": None}), "latency_ms") == Absent(
        "not measured in this run"
    )


def test_the_best_throughput_passes_over_flagged_points_and_says_so() -> None:
    of = demo.job()
    rates = {1: 50.0, 4: 90.0, 16: 80.0}
    records = [
        demo.ok(of, b, metrics={"throughput_per_s": r}, flags=[SUSPECT] if b == 4 else []) for b, r in rates.items()
    ]
    found = stats.best_throughput(select(records).points)
    assert isinstance(found, Best)
    assert (found.point.batch, found.value, [p.batch for p in found.passed_over]) == (16, 80.0, [4])


def test_a_flagged_point_is_best_if_all_are_flagged() -> None:
    records = [demo.ok(demo.job(), 1, metrics={"throughput_per_s": 50.0}, flags=[SUSPECT])]
    found = stats.best_throughput(select(records).points)
    assert isinstance(found, Best)
    assert (found.point.batch, found.passed_over) == (1, ())


def test_intervals_overlap_or_not_or_are_not_known() -> None:
    near, far, bare = timed(FAST, 4.0, 0.3), timed(FAST, 4.5, 0.1), timed(FAST, 4.5, intervals={})
    assert stats.overlap(near, timed(FAST, 4.5, 0.3), "latency_ms") is True
    assert stats.overlap(near, far, "latency_ms") is False
    assert stats.overlap(near, bare, "latency_ms") is None
