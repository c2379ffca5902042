# SPDX-License-Identifier: Apache-2.0
"""int8 that is not faster, TensorRT that is slower, the weaker device that wins: found when so, not found in noise."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from farm.contract.record import Record
from farm.findings import Findings, Sure, find
from tests.factories import make_flag
from tests.findings.made import GPU, INT8, SMALL, scattered, timed

STEADY = [0.998, 0.999, 1.0, 1.001, 1.002]


def times(ms: float) -> list[float]:
    return [ms * share for share in STEADY]


def int8(ms: float | list[float], **given: Any) -> Record:
    return timed(ms, **{"workflow": "onnx_tensorrt", "precision": "int8", "calibration": INT8} | given)


def fp16(ms: float | list[float], **given: Any) -> Record:
    return timed(ms, **{"workflow": "onnx_tensorrt", "precision": "fp16"} | given)


def names(found: Findings) -> list[str]:
    return [finding.rule for finding in found.found]


def test_int8_that_takes_longer_is_found_between_processes_with_its_evidence() -> None:
    base, new = fp16(times(1.0)), int8(times(1.2), at=20)
    (finding,) = find([base, new]).found
    assert finding.rule == "int8-not-faster" and finding.sure is Sure.PROCESSES
    assert finding.size == pytest.approx(0.2, abs=0.01)
    assert finding.runs == (base.run_id, new.run_id)
    assert finding.low is not None and finding.high is not None and 1.19 < finding.low < 1.2 < finding.high < 1.21
    assert finding.p_value is not None and finding.p_value <= 0.05
    assert finding.base is not None and finding.base.processes == 5
    assert "20" in finding.sentence and "between processes" in finding.sentence


def test_int8_that_takes_as_long_is_not_faster() -> None:
    (finding,) = find([fp16(times(1.0)), int8(times(0.999))]).found
    assert finding.rule == "int8-not-faster" and "is not faster than" in finding.sentence


def test_int8_that_is_faster_is_none_and_is_counted_as_examined() -> None:
    found = find([fp16(times(1.0)), int8(times(0.7))])
    assert found.found == ()
    (examined,) = [one for one in found.examined if one.rule == "int8-not-faster"]
    assert (examined.pairs, examined.found, examined.undecided) == (1, 0, 0)


def test_one_process_each_is_told_as_one_run_and_needs_more_than_processes_may_scatter() -> None:
    (finding,) = find([fp16(1.0), int8(1.5)]).found
    assert finding.sure is Sure.RUNS and "within one run only" in finding.sentence
    assert find([fp16(1.0), int8(1.02)]).found == ()
    few = find([fp16([1.0, 1.2, 1.4]), int8([1.3, 1.5, 1.6])])
    assert few.found == ()


def test_fp32_stands_in_only_where_there_is_no_fp16() -> None:
    slow_fp32 = timed(times(2.0), workflow="onnx_tensorrt", precision="fp32")
    assert find([slow_fp32, int8(times(1.2))]).found == ()
    assert names(find([slow_fp32, fp16(times(1.0)), int8(times(1.2))])) == ["int8-not-faster"]
    fast_fp32 = timed(times(1.0), workflow="onnx_tensorrt", precision="fp32")
    assert names(find([fast_fp32, int8(times(1.2))])) == ["int8-not-faster"]


@pytest.mark.parametrize(
    "other",
    [
        {"device": SMALL},
        {"model": "resnet34"},
        {"batch": 2},
        {"data": "digits"},
        {"options": {"optimization_level": 3}},
        {"workflow": "onnxruntime_trt"},
    ],
)
def test_what_is_not_the_same_cell_is_not_compared(other: dict[str, Any]) -> None:
    assert "int8-not-faster" not in names(find([fp16(times(1.0), **other), int8(times(1.5))]))


def test_a_flagged_run_proves_nothing() -> None:
    assert find([fp16(1.0, flags=[make_flag()]), int8(1.5)]).found == ()


def test_tensorrt_slower_than_pytorch_is_found_in_the_same_precision_only() -> None:
    base = timed(times(1.0), precision="fp16")
    assert names(find([base, fp16(times(1.1))])) == ["tensorrt-slower"]
    assert names(find([base, fp16(times(1.01))])) == []
    assert names(find([timed(times(1.0), precision="fp32"), fp16(times(1.1))])) == []


def test_a_clock_that_fell_is_no_slower_tensorrt() -> None:
    base = timed(times(1.0), precision="fp16", clock=2000.0)
    assert names(find([base, fp16(times(1.1), clock=1800.0)])) == []


def classes(slow_model: float, count: int = 4) -> list[Record]:
    """PyTorch fp32 of several models, twice as fast on the big class; one TensorRT cell."""
    found = [fp16(times(1.0), device=SMALL), fp16(times(slow_model), device=GPU)]
    for i in range(count):
        found.append(timed(times(4.0 + i), device=SMALL, model=f"net{i}", batch=32, precision="fp32"))
        found.append(timed(times((4.0 + i) / (2 + i / 10)), device=GPU, model=f"net{i}", batch=32, precision="fp32"))
    return found


def test_slower_on_the_stronger_device_is_found_and_says_how_it_is_the_stronger() -> None:
    (finding,) = find(classes(1.3)).found
    assert finding.rule == "slower-on-stronger" and finding.cell["new"] == "big"
    assert finding.numbers["strength"] == pytest.approx(2.15, abs=0.05)
    assert finding.numbers["strength_models"] == [f"net{i}" for i in range(4)]


def test_without_three_models_nobody_is_the_stronger() -> None:
    found = find(classes(1.3, count=2))
    assert found.found == ()
    assert find(classes(0.6)).found == ()


def test_the_same_records_in_any_order_find_the_same() -> None:
    records = [*classes(1.3), int8(times(1.5)), fp16(times(1.0), model="resnet34"), timed(1.0)]
    shuffled = list(records)
    Random(1).shuffle(shuffled)
    assert find(shuffled) == find(records)


def test_what_is_no_record_or_lacks_fields_is_passed_over() -> None:
    bad = [
        fp16(1.0, metrics={"latency_ms": None}),
        int8(1.0, metrics={"latency_ms": float("nan")}, at=1),
        int8(1.0, metrics={"latency_ms": -1.0}, at=2),
    ]
    found = find([None, "text", {"run_id": "x"}, *bad])
    assert found.found == ()
    assert find([]).found == ()


@pytest.mark.parametrize(("processes", "sd"), [(1, 0.025), (3, 0.02), (5, 0.03)])
@pytest.mark.parametrize("true_ratio", [1.0, 1.02])
def test_in_noise_at_most_one_of_twenty_looks_finds_anything(processes: int, sd: float, true_ratio: float) -> None:
    """All pairs are null, so every finding is false and their rate is how often there is any; up to the very edge.

    At the edge the rate is the nominal one, so the count may lie above its mean, by 2.33 standard deviations at most.
    """
    looks, pairs, alarms = 100, 12, 0
    for seed in range(looks):
        random = Random(f"{seed}-{processes}")
        records = []
        for i in range(pairs):
            base, new = (scattered(random, ms, sd, processes) for ms in (1.0, true_ratio))
            one, other = (values if processes > 1 else values[0] for values in (base, new))
            records += [timed(one, precision="fp16", model=f"net{i}"), fp16(other, model=f"net{i}")]
        alarms += bool(find(records).found)
    slack = 2.33 * math.sqrt(looks * 0.05 * 0.95) if true_ratio > 1 else 0.0
    assert alarms <= 0.05 * looks + slack
