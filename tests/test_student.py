# SPDX-License-Identifier: Apache-2.0
"""Student's t against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from farm.student import quantile, within

degrees = st.integers(1, 300)


@given(st.floats(0, 1e6), degrees)
def test_the_probability_within_t_is_scipys(t: float, df: int) -> None:
    assert within(t, df) == pytest.approx(stats.t.cdf(t, df) - stats.t.cdf(-t, df), abs=1e-12)


@given(st.floats(0.01, 0.9999), degrees)
def test_the_quantile_is_scipys(confidence: float, df: int) -> None:
    assert quantile(confidence, df) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-8)


def test_the_textbooks_values() -> None:
    assert quantile(0.95, 4) == pytest.approx(2.776445, abs=1e-6)
    assert quantile(0.95, 9) == pytest.approx(2.262157, abs=1e-6)


@pytest.mark.parametrize(("confidence", "df"), [(0.95, 0), (0.0, 3), (1.0, 3), (-1.0, 3)])
def test_what_has_no_quantile_is_refused(confidence: float, df: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        quantile(confidence, df)


@pytest.mark.parametrize(("t", "df"), [(1.0, 0), (-1.0, 3)])
def test_what_has_no_probability_is_refused(t: float, df: int) -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        within(t, df)
