# SPDX-License-Identifier: Apache-2.0
"""From several processes to one estimate: intervals that cover what they say, and what is made of each metric."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from farm.contract.record import Flag, Interval
from farm.processes import between, coverage_of_range, disagreement, intervals, joint_flags, over, relative_half_width
from tests.factories import make_flag

medians = st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=20)


def own(ms: float, share: float) -> Interval:
    return Interval(ms * (1 - share), ms * (1 + share), 0.95, "order statistics", "within this run")


@given(st.lists(st.floats(1e-3, 1e6), min_size=5, max_size=20))
def test_from_five_processes_on_it_is_scipys_t_on_logarithms_and_holds_the_estimate(values: list[float]) -> None:
    found = between(values)
    assert found is not None
    logs = [math.log(value) for value in values]
    error = stats.sem(logs)
    low, high = stats.t.interval(0.95, len(values) - 1, statistics.fmean(logs), error) if error else (logs[0], logs[0])
    estimate = statistics.median(values)
    # exp overflows where the medians lie many orders of magnitude apart; the interval is cut off there.
    assert math.log(found.low) == pytest.approx(max(min(low, math.log(estimate)), -700), abs=1e-6)
    assert math.log(found.high) == pytest.approx(min(max(high, math.log(estimate)), 700), abs=1e-6)
    assert (found.confidence, found.scope) == (0.95, f"between {len(values)} processes")


@given(medians)
def test_the_interval_holds_the_estimate_and_does_not_depend_on_the_order(values: list[float]) -> None:
    found = between(values)
    assert found is not None
    assert found.low <= statistics.median(values) <= found.high
    again = between(values[::-1])
    assert again is not None
    assert (again.low, again.high) == (pytest.approx(found.low), pytest.approx(found.high))


@given(st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=4))
def test_of_two_to_four_processes_it_is_their_range_and_says_what_that_covers(values: list[float]) -> None:
    found = between(values)
    assert found is not None
    assert (found.low, found.high) == (min(values), max(values))
    below = stats.binom.cdf(0, len(values), 0.5)
    assert found.confidence == pytest.approx(1 - 2 * below)
    assert "range" in found.method


def test_the_range_covers_the_median_as_often_as_it_says() -> None:
    drawn = random.Random(4)
    for count in (2, 3, 4):
        hits = 0
        for _ in range(4000):
            values = [drawn.lognormvariate(0, 0.3) for _ in range(count)]
            hits += min(values) <= 1.0 <= max(values)
        assert hits / 4000 == pytest.approx(coverage_of_range(count), abs=0.03)


def test_one_process_has_no_interval_between_processes() -> None:
    assert between([8.0]) is None
    assert between([]) is None


def test_a_median_of_zero_has_no_logarithm_and_gets_the_range() -> None:
    found = between([0.0, 1.0, 1.0, 1.0, 2.0])
    assert found is not None
    assert (found.low, found.high, found.confidence) == (0.0, 2.0, pytest.approx(0.9375))


@given(medians, st.floats(0.01, 100))
def test_the_relative_half_width_does_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    found = relative_half_width(values)
    assert relative_half_width([value * unit for value in values]) == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_the_relative_half_width_is_that_of_the_t_interval() -> None:
    values = [8.0, 8.2, 8.1, 7.9, 8.05]
    found = between(values)
    assert found is not None
    assert relative_half_width(values) == pytest.approx((found.high - found.low) / 2 / 8.05)
    assert relative_half_width([8.0]) == math.inf
    assert relative_half_width([8.0, 0.0]) == math.inf
    assert relative_half_width([8.0, 8.0]) == 0


def test_metrics_are_medians_peaks_are_the_largest_and_distances_the_worst() -> None:
    found, withheld = over(
        [
            {"latency_ms": 8.0, "host_rss_peak_bytes": 10.0, "latency_min_ms": 7.0, "latency_max_ms": 12.0, "a": 1.0},
            {"latency_ms": 9.0, "host_rss_peak_bytes": 30.0, "latency_min_ms": 6.0, "latency_max_ms": 11.0, "a": None},
            {"latency_ms": 8.5, "host_rss_peak_bytes": 20.0, "latency_min_ms": 8.0, "latency_max_ms": 10.0},
        ],
        [{}, {}, {}],
    )
    assert found == {
        "latency_ms": 8.5,
        "host_rss_peak_bytes": 30.0,
        "latency_min_ms": 6.0,
        "latency_max_ms": 12.0,
        "a": 1.0,
    }
    assert withheld == {}
    outputs = [{"mismatch_1e-3_pct": 0.0, "top1_agreement": 1.0}] * 2
    worst = {"mismatch_1e-3_pct": 60.0, "top1_agreement": 0.5}
    assert over([*outputs, worst], [{}] * 3)[0] == worst


def test_a_number_that_no_process_has_is_null() -> None:
    assert over([{"energy_per_input_j": None}] * 2, [{}] * 2)[0] == {"energy_per_input_j": None}


def test_a_percentile_that_one_process_cannot_bound_is_withheld() -> None:
    found, withheld = over(
        [{"latency_p90_ms": 9.0}, {"latency_p90_ms": None}],
        [{}, {"latency_p90_ms": "needs 64 samples, has 50", "interval:latency_ms": "needs 6 samples, has 5"}],
    )
    assert found == {"latency_p90_ms": None}
    assert withheld == {"latency_p90_ms": "process 2 of 2: needs 64 samples, has 50"}
    both = over([{}, {}], [{"latency_p90_ms": "why"}] * 2)[1]
    assert both == {"latency_p90_ms": "all 2 processes: why"}


def test_only_what_every_process_has_gets_an_interval() -> None:
    found = intervals([{"latency_ms": 8.0, "throughput_per_s": 1.0}, {"latency_ms": 9.0}], {})
    assert set(found) == {"latency_ms"}
    assert intervals([{"latency_ms": 8.0}] * 2, {"latency_ms": "why"}) == {}


def test_flags_of_all_processes_are_told_with_whose_they_are() -> None:
    noisy, busy = Flag("unstable", "suspect", "cv 4 %"), make_flag("host_busy")
    assert joint_flags([[noisy], [], [noisy, busy], [Flag("unstable", "suspect", "cv 6 %")]]) == [
        Flag("unstable", "suspect", "processes 1, 3 of 4: cv 4 %; process 4 of 4: cv 6 %"),
        Flag("host_busy", "suspect", "process 3 of 4: evidence of it"),
    ]
    many = joint_flags([[Flag("unstable", "suspect", f"cv {i} %")] for i in range(4, 9)])
    assert many[0].evidence == "process 1 of 5: cv 4 %; process 2 of 5: cv 5 %; likewise processes 3, 4, 5 of 5"
    assert joint_flags([[noisy], [noisy]])[0].evidence == "all 2 processes: cv 4 %"


def test_medians_that_scatter_far_beyond_their_own_intervals_are_a_doubt() -> None:
    apart = [8.0, 9.5, 8.0, 9.5, 8.0]
    flag = disagreement(apart, [own(ms, 0.005) for ms in apart])
    assert flag is not None
    assert (flag.name, flag.level) == ("processes_disagree", "suspect")
    assert "from 8 to 9.5 ms" in flag.evidence
    assert disagreement(apart, [None] * 5) is not None


def test_medians_that_scatter_as_processes_do_or_as_their_own_samples_allow_are_none() -> None:
    near, apart = [8.0, 8.2, 8.1, 8.3, 8.0], [8.0, 9.5, 8.0, 9.5, 8.0]
    assert disagreement(near, [own(ms, 0.0001) for ms in near]) is None
    assert disagreement(apart, [own(ms, 0.05) for ms in apart]) is None
    assert disagreement([8.0], [own(8.0, 0.1)]) is None
    assert disagreement([0.0, 8.0], [None, None]) is None
