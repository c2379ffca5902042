# SPDX-License-Identifier: Apache-2.0
"""Quantiles and the median's interval: what a record tells and what may end a measurement are the same numbers.

Quantiles are Hyndman and Fan's type 7 (numpy's and R's default): with the samples sorted, x[0] .. x[n-1], the
q-quantile lies at h = (n - 1) q, and between two samples it is interpolated linearly. The median is the 0.5-quantile.

The median's interval is that of the order statistics (David and Nagaraja, Order Statistics, section 7.1): the number of
samples below the true median is binomial(n, 1/2) whatever the distribution, so [x_(k), x_(n+1-k)] covers it with
probability 1 - 2 P(B < k); k is the largest rank for which that is at least 95 %. It takes the samples as independent.
"""

import math
from typing import Optional, Sequence, Tuple

CONFIDENCE = 0.95

#: Below this, even the interval from the smallest to the largest sample covers the median less often than 95 %.
INTERVAL_MIN_SAMPLES = 6


def quantile(ordered: Sequence[float], q: float) -> float:
    """The type 7 quantile of sorted samples; see the module's docstring. `ordered` must not be empty."""
    position = (len(ordered) - 1) * q
    low = math.floor(position)
    if low + 1 >= len(ordered):
        return float(ordered[-1])
    return ordered[low] + (position - low) * (ordered[low + 1] - ordered[low])


def median_ranks(count: int, confidence: float = CONFIDENCE) -> Optional[Tuple[int, int, float]]:
    """Ranks (from 1) of the two samples that enclose the median, and the probability with which they do.

    The binomial probabilities are summed from the middle outwards, so the cost grows as the root of `count`.
    Returns None where no two samples reach `confidence`.
    """
    if count < 2:
        return None
    rank = count // 2
    term = math.exp(
        math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1) - count * math.log(2)
    )
    covered = term if count % 2 == 0 else 2 * term
    while covered < confidence:
        term *= rank / (count - rank + 1)
        rank -= 1
        if rank < 1:
            return None
        covered += 2 * term
    return rank, count + 1 - rank, covered


def relative_half_width(ordered: Sequence[float]) -> Optional[float]:
    """Half the width of the median's interval, over the median; None where there is no interval or the median is 0."""
    ranks = median_ranks(len(ordered))
    if ranks is None:
        return None
    median = quantile(ordered, 0.5)
    return (ordered[ranks[1] - 1] - ordered[ranks[0] - 1]) / 2 / median if median else None
