# SPDX-License-Identifier: Apache-2.0
"""Exact rank statistics of two small samples: shift, interval, p-value, false-discovery rate. Pure, standard library.

The null distribution of Mann and Whitney's U has the Gaussian binomial coefficient as its generating function (Mann and
Whitney 1947): prod (1 - q^(m+i)) / (1 - q^i), i = 1 .. n, which is multiplied and divided out in whole numbers. The
shift is Hodges and Lehmann's (1963), the median of all pairwise differences; its interval inverts the test: it reaches
from the k-th smallest to the k-th largest difference. Exact for values without ties, conservative with them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Shift:
    """How far the second sample lies above the first. `coverage` is the interval's, exactly."""

    estimate: float
    low: float
    high: float
    coverage: float


@lru_cache(maxsize=64)
def null_counts(m: int, n: int) -> tuple[int, ...]:
    """In how many of the C(m+n, n) orders of two samples U is 0, 1, ... m*n."""
    counts = [1] + [0] * (m * n)
    for i in range(1, n + 1):
        for u in range(m * n, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, m * n + 1):
            counts[u] += counts[u - i]
    return tuple(counts)


def tail(m: int, n: int, u: int) -> float:
    """P(U <= u) where nothing sets the samples apart; 0 for a negative `u`."""
    return sum(null_counts(m, n)[: max(u + 1, 0)]) / math.comb(m + n, n)


def widest_coverage(m: int, n: int) -> float:
    """What the widest interval, from the smallest to the largest difference, covers."""
    return 1 - 2 / math.comb(m + n, n)


def fewest(confidence: float) -> int:
    """The fewest values a side for an interval of that confidence."""
    return next(n for n in range(1, 1000) if widest_coverage(n, n) >= confidence)


def rank_for(m: int, n: int, confidence: float) -> tuple[int, float]:
    """The largest k whose interval covers `confidence`, and what it covers; 1 where no interval reaches it."""
    # The sum of two probabilities of one in 10^14 too many is rounding, not doubt.
    allowed = (1 - confidence) * math.comb(m + n, n) / 2 * (1 + 1e-9)
    below, k = 0, 0
    for count in null_counts(m, n):
        if below + count > allowed:
            break
        below, k = below + count, k + 1
    return (k, 1 - 2 * below / math.comb(m + n, n)) if k else (1, widest_coverage(m, n))


def differences(base: Sequence[float], new: Sequence[float]) -> list[float]:
    """Every value of `new` less every value of `base`, sorted."""
    return sorted(y - x for x in base for y in new)


def shift(base: Sequence[float], new: Sequence[float], confidence: float) -> Shift:
    """Hodges and Lehmann's shift from `base` to `new` with its exact interval. Neither may be empty."""
    found = differences(base, new)
    k, coverage = rank_for(len(base), len(new), confidence)
    return Shift(_median(found), found[k - 1], found[-k], coverage)


def p_above(base: Sequence[float], new: Sequence[float], edge: float) -> float:
    """The one-sided exact p-value against "the shift is `edge` at most". Differences at the edge speak for it."""
    return tail(len(base), len(new), bisect_right(differences(base, new), edge))


def p_outside(base: Sequence[float], new: Sequence[float], edge: float) -> float:
    """The two-sided p-value against "the shift lies within +-`edge`": twice that of the better side."""
    return min(1.0, 2 * min(p_above(base, new, edge), p_above(new, base, edge)))


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) adjusted p-values: reject those up to q, and at most q of them are false."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    adjusted, least = [1.0] * len(p_values), 1.0
    for above, i in enumerate(order):
        least = min(least, p_values[i] * len(p_values) / (len(p_values) - above))
        adjusted[i] = least
    return adjusted


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
