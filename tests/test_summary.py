# SPDX-License-Identifier: Apache-2.0
"""The summary of latency samples, against exact arithmetic and the standard library."""

from __future__ import annotations

import bisect
import math
import random
import statistics
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.metrics import METRICS, PERCENTILE_MIN_SAMPLES
from farm.contract.quantiles import (
    CONFIDENCE,
    INTERVAL_MIN_SAMPLES,
    median_ranks,
    quantile,
)
from farm.summary import Summary, summarise

latencies = st.lists(st.integers(0, 10**11), min_size=1, max_size=200)
LATENCY_METRICS = {name for name in METRICS if name.startswith("latency_")}
WHOLE = LATENCY_METRICS | {"sample_count", "throughput_per_s"}


def of(samples: list[int], **options: float) -> Summary:
    return summarise(samples, batch_size=1, wall_ns=max(sum(samples), 1), **options)  # type: ignore[arg-type]


def flags(summary: Summary) -> dict[str, str]:
    assert all(flag.level == "suspect" for flag in summary.flags)
    return {flag.name: flag.evidence for flag in summary.flags}


def exact_coverage(count: int, low: int, high: int) -> Fraction:
    """P(x_(low) <= median <= x_(high)) of a continuous distribution, in whole numbers."""
    term, total = math.comb(count, low), 0
    for below in range(low, high):
        total += term
        term = term * (count - below) // (below + 1)
    return Fraction(total, 2**count)


@given(latencies)
def test_the_summary_agrees_with_the_standard_library(samples: list[int]) -> None:
    metrics = of(samples).metrics
    assert metrics["latency_ms"] == pytest.approx(statistics.median(samples) / 1e6)
    assert metrics["latency_mean_ms"] == pytest.approx(statistics.fmean(samples) / 1e6)
    assert metrics["latency_min_ms"] == min(samples) / 1e6
    assert metrics["latency_max_ms"] == max(samples) / 1e6
    if len(samples) > 1:
        assert metrics["latency_sd_ms"] == pytest.approx(float(statistics.stdev(samples)) / 1e6)
        quartiles = statistics.quantiles(samples, n=4, method="inclusive")
        assert metrics["latency_p25_ms"] == pytest.approx(quartiles[0] / 1e6)
        assert metrics["latency_p75_ms"] == pytest.approx(quartiles[2] / 1e6)
    median = statistics.median(samples)
    if median:
        spread = statistics.median([abs(x - median) for x in samples])
        assert metrics["latency_rcv"] == pytest.approx(1.4826 * spread / median)


@given(latencies, st.randoms())
def test_the_order_of_samples_does_not_matter(samples: list[int], shuffler: random.Random) -> None:
    before = of(samples)
    shuffled = list(samples)
    shuffler.shuffle(shuffled)
    assert of(shuffled) == before


@given(st.lists(st.integers(0, 10**11), max_size=200))
def test_every_metric_is_there_or_withheld_with_a_reason(samples: list[int]) -> None:
    summary = of(samples)
    assert set(summary.metrics) == WHOLE
    missing = {name for name, value in summary.metrics.items() if value is None}
    assert missing == {name for name in summary.withheld if not name.startswith("interval:")}
    assert ("latency_ms" in summary.intervals) != ("interval:latency_ms" in summary.withheld)
    assert all(math.isfinite(value) for value in summary.metrics.values() if value is not None)


@given(latencies)
def test_quantiles_rise_and_the_interval_holds_the_median(samples: list[int]) -> None:
    summary = of(samples)
    order = ["min_ms", "p25_ms", "ms", "p75_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"]
    values = [value for name in order if (value := summary.metrics[f"latency_{name}"]) is not None]
    assert all(a <= b or a == pytest.approx(b) for a, b in pairwise(values))
    for interval in summary.intervals.values():
        median = summary.metrics["latency_ms"]
        assert median is not None
        assert interval.low <= median <= interval.high


@pytest.mark.parametrize(
    ("q", "expected"), [(0, 10), (0.25, 17.5), (0.5, 25), (0.9, 37), (1, 40), (1 / 3, 20), (0.99, 39.7)]
)
def test_a_quantile_is_of_type_seven(q: float, expected: float) -> None:
    """Values that numpy.quantile gives for [10, 20, 30, 40] by default."""
    assert quantile([10, 20, 30, 40], q) == pytest.approx(expected)


@pytest.mark.parametrize(("percent", "needed"), PERCENTILE_MIN_SAMPLES.items())
def test_a_percentile_is_withheld_below_its_number_of_samples(percent: int, needed: int) -> None:
    name = f"latency_p{percent}_ms"
    few, enough = of([1000] * (needed - 1)), of(list(range(1, needed + 1)))
    assert few.metrics[name] is None
    assert few.withheld[name] == f"needs {needed} samples, has {needed - 1}"
    assert enough.metrics[name] == pytest.approx((1 + (needed - 1) * percent / 100) / 1e6)
    assert name not in enough.withheld


@pytest.mark.parametrize("count", [*range(2, 130), 500, 999, 1000, 4001, 20_000])
def test_the_ranks_are_the_narrowest_symmetric_ones_that_reach_the_confidence(count: int) -> None:
    ranks = median_ranks(count)
    wanted = Fraction(95, 100)
    if count < INTERVAL_MIN_SAMPLES:
        assert ranks is None
        assert exact_coverage(count, 1, count) < wanted
        return
    assert ranks is not None
    low, high, covered = ranks
    assert low + high == count + 1
    exact = exact_coverage(count, low, high)
    assert exact >= wanted
    assert covered == pytest.approx(float(exact), abs=1e-9)
    if low + 1 < high - 1:
        assert exact_coverage(count, low + 1, high - 1) < wanted


def test_the_ranks_for_the_papers_fifty_runs_are_those_of_the_tables() -> None:
    """Conover, Practical Nonparametric Statistics, table A3: 18 and 33 of 50, 96.7 %."""
    ranks = median_ranks(50)
    assert ranks is not None
    assert ranks[:2] == (18, 33)
    assert ranks[2] == pytest.approx(0.9672, abs=5e-5)


def test_a_million_samples_have_ranks_near_the_normal_ones() -> None:
    ranks = median_ranks(10**6)
    assert ranks is not None
    assert ranks[0] == pytest.approx(500_000 - 1.959964 * 500, abs=2)
    assert CONFIDENCE <= ranks[2] < CONFIDENCE + 0.001


def test_the_interval_covers_the_median_of_a_skewed_distribution_as_often_as_it_says() -> None:
    """An exponential distribution, 4,000 runs of 21 samples; the exact coverage is 97.3 %."""
    draw = random.Random(7)
    truth = math.log(2) * 1e6
    hits = 0
    for _ in range(4000):
        interval = of([int(draw.expovariate(1) * 1e6) for _ in range(21)]).intervals["latency_ms"]
        hits += interval.low <= truth / 1e6 <= interval.high
    low, high, exact = median_ranks(21) or (0, 0, 0.0)
    assert exact == pytest.approx(float(exact_coverage(21, low, high)))
    assert hits / 4000 == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_the_interval_is_made_of_samples_and_says_what_it_is() -> None:
    samples = [1_000_000 + 1000 * i for i in range(50)]
    interval = of(samples).intervals["latency_ms"]
    assert (interval.low, interval.high) == (samples[17] / 1e6, samples[32] / 1e6)
    assert interval.confidence == 0.95
    assert interval.scope == "within this run"
    assert "18 and 33 of 50" in interval.method
    assert "96.7 %" in interval.method


def test_below_six_samples_there_is_no_interval_and_the_reason_is_given() -> None:
    summary = of([1000] * 5)
    assert summary.intervals == {}
    assert summary.withheld["interval:latency_ms"] == "needs 6 samples, has 5"
    assert "latency_ms" in of([1000] * 6).intervals


def test_throughput_is_inputs_over_the_wall_clock_of_the_stage() -> None:
    """The wall clock holds what lies between inferences, too: it is not batch size over latency."""
    summary = summarise([1_000_000] * 100, batch_size=8, wall_ns=200_000_000)
    assert summary.metrics["throughput_per_s"] == 4000
    assert set(summary.intervals) == {"latency_ms"}
    stopped = summarise([0] * 10, batch_size=8, wall_ns=0)
    assert stopped.metrics["throughput_per_s"] is None
    assert "wall clock" in stopped.withheld["throughput_per_s"]


def test_no_samples_at_all_are_no_error() -> None:
    summary = of([])
    assert summary.metrics["sample_count"] == 0
    assert all(value is None for name, value in summary.metrics.items() if name != "sample_count")
    assert flags(summary) == {"too_few_samples": "0 samples, 10 is the least"}


@pytest.mark.parametrize(
    ("samples", "batch_size", "wall_ns"), [([1, -1], 1, 1), ([1], 0, 1), ([1], -2, 1), ([1], 1, -1)]
)
def test_what_no_stopwatch_gives_is_refused(samples: list[int], batch_size: int, wall_ns: int) -> None:
    with pytest.raises(ValueError, match=r"runs backwards|is none"):
        summarise(samples, batch_size=batch_size, wall_ns=wall_ns)


def test_steady_samples_raise_no_doubt() -> None:
    assert flags(of([1_000_000 + i for i in range(50)], timer_overhead_ns=60.0, timer_resolution_ns=1.0)) == {}


@pytest.mark.parametrize(("count", "few"), [(9, True), (10, False)])
def test_fewer_than_ten_samples_are_too_few(count: int, few: bool) -> None:
    assert ("too_few_samples" in flags(of([1_000_000] * count))) == few


def test_a_wide_middle_is_unstable_with_the_numbers_as_evidence() -> None:
    evidence = flags(of([1_000_000, 1_200_000] * 25))["unstable"]
    assert "13.48 %, limit 2.5 %" in evidence
    assert "18.2 % of the median, limit 10 %" in evidence


@pytest.mark.parametrize(("half_width", "doubted"), [(0.0168, False), (0.0170, True)])
def test_a_robust_variation_above_two_and_a_half_percent_is_unstable(half_width: float, doubted: bool) -> None:
    """Half the samples are `half_width` off the median: the robust variation is 1.4826 times that."""
    off = round(half_width * 10**9)
    samples = [10**9 - off] * 25 + [10**9] + [10**9 + off] * 25
    assert ("unstable" in flags(of(samples))) == doubted


def test_an_interquartile_range_above_a_tenth_of_the_median_is_unstable() -> None:
    """Sixty of a hundred samples are alike, so the robust variation is 0; the upper quarter is far off."""
    samples = [10**6] * 60 + [12 * 10**5] * 40
    evidence = flags(of(samples))["unstable"]
    assert "robust" not in evidence
    assert "interquartile range 20.0 %" in evidence


def test_a_few_outliers_do_not_make_a_run_unstable() -> None:
    assert "unstable" not in flags(of([10**6] * 95 + [10**9] * 5))


@pytest.mark.parametrize(
    ("overhead", "resolution", "parts"),
    [(100.0, 100.0, []), (101.0, 1.0, ["overhead"]), (1.0, 200.0, ["resolution"]), (None, None, [])],
)
def test_a_clock_that_costs_over_a_hundredth_of_the_median_is_too_coarse(
    overhead: float | None, resolution: float | None, parts: list[str]
) -> None:
    found = flags(
        summarise(
            [10_000] * 50, batch_size=1, wall_ns=500_000, timer_overhead_ns=overhead, timer_resolution_ns=resolution
        )
    )
    assert ("timer_too_coarse" in found) == bool(parts)
    assert all(part in found["timer_too_coarse"] for part in parts)


def test_twenty_thousand_samples_are_no_trouble() -> None:
    """The most that any protocol takes. Counted work, not time: every sample is looked at a few times."""
    samples = [10**6 + (i * 7919) % 1009 for i in range(20_000)]
    summary = of(samples)
    interval = summary.intervals["latency_ms"]
    ordered = sorted(samples)
    inside = bisect.bisect_right(ordered, interval.high * 1e6) - bisect.bisect_left(ordered, interval.low * 1e6)
    assert 270 < inside < 330
    assert summary.metrics["latency_p99_ms"] is not None
