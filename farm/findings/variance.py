# SPDX-License-Identifier: Apache-2.0
"""How much of a scatter lies between groups: one-way analysis of variance with random effects. Pure.

y_bi = mu + B_b + I_bi. The mean squares between and within groups have the expectations sigma_I^2 + n0 sigma_B^2 and
sigma_I^2, with n0 = (N - sum n_b^2 / N) / (k - 1) for unequal groups (Searle, Casella and McCulloch, Variance
Components, 1992). F = MS_B / MS_I is F-distributed times 1 + n0 sigma_B^2 / sigma_I^2, exactly for equal groups and
normal scatter: from its quantiles the interval of ICC = sigma_B^2 / (sigma_B^2 + sigma_I^2).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_HALVINGS = 200
_TERMS = 300


@dataclass(frozen=True)
class Components:
    """Standard deviations between groups and within, their share with its 95 % interval, and the p-value of F."""

    between: float
    within: float
    icc: float
    icc_low: float
    icc_high: float
    p_value: float
    groups: int
    values: int


def components(groups: Sequence[Sequence[float]], confidence: float = 0.95) -> Components | None:
    """None where within cannot be told from between: fewer than two groups, or no group with two values."""
    known = [group for group in groups if group]
    k, n = len(known), sum(len(group) for group in known)
    if k < 2 or n <= k or not all(math.isfinite(value) for group in known for value in group):
        return None
    mean = statistics.fmean(value for group in known for value in group)
    means = [statistics.fmean(group) for group in known]
    square_b = sum(len(g) * (m - mean) ** 2 for g, m in zip(known, means, strict=True)) / (k - 1)
    square_i = sum((v - m) ** 2 for g, m in zip(known, means, strict=True) for v in g) / (n - k)
    n0 = (n - sum(len(group) ** 2 for group in known) / n) / (k - 1)
    if square_i <= 0:
        return None
    ratio = square_b / square_i
    variance_b = max(0.0, (square_b - square_i) / n0)
    tail = (1 - confidence) / 2
    low = _icc(ratio / f_quantile(1 - tail, k - 1, n - k), n0)
    high = _icc(ratio / f_quantile(tail, k - 1, n - k), n0)
    icc = variance_b / (variance_b + square_i)
    p_value = 1 - f_below(ratio, k - 1, n - k)
    return Components(math.sqrt(variance_b), math.sqrt(square_i), icc, low, high, max(0.0, p_value), k, n)


def f_below(value: float, df1: int, df2: int) -> float:
    """P(F <= value) with `df1` and `df2` degrees of freedom."""
    return 0.0 if value <= 0 else _beta_share(df1 * value / (df1 * value + df2), df1 / 2, df2 / 2)


def f_quantile(share: float, df1: int, df2: int) -> float:
    """The value below which F lies with probability `share`, between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_share(middle, df1 / 2, df2 / 2) < share else (low, middle)
    return df2 * low / (df1 * max(1 - low, 1e-300))


def _icc(scaled: float, n0: float) -> float:
    """A bound of the share from F over its quantile."""
    return max(0.0, (scaled - 1) / (scaled - 1 + n0))


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz's method)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, _turned(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, _TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = _turned(1 + step * d), _away(1 + step / c)
            total *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * total


def _turned(value: float) -> float:
    return 1 / _away(value)


def _away(value: float) -> float:
    """Lentz's guard against a zero denominator."""
    return value if abs(value) > 1e-300 else 1e-300
