# SPDX-License-Identifier: Apache-2.0
"""The sum of rows against the unprofiled median: within 10 %, or a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from farm.contract.layers import BETWEEN, TENSORRT
from farm.contract.record import Flag
from farm.explain import Profiled, outside_tensorrt, top, total_of
from tests.explain.tables import layer, table
from tests.factories import make_job, make_record


def profiled(sum_ms: float, median_ms: float | None, **more: Any) -> Profiled:
    device_ms, wall_ms = more.pop("device_ms", None), more.pop("wall_ms", None)
    wall_us = None if wall_ms is None else wall_ms * 1e3
    metrics = {"latency_ms": median_ms, "device_latency_ms": device_ms}
    rows = [layer("a", sum_ms * 750, "a"), layer("b", sum_ms * 250, "b")]
    return Profiled(make_record(metrics=metrics, flags=more.pop("flags", [])), table(*rows, wall_us=wall_us, **more))


@pytest.mark.parametrize("sum_ms", [9.01, 10.0, 10.99])
def test_within_ten_percent_nothing_is_explained(sum_ms: float) -> None:
    found = total_of(profiled(sum_ms, 10.0))
    assert (found.close, found.why) == (True, ())


def test_a_host_that_is_slower_than_the_device_is_the_reason() -> None:
    found = total_of(profiled(3.0, 10.0, device_ms=3.1, wall_ms=10.0, clock="device"))
    assert not found.close
    assert len(found.why) == 1
    assert "the device was at work for 3.1 ms of 10 ms" in found.why[0]


def test_a_device_that_waits_between_kernels_is_the_reason() -> None:
    found = total_of(profiled(3.0, 10.0, device_ms=9.8, wall_ms=10.0, clock="device"))
    assert found.why == ("the layers take 3 ms of the device's 9.8 ms: it waits between kernels",)


def test_a_profiler_that_slows_is_a_reason_and_so_is_its_cost_per_call() -> None:
    found = total_of(profiled(14.0, 10.0, wall_ms=15.0))
    assert "1.50 times the measured median" in found.why[0]
    assert "2e+03 us for each of 2 calls" in found.why[1]


def test_what_no_row_has_is_named_on_a_host() -> None:
    (why,) = total_of(profiled(5.0, 10.0, wall_ms=10.0)).why
    assert why == "5 ms of an inference under the profiler lie outside of all rows"


def test_streams_flags_and_a_missing_median_are_named() -> None:
    base = profiled(5.0, 10.0, wall_ms=10.0, flags=[Flag("host_busy", "suspect", "x")])
    job = make_job()
    streams = replace(job, protocol=replace(job.protocol, scenario="streams", streams=2))
    why = total_of(Profiled(replace(base.record, job=streams), base.table)).why
    assert any("several requests" in line for line in why)
    assert any("host_busy" in line for line in why)
    missing = total_of(profiled(5.0, None))
    assert (missing.ratio, missing.close) == (None, False)
    assert "no median" in missing.why[0]


def test_the_share_outside_of_tensorrt_leaves_out_what_lies_between() -> None:
    rows = [layer("e", 6, place=TENSORRT), layer("x", 2, place="pytorch"), layer("host", 9, place=BETWEEN)]
    assert outside_tensorrt(table(*rows)) == 0.25
    assert outside_tensorrt(table(rows[1])) is None
    assert [row.name for row in top(table(*rows), 2)] == ["host", "e"]


def test_a_host_whose_noise_strikes_now_one_row_and_now_another_is_named() -> None:
    base = profiled(5.0, 10.0, wall_ms=10.0)
    found = total_of(Profiled(base.record, replace(base.table, whole_ns=9.9e6)))
    (why,) = found.why
    assert why.startswith("the rows' own medians make 5 ms, their sums 9.9 ms: the host is noisy")
