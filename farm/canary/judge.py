# SPDX-License-Identifier: Apache-2.0
"""Is one more time of a canary like those before it? Pure, standard library.

On logarithms, so that a change is a share. With the history's n times: centre = median, s^2 = (n (1.4826 MAD)^2 +
10 s_pool^2) / (n + 10), where s_pool is the spread of the class's other canaries: few points say little about their own
spread. The new time lies z = (log(time) - centre) / (s sqrt(1 + 1.57 / n)) away; 1.57 is pi / 2, the variance of a median
of normal values beside that of their mean. Both z and the size of the change must be beyond their limits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from farm.thresholds import DEFAULTS, Limits

#: Makes the median absolute deviation of a normal distribution its standard deviation.
_MAD_SCALE = 1.4826
#: How many points the spread of the class counts for.
_POOL_WEIGHT = 10
#: More would make the baseline remember a device of months ago.
HISTORY = 20


@dataclass(frozen=True)
class Judgement:
    """One time against a history. `centre` has the history's unit, `spread` and `change` are shares."""

    centre: float
    spread: float
    change: float
    z: float
    out: bool


def judge(history: Sequence[float], value: float, pool: float, limits: Limits = DEFAULTS) -> Judgement:
    """Judge a time by those before it, in whatever order they are given. All are greater than 0, in one unit.

    Args:
        history: the times to judge by, one at least.
        value: the new time.
        pool: the spread, as a share, of other canaries of the class.
        limits: `canary_z`, `canary_shift` and `canary_floor` are used.
    """
    logs = [math.log(time) for time in history]
    centre = statistics.median(logs)
    spread = max(_spread(logs, pool), limits["canary_floor"])
    away = math.log(value) - centre
    z = away / (spread * math.sqrt(1 + 1.57 / len(logs)))
    out = abs(z) > limits["canary_z"] and abs(away) >= math.log1p(limits["canary_shift"])
    return Judgement(math.exp(centre), spread, math.expm1(away), z, out)


def pooled(others: Sequence[Sequence[float]], limits: Limits = DEFAULTS) -> float:
    """The spread that the canaries of other devices of a class have in common; the table's where they say too little."""
    known = [_own_spread([math.log(time) for time in times]) for times in others if len(times) >= _fewest(limits)]
    if not known:
        return limits["canary_pool"]
    return max(math.sqrt(statistics.fmean(spread**2 for spread in known)), limits["canary_floor"])


def _fewest(limits: Limits) -> int:
    return max(int(limits["canary_min_points"]), 1)


def _spread(logs: Sequence[float], pool: float) -> float:
    weighed = len(logs) * _own_spread(logs) ** 2 + _POOL_WEIGHT * pool**2
    return math.sqrt(weighed / (len(logs) + _POOL_WEIGHT))


def _own_spread(logs: Sequence[float]) -> float:
    centre = statistics.median(logs)
    return _MAD_SCALE * statistics.median(abs(value - centre) for value in logs)
