# SPDX-License-Identifier: Apache-2.0
"""Every rank statistic against scipy's, and what no library says: coverage, symmetry, test and interval as one."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from farm.compare import ranks

sizes = st.integers(1, 9)
#: Whole numbers far apart, each once: no ties between values or between differences is likely, none is needed.
values = st.lists(st.integers(-(10**6), 10**6).map(float), min_size=1, max_size=9, unique=True)
coarse = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=7)
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(sizes, sizes)
def test_the_null_distribution_counts_every_order_once(m: int, n: int) -> None:
    counts = ranks.null_counts(m, n)
    assert sum(counts) == math.comb(m + n, n)
    assert counts == counts[::-1]


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3), (3, 3), (4, 3), (5, 5)])
def test_the_null_distribution_is_that_of_all_orders_written_out(m: int, n: int) -> None:
    found = [0] * (m * n + 1)
    for second in itertools.combinations(range(m + n), n):
        first = set(range(m + n)) - set(second)
        found[sum(x > y for x in first for y in second)] += 1
    assert ranks.null_counts(m, n) == tuple(found)


@given(values, values)
def test_the_p_value_is_scipys_exact_one(base: list[float], new: list[float]) -> None:
    apart = [y + 0.5 for y in new]
    theirs = scipy.stats.mannwhitneyu(apart, base, alternative="greater", method="exact").pvalue
    assert ranks.p_above(base, apart, 0.0) == pytest.approx(float(theirs), rel=1e-12)


@given(values, values, st.integers(-(10**6), 10**6))
def test_the_p_value_at_an_edge_is_scipys_of_the_shifted_sample(base: list[float], new: list[float], edge: int) -> None:
    shifted = [y - (edge + 0.5) for y in new]
    theirs = scipy.stats.mannwhitneyu(shifted, base, alternative="greater", method="exact").pvalue
    assert ranks.p_above(base, new, edge + 0.5) == pytest.approx(float(theirs), rel=1e-12)


@given(probabilities)
def test_the_false_discovery_rate_is_scipys(p_values: list[float]) -> None:
    theirs = scipy.stats.false_discovery_control(p_values, method="bh")
    assert ranks.false_discovery(p_values) == pytest.approx([float(p) for p in theirs], rel=1e-12)


@given(values, values, st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_the_interval_is_the_test_turned_round(base: list[float], new: list[float], confidence: float) -> None:
    """A shift lies in the interval exactly if the two-sided test does not reject it."""
    found = ranks.shift(base, new, confidence)
    if found.coverage < confidence:
        assert (found.low, found.high) == (min(new) - max(base), max(new) - min(base))
        return
    for edge in {found.low, found.high, found.estimate, found.low - 0.25, found.high + 0.25}:
        below = ranks.tail(len(base), len(new), sum(d <= edge for d in ranks.differences(base, new)))
        above = ranks.tail(len(base), len(new), sum(d >= edge for d in ranks.differences(base, new)))
        rejected = 2 * min(below, above) <= (1 - confidence) * (1 + 1e-9)
        assert rejected == (not found.low <= edge <= found.high)


@given(sizes, sizes, st.floats(0.5, 0.999))
def test_the_rank_is_the_largest_that_covers(m: int, n: int, confidence: float) -> None:
    k, coverage = ranks.rank_for(m, n, confidence)
    assert coverage == pytest.approx(1 - 2 * ranks.tail(m, n, k - 1))
    if coverage >= confidence * (1 - 1e-9):  # one in 10^14 too few is rounding
        assert 1 - 2 * ranks.tail(m, n, k) < confidence
    else:
        assert k == 1


def test_five_a_side_are_the_fewest_for_99_percent_and_their_interval_is_the_whole_range() -> None:
    assert ranks.fewest(0.99) == 5
    assert ranks.fewest(0.95) == 4
    assert ranks.rank_for(5, 5, 0.99) == (1, pytest.approx(1 - 2 / 252))
    assert ranks.widest_coverage(1, 1) == 0


@given(coarse, coarse)
def test_the_shift_turns_round_with_the_sides(base: list[float], new: list[float]) -> None:
    there, back = ranks.shift(base, new, 0.9), ranks.shift(new, base, 0.9)
    assert (there.estimate, there.low, there.high) == (-back.estimate, -back.high, -back.low)
    assert there.low <= there.estimate <= there.high


@given(coarse, coarse)
def test_the_shift_is_the_median_of_all_differences(base: list[float], new: list[float]) -> None:
    assert ranks.shift(base, new, 0.9).estimate == statistics.median(y - x for x in base for y in new)


@given(coarse, coarse, st.floats(0, 3))
def test_with_ties_outside_means_that_the_widest_interval_lies_outside_too(
    base: list[float], new: list[float], edge: float
) -> None:
    """The p-value falls to the interval's level only where the interval leaves the band."""
    found = ranks.shift(base, new, 0.9)
    if found.coverage >= 0.9:
        outside = found.low > edge or found.high < -edge
        assert outside == (ranks.p_outside(base, new, edge) <= 0.1 * (1 + 1e-9))


def test_the_interval_covers_a_true_shift_as_often_as_it_says() -> None:
    """Every order of 3 and 4 values is equally likely under the null: the exact coverage is a plain count."""
    covered = 0
    for second in itertools.combinations(range(7), 4):
        base = [float(x**2) for x in range(7) if x not in second]
        found = ranks.shift(base, [float(x**2) for x in second], 0.9)
        covered += found.low <= 0 <= found.high
    assert covered / math.comb(7, 4) == pytest.approx(ranks.rank_for(3, 4, 0.9)[1])
