# SPDX-License-Identifier: Apache-2.0
"""Has a series left its history? Pure, standard library.

All on the metric's scale (`tracked`). The step: tonight lies z = (y - m) / (s sqrt(1 + 1.57 / n)) away from the median
m of the last n nights; 1.57 is pi / 2, the variance of the median of normal values over that of their mean. The spread
s joins the series' own with that of its class, s^2 = (n own^2 + w pool^2) / (n + w), since few nights say little; own
is the canary's robust one (`canary.judge`). Beyond `history_z`, and at least half of what matters: a trigger.

The slow path finds what no single night shows: of all splits of the last nights the one that maximises
|m2 - m1| sqrt(n1 n2 / n), as a least-squares step would with means, must reach t = (m2 - m1) / (s sqrt(1.57 / n1 +
1.57 / n2)) > `history_slow_t` and matter in full. Nights that follow each other are alike, so that t is too large by
some factor; it is no evidence by itself but a reason to measure.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farm.canary.judge import own_spread
from farm.history.model import NightPoint, Trigger
from farm.history.tracked import Rule
from farm.student import within
from farm.thresholds import DEFAULTS, Limits

STEP, SLOW = "step", "slow"
#: Of a median: pi / 2, the variance of normal values' median over that of their mean.
MEDIAN_VARIANCE = 1.57


@dataclass(frozen=True)
class Standing:
    """Where a night stands to its history: `centre`, `spread` and `move` on the metric's scale, of `count` nights."""

    centre: float
    spread: float
    count: int
    move: float
    z: float
    p_value: float


def trigger(
    key: str,
    points: Sequence[NightPoint],
    tonight: NightPoint,
    rule: Rule,
    pool: float,
    limits: Limits = DEFAULTS,
    quiet: bool = False,
) -> Trigger | None:
    """Whether tonight left the history.

    Args:
        points: all before tonight since the last accepted change, oldest first.
        pool: `pooled` of the series of the same class and metric.
        quiet: no slow path tonight, since a measurement found nothing a few nights ago.

    Raises:
        ValueError: a value has no place on the metric's scale.
    """
    places = [rule.place(point.value) for point in points]
    nights = [point.night for point in points]
    return judge(key, nights, places, tonight.night, rule.place(tonight.value), rule, pool, limits, quiet)[1]


def judge(
    key: str,
    nights: Sequence[str],
    places: Sequence[float],
    night: str,
    place: float,
    rule: Rule,
    pool: float,
    limits: Limits = DEFAULTS,
    quiet: bool = False,
) -> tuple[Standing | None, Trigger | None]:
    """Where tonight stands, None without a history, and the trigger that it is."""
    if not places:
        return None, None
    stands = stand(places, place, rule, pool, limits)
    if len(places) < limits["history_fewest_points"]:
        return stands, None
    if abs(stands.z) > limits["history_z"] and rule.matters(stands.centre, stands.move, part=0.5):
        return stands, _told(key, STEP, night, night, stands, rule)
    if quiet or len(places) + 1 < limits["history_slow_points"]:
        return stands, None
    return stands, _slow(key, [*nights, night], [*places, place], rule, pool, limits)


def stand(places: Sequence[float], place: float, rule: Rule, pool: float, limits: Limits = DEFAULTS) -> Standing:
    """Where a night's place stands to those before it, of which there is one at least."""
    history = places[-int(limits["history_points"]) :]
    count = len(history)
    centre = statistics.median(history)
    spread = _spread(history, rule, pool, limits)
    move = place - centre
    z = move / (spread * math.sqrt(1 + MEDIAN_VARIANCE / count))
    return Standing(centre, spread, count, move, z, _p_value(z, count, limits))


def pooled(histories: Iterable[Sequence[NightPoint]], rule: Rule, limits: Limits = DEFAULTS) -> float:
    """The spread, on the rule's scale, that series of a device class and metric usually have from night to night.

    The median of theirs, so that one which changed or is much noisier does not count; the table's where none is long
    enough. Each history may be the last nights only.
    """
    fewest = int(limits["history_min_points"])
    last = int(limits["history_points"])
    known = [
        own_spread([rule.place(point.value) for point in history[-last:]])
        for history in histories
        if len(history) >= fewest
    ]
    return max(statistics.median(known), rule.floor) if known else rule.pool


def base_nights(points: Sequence[NightPoint], found: Trigger, limits: Limits = DEFAULTS) -> tuple[NightPoint, ...]:
    """Which nights may stand for "before" in an A/B measurement, the best first.

    `points` are of the series since its last accepted change. The best is some nights before `since`: a change of a few
    percent is often noticed late, and a measurement against a night that already had it would find nothing. In a young
    history it is the latest: the first nights may still be of the level before.
    """
    before = [point for point in points if point.night < found.since]
    gap = int(limits["history_min_points"])
    if len(before) <= gap:
        return tuple(reversed(before))
    return (*reversed(before[:-gap]), *before[-gap:])


def _spread(history: Sequence[float], rule: Rule, pool: float, limits: Limits) -> float:
    count = len(history)
    own = own_spread(history) if count >= limits["history_min_points"] else pool
    return _joined(own, count, rule, pool, limits)


def _joined(own: float, count: int, rule: Rule, pool: float, limits: Limits) -> float:
    weight = limits["history_pool_weight"]
    return max(math.sqrt((count * own**2 + weight * pool**2) / (count + weight)), rule.floor)


def _slow(
    key: str, nights: Sequence[str], places: Sequence[float], rule: Rule, pool: float, limits: Limits
) -> Trigger | None:
    last = int(limits["history_slow_window"])
    nights, places = nights[-last:], places[-last:]
    at, before, after = split(places, int(limits["history_min_points"]), int(limits["history_slow_right"]))
    move = after - before
    if not rule.matters(before, move):
        return None
    left = [abs(place - before) for place in places[:at]] + [abs(place - after) for place in places[at:]]
    own = own_spread([sign * value for value in left for sign in (-1, 1)])
    spread = _joined(own, len(places), rule, pool, limits)
    t = move / (spread * math.sqrt(MEDIAN_VARIANCE / at + MEDIAN_VARIANCE / (len(places) - at)))
    if abs(t) <= limits["history_slow_t"]:
        return None
    stands = Standing(before, spread, at, move, t, _p_value(t, len(places), limits))
    return _told(key, SLOW, nights[-1], nights[at], stands, rule)


def split(places: Sequence[float], least_left: int, least_right: int) -> tuple[int, float, float]:
    """Where to split so that both sides' medians differ most: the index of the right side's first, and both medians."""
    count = len(places)
    left, right = sorted(places[:least_left]), sorted(places[least_left:])
    best, found = -1.0, (least_left, 0.0, 0.0)
    for at in range(least_left, count - least_right + 1):
        before, after = _middle(left), _middle(right)
        weight = abs(after - before) * math.sqrt(at * (count - at))
        if weight > best:
            best, found = weight, (at, before, after)
        insort(left, places[at])
        del right[bisect_left(right, places[at])]
    return found


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _p_value(z: float, count: int, limits: Limits) -> float:
    """Two-sided, by Student's t: the class's spread counts for as many nights as its weight says."""
    freedom = max(count - 1 + int(limits["history_pool_weight"]), 1)
    return max(1 - within(abs(z), freedom), 0.0)


def _told(key: str, path: str, night: str, since: str, stands: Standing, rule: Rule) -> Trigger:
    return Trigger(
        key=key,
        night=night,
        since=since,
        path=path,
        centre=rule.value(stands.centre),
        spread=stands.spread,
        count=stands.count,
        z=stands.z,
        change=rule.change(stands.move),
        p_value=stands.p_value,
    )
