# SPDX-License-Identifier: Apache-2.0
"""Is one more time of a canary like those before it? Pure, standard library.

On logarithms, so that a change is a share. Centre: the median of the history's n times. Their own spread is the
larger of 1.4826 times their median and 1.2533 times their mean absolute deviation, both the standard deviation of
normal values: the first alone is too small where times follow each other, and a standard deviation would let one
outlier hide a step. s^2 = max(own^2, (n own^2 + 10 s_pool^2) / (n + 10)), with s_pool the spread of the class's other
canaries, since few times say little. The new time lies z = (log(time) - centre) / (s sqrt(1 + 1.57 / n)) away; 1.57
is pi / 2, the variance of the median of normal values over that of their mean. Both z and the size of the change must
be beyond their limits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from farm.thresholds import DEFAULTS, Limits

#: Make a normal distribution's median and mean absolute deviations its standard deviation.
_MEDIAN_SCALE, _MEAN_SCALE = 1.4826, 1.2533
#: How many points the spread of the class counts for.
_POOL_WEIGHT = 10
#: More would make the baseline remember a device of long ago.
HISTORY = 40


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
    """The spread that canaries of the other devices of a class have; the table's where those say too little."""
    known = [own_spread([math.log(time) for time in times]) for times in others if len(times) >= _fewest(limits)]
    if not known:
        return limits["canary_pool"]
    return max(math.sqrt(statistics.fmean(spread**2 for spread in known)), limits["canary_floor"])


def _fewest(limits: Limits) -> int:
    return max(int(limits["canary_min_points"]), 1)


def _spread(logs: Sequence[float], pool: float) -> float:
    own = own_spread(logs)
    weighed = (len(logs) * own**2 + _POOL_WEIGHT * pool**2) / (len(logs) + _POOL_WEIGHT)
    return max(own, math.sqrt(weighed))


def own_spread(logs: Sequence[float]) -> float:
    """The standard deviation that normal values with these deviations from their median would have, and no less."""
    centre = statistics.median(logs)
    away = [abs(value - centre) for value in logs]
    return max(_MEDIAN_SCALE * statistics.median(away), _MEAN_SCALE * statistics.fmean(away))
