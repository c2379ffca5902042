# SPDX-License-Identifier: Apache-2.0
"""How sure a share of right answers is: Wilson's interval. Pure, standard library.

With k of n answers right, it holds every p whose normal test does not reject k: the centre is
(k + z^2/2) / (n + z^2), the half width z / (n + z^2) * sqrt(k (n - k) / n + z^2 / 4) (E. B. Wilson, "Probable
Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927). It takes the images as independent draws
of what the test set stands for; it says nothing about another training run or another calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

from farm.contract.record import Interval

CONFIDENCE = 0.95
METHOD = "wilson"
SCOPE = "this test set"
SHARES = ("top1", "top5")


def wilson(right: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Both ends of the interval of a share, each within 0..1.

    Raises:
        ValueError: `right` is not between 0 and `count`, or `count` is below 1.
    """
    if count < 1 or not 0 <= right <= count:
        raise ValueError(f"{right} of {count} is no share")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (right + z * z / 2) / (count + z * z)
    half = z / (count + z * z) * math.sqrt(right * (count - right) / count + z * z / 4)
    # At both extremes the end is exact, and only rounding keeps the sum from saying so.
    return (0.0 if right == 0 else max(0.0, centre - half), 1.0 if right == count else min(1.0, centre + half))


def accuracy_intervals(metrics: Mapping[str, float | None]) -> dict[str, Interval]:
    """The intervals of a record's top-1 and top-5, as far as it has them."""
    count = metrics.get("accuracy_samples")
    shares = {name: metrics.get(name) for name in SHARES}
    return {
        name: Interval(*wilson(round(share * count), int(count)), CONFIDENCE, METHOD, SCOPE)
        for name, share in shares.items()
        if share is not None and count
    }


def accuracy_withheld(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Why a record with a top-1 has no top-5."""
    if metrics.get("top1") is None or metrics.get("top5") is not None:
        return {}
    return {"top5": "needs 5 classes at least: with fewer, every answer is among the first five"}
