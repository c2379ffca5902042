# SPDX-License-Identifier: Apache-2.0
"""Student's t, for whole degrees of freedom: exact finite sums, inverted. Pure, standard library.

The probability within +-t is a finite sum in the angle atan(t / sqrt(df)) (Abramowitz and Stegun, 26.7.3 and 26.7.4),
so neither a series nor a table is cut off; its inverse is found by halving the angle's range.
"""

from __future__ import annotations

import math
from functools import lru_cache

_HALVINGS = 80  # more than a double has bits


def within(t: float, df: int) -> float:
    """The probability that Student's t with `df` degrees of freedom lies between -t and t; `t` is not negative.

    Raises:
        ValueError: `df` is below 1, or `t` is negative.
    """
    if df < 1 or t < 0:
        raise ValueError(f"no distribution has {df} degrees of freedom, or no range ends at {t}")
    return _within(math.atan2(t, math.sqrt(df)), df)


@lru_cache(maxsize=256)
def quantile(confidence: float, df: int) -> float:
    """The t for which +-t holds `confidence` of the distribution: 2.776 for 0.95 and 4 degrees of freedom.

    Raises:
        ValueError: `df` is below 1, or `confidence` is not between 0 and 1.
    """
    if df < 1 or not 0 < confidence < 1:
        raise ValueError(f"there is no quantile of {confidence} with {df} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(df)


def _within(angle: float, df: int) -> float:
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    # The terms are cos^k times ratios of odd over even numbers (even df) or even over odd ones (odd df).
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, df + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
