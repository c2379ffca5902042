# SPDX-License-Identifier: Apache-2.0
"""A night's series together: common moves of a device first, then which triggers are settled tonight, in order. Pure.

A device whose canary shifted, or of whose series more than `history_common_share` moved the same way, has changed
itself: one event. Of the rest, triggers are queued by Benjamini and Hochberg's (1995) procedure over all series that
were judged: at most q of what is measured again is expected to be noise. Those wait longest that are least unusual.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from farm.compare.ranks import false_discovery
from farm.history.memory import BUDGET, COMMON, NOISE, Look, Tonight
from farm.history.model import Confirmation, NightPoint
from farm.history.tracked import rule_for
from farm.thresholds import DEFAULTS, Limits

_WITNESSES = 3


@dataclass(frozen=True)
class Candidate:
    """What one series said tonight, and what settling it would cost. `seconds`: of device time, both sides together."""

    device: str
    metric: str
    look: Look
    seconds: float = 0.0


@dataclass(frozen=True)
class DeviceMove:
    """Series of a device that moved together.

    Args:
        shift: the common move on the metric's scale, by which their histories are moved; 0 where only the canary and
            few of the series moved. `change`: how far the series moved, as people read it.
        share: of the `judged` series, how many moved this way.
        canary: whether the device's canary shifted tonight.
        keys: the series that went along; none of them has an event of its own tonight.
        witnesses: of `keys`, those that moved most: their A/B tells the software (it agrees) from the machine.
    """

    device: str
    metric: str
    night: str
    shift: float
    change: float
    share: float
    judged: int
    canary: bool
    keys: tuple[str, ...]
    witnesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """`ask`: what to settle tonight, the most urgent first, within the budgets. `left`: key -> why not tonight."""

    moves: tuple[DeviceMove, ...] = ()
    ask: tuple[Candidate, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    def shifts(self) -> dict[str, float]:
        """The common move that each series took part in tonight; those without one are not there."""
        return {key: move.shift for move in self.moves for key in move.keys}

    def tonight(
        self, look: Look, point: NightPoint, measured: Confirmation | None = None, accepted: Collection[str] = ()
    ) -> Tonight:
        """What `fold.step` takes for one series. For many series keep `shifts()` and make it yourself."""
        left = self.left.get(look.key, "")
        return Tonight(point, look, measured, tuple(accepted), self.shifts().get(look.key, 0.0), left)


def plan_night(
    candidates: Sequence[Candidate],
    budgets: Mapping[str, float] | None = None,
    canary_shifted: Collection[str] = (),
    limits: Limits = DEFAULTS,
) -> Plan:
    """Decide the night.

    Args:
        candidates: every series with a value tonight, in whatever order.
        budgets: seconds of device time for settling, by device; a device that is not there has no cap.
        canary_shifted: devices whose canary shifted.
    """
    ordered = sorted(candidates, key=lambda one: one.look.key)
    moves = _moves(ordered, canary_shifted, limits)
    left = {key: COMMON for move in moves for key in move.keys}
    waiting = [one for one in ordered if one.look.recheck]
    fresh = [one for one in ordered if one.look.judged and not one.look.recheck and one.look.key not in left]
    passed = []
    for one, adjusted in zip(fresh, false_discovery([one.look.p_value for one in fresh]), strict=True):
        if one.look.trigger is None:
            continue
        if adjusted <= limits["history_queue_q"]:
            passed.append(one)
        else:
            left[one.look.key] = NOISE
    ask = _within(_urgent(waiting) + _urgent(passed), dict(budgets or {}), left)
    return Plan(moves, ask, left)


def _urgent(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The most unusual first; the key only makes the order certain."""
    return sorted(candidates, key=lambda one: (-abs(one.look.trigger.z) if one.look.trigger else 0.0, one.look.key))


def _within(ordered: Sequence[Candidate], budgets: dict[str, float], left: dict[str, str]) -> tuple[Candidate, ...]:
    ask = []
    for one in ordered:
        rest = budgets.get(one.device, float("inf"))
        if one.seconds <= rest:
            budgets[one.device] = rest - one.seconds
            ask.append(one)
        else:
            left[one.look.key] = BUDGET
    return tuple(ask)


def _moves(candidates: Sequence[Candidate], canary_shifted: Collection[str], limits: Limits) -> tuple[DeviceMove, ...]:
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for one in candidates:
        groups[one.device, one.metric].append(one)
    found = (
        _move(device, metric, group, device in canary_shifted and rule_for(metric, limits).timed, limits)
        for (device, metric), group in sorted(groups.items())
    )
    return tuple(move for move in found if move)


def _move(device: str, metric: str, group: Sequence[Candidate], canary: bool, limits: Limits) -> DeviceMove | None:
    """The common move of a device in one metric, if there is one."""
    judged = [one.look for one in group if one.look.judged and not one.look.recheck]
    ways = [[look for look in judged if sign * look.z > limits["history_common_z"]] for sign in (1, -1)]
    moved = max(ways, key=len)
    many = len(moved) > limits["history_common_share"] * len(judged)
    enough = len(moved) >= limits["history_common_fewest"]
    if not moved or not (canary or (many and enough)):
        return None
    middle = statistics.median(look.move for look in moved)
    # Those went along that are nearer to the new level than to their own.
    along = [one.look for one in group if one.look.move * middle > 0 and abs(one.look.move) > abs(middle) / 2]
    if not (many and enough):
        # The canary alone: what left its history waits for a night with a steady canary, and no level is taken over.
        along = [look for look in along if look.trigger and not look.recheck]
    witnesses = sorted((look for look in along if look.trigger), key=lambda look: (-abs(look.z), look.key))[:_WITNESSES]
    return DeviceMove(
        device=device,
        metric=metric,
        night=moved[0].night,
        shift=middle if many and enough else 0.0,
        change=rule_for(metric, limits).change(middle),
        share=len(moved) / len(judged),
        judged=len(judged),
        canary=canary,
        keys=tuple(look.key for look in along),
        witnesses=tuple(look.key for look in witnesses),
    )
