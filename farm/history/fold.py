# SPDX-License-Identifier: Apache-2.0
"""One series from night to night. Pure.

A night of a series:  look = look_at(memory, key, points, tonight, ...)   what the numbers say
                      plan = night.plan_night(candidates, ...)            common moves, the queue; then it is measured
                      memory, said = step(memory, points, plan.tonight(look, tonight, confirmation), rule)

A change of `history_at_once` and more is confirmed by one measurement, a smaller one by those of two nights; one that
stays open on `history_tries` nights is let go. Where what ran before cannot run, a change that is there on two nights
stays unconfirmed. From the night of its change on, a settled series has a new history; the old level of a regression is
kept until it is accepted or the series was back for `history_back` nights in a row. An improvement is taken at once:
were its old level kept, losing it again would look like coming home.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from farm.compare.model import Verdict
from farm.history.confirm import AGAIN, Answer, answer, measured_move
from farm.history.detect import MEDIAN_VARIANCE, judge
from farm.history.memory import BUDGET, Look, Memory, Pending, Said, Tonight, Watched
from farm.history.model import NightPoint, State, Trigger
from farm.history.tracked import Rule
from farm.thresholds import DEFAULTS, Limits

_Steps = tuple[Memory, tuple[Said, ...]]
_NEEDED = 2  # nights, for what is not confirmed at once


def look_at(
    memory: Memory,
    key: str,
    points: Sequence[NightPoint],
    tonight: NightPoint,
    rule: Rule,
    pool: float,
    limits: Limits = DEFAULTS,
) -> Look:
    """What tonight's value says.

    Args:
        points: the series before tonight, oldest first, all of it or at least the last `history_slow_window` nights.
        pool: `detect.pooled` of its class and metric.

    Raises:
        ValueError: a value has no place on the metric's scale.
    """
    night, place = tonight.night, rule.place(tonight.value)
    past = _past(memory, points, night, rule, limits)
    quiet = night <= memory.quiet
    if memory.pending is not None:
        first = memory.pending.trigger
        expected = rule.place(first.centre) + rule.move(first.change)
        spread = max(first.spread, rule.floor)
        move = place - expected
        again = replace(first, night=night)
        return Look(key, night, True, move / spread, move, first.p_value, again, recheck=True)
    stands, found = judge(key, past.nights, past.places, night, place, rule, pool, limits, quiet)
    if stands is None:
        return Look(key, night)
    judged = len(past.places) >= limits["history_fewest_points"]
    if any(_is_back(one, place, rule) for one in memory.watched):
        found = None  # coming home is no change of its own
    p_value = found.p_value if found else stands.p_value
    return Look(key, night, judged, stands.z, stands.move, p_value, found)


def step(
    memory: Memory, points: Sequence[NightPoint], tonight: Tonight, rule: Rule, limits: Limits = DEFAULTS
) -> _Steps:
    """Fold one night in; `points` as for `look_at`. What is open or has just been closed is said.

    Raises:
        ValueError: the night is not after the last one that was folded in.
    """
    night = tonight.point.night
    if night <= memory.last:
        raise ValueError(f"{tonight.look.key}: {night} is not after {memory.last}, fold nights in their order")
    memory = _shifted(replace(memory, last=night), points, night, tonight.shift, rule, limits)
    memory, accepted = _accept(memory, tonight, rule)
    memory, watched = _watch(memory, tonight, rule, limits)
    fresh = not accepted and not any(said.state is State.FIXED for said in watched)
    memory, settled = _settle(memory, points, tonight, rule, limits) if fresh else (memory, ())
    return memory, (*accepted, *watched, *settled)


def carry(
    memory: Memory, points: Sequence[NightPoint], night: str, shift: float, rule: Rule, limits: Limits = DEFAULTS
) -> Memory:
    """Take a common move of the device (`DeviceMove.shift`) over for a series that had no value on its night."""
    return _shifted(memory, points, night, shift, rule, limits)


@dataclass(frozen=True)
class _Past:
    nights: list[str]
    places: list[float]


def _past(memory: Memory, points: Sequence[NightPoint], night: str, rule: Rule, limits: Limits) -> _Past:
    """The history, on its scale and moved along with the device."""
    end = bisect_left(points, night, key=lambda point: point.night)
    begin = max(end - int(limits["history_slow_window"]), bisect_left(points, memory.since, key=lambda p: p.night))
    kept = points[begin:end]
    nights = [point.night for point in kept]
    places = [rule.place(point.value) for point in kept]
    for since, move in memory.shifts:
        for i in range(bisect_left(nights, since)):
            places[i] += move
    return _Past(nights, places)


def _shifted(
    memory: Memory, points: Sequence[NightPoint], tonight: str, shift: float, rule: Rule, limits: Limits
) -> Memory:
    """Take a common move of the device over, and forget those that moved only nights of long ago."""
    window = points[-int(limits["history_slow_window"]) :]
    oldest = max(memory.since, window[0].night if window else "")
    shifts = tuple((night, move) for night, move in memory.shifts if night > oldest)
    if not shift:
        return replace(memory, shifts=shifts)

    def moved(centre: float) -> float:
        return rule.value(rule.place(centre) + shift)

    pending = memory.pending
    if pending is not None:
        pending = replace(pending, trigger=replace(pending.trigger, centre=moved(pending.trigger.centre)))
    return replace(
        memory,
        shifts=(*shifts, (tonight, shift)),
        pending=pending,
        watched=tuple(replace(one, centre=moved(one.centre)) for one in memory.watched),
    )


def _accept(memory: Memory, tonight: Tonight, rule: Rule) -> _Steps:
    said: list[Said] = []
    for one in memory.watched:
        if one.since in tonight.accepted:
            said.append(_of_watched(one, State.ACCEPTED, tonight, rule))
    memory = replace(memory, watched=tuple(one for one in memory.watched if one.since not in tonight.accepted))
    pending = memory.pending
    if pending is not None and pending.trigger.since in tonight.accepted:
        said.append(_of_pending(pending, State.ACCEPTED, tonight, rule))
        memory = replace(memory, pending=None, since=pending.trigger.since)
    return memory, tuple(said)


def _watch(memory: Memory, tonight: Tonight, rule: Rule, limits: Limits) -> _Steps:
    """Is what is open still there?"""
    place, said, kept = rule.place(tonight.point.value), [], []
    for one in memory.watched:
        here = (tonight.point.night, place - rule.place(one.centre))
        one = replace(one, back=(*one.back, here) if _is_back(one, place, rule) else ())
        if not _is_home(one, rule, limits):
            kept.append(one)
            said.append(_of_watched(one, one.state, tonight, rule))
            continue
        since = one.back[0][0]
        said.append(_of_watched(one, State.FIXED, tonight, rule, f"back since {since}"))
        # Nights from before are of another level, or too long ago to say how the series runs now.
        memory = replace(memory, since=max(memory.since, since), pending=None, quiet="")
    return replace(memory, watched=tuple(kept)), tuple(said)


def _settle(memory: Memory, points: Sequence[NightPoint], tonight: Tonight, rule: Rule, limits: Limits) -> _Steps:
    """Go on with the change that is being settled, or begin with tonight's trigger."""
    found, first = memory.pending, memory.pending is None
    if found is None:
        trigger = None if tonight.look.recheck else tonight.look.trigger
        if trigger is None or tonight.left not in ("", BUDGET):
            return memory, ()
        found = Pending(trigger)
    if tonight.confirmation is None:
        return _unmeasured(memory, found, tonight, rule, first)
    if tonight.confirmation.how == AGAIN:
        return _without_base(memory, found, tonight, rule, first)
    said = answer(found.trigger, tonight.confirmation, rule)
    if said is not Answer.AGREED:
        return _not_agreed(memory, found, tonight, said, rule, limits, first)
    found = replace(found, agreed=found.agreed + 1)
    size = abs(measured_move(found.trigger, tonight.confirmation, rule))
    if size >= _at_once(rule, limits) or found.agreed >= _NEEDED:
        located = _located(memory, points, found.trigger, tonight, rule, limits)
        return _opened(memory, found, State.CONFIRMED, tonight, rule, first, located)
    return _kept(memory, found, tonight, rule, first, "found once; a second night's measurement decides")


def _not_agreed(
    memory: Memory, found: Pending, tonight: Tonight, said: Answer, rule: Rule, limits: Limits, first: bool
) -> _Steps:
    """Both sides were measured, and the change was not found."""
    if said is Answer.OPEN:
        found = replace(found, tries=found.tries + 1)
        if found.tries < limits["history_tries"]:
            return _kept(memory, found, tonight, rule, first, "measured, and still open")
        return _dismissed(memory, found, tonight, rule, limits, f"still open after {found.tries} nights")
    if said is Answer.CLOCK:
        return _dismissed(memory, found, tonight, rule, limits, "clock effect", clock=True)
    return _dismissed(memory, found, tonight, rule, limits, "measured again: no such change")


def _unmeasured(memory: Memory, found: Pending, tonight: Tonight, rule: Rule, first: bool) -> _Steps:
    """Nothing was measured. A change that no measurement has seen yet goes when its night's value does."""
    if not first and not found.agreed and not _is_there(found.trigger, tonight, rule):
        gone = _of_pending(found, State.DISMISSED, tonight, rule, "back before it could be measured")
        return replace(memory, pending=None), (gone,)
    why = "not measured again: the night's budget was spent" if tonight.left == BUDGET else "not measured again yet"
    return _kept(memory, found, tonight, rule, first, why)


def _without_base(memory: Memory, found: Pending, tonight: Tonight, rule: Rule, first: bool) -> _Steps:
    """Only what runs now could be measured."""
    measured = tonight.confirmation
    vanished = measured is not None and measured.verdict == Verdict.SAME
    if vanished or not _is_there(found.trigger, tonight, rule):
        gone = _of_pending(found, State.DISMISSED, tonight, rule, "measured again: back at its old level")
        return replace(memory, pending=None), (gone,)
    found = replace(found, again=found.again + 1)
    if found.again >= _NEEDED:
        return _opened(memory, found, State.UNCONFIRMED, tonight, rule, first)
    return _kept(memory, found, tonight, rule, first, "what ran before cannot run; a second night decides")


def _kept(memory: Memory, found: Pending, tonight: Tonight, rule: Rule, first: bool, why: str) -> _Steps:
    said = _of_pending(found, State.NEW, tonight, rule, why)
    return replace(memory, pending=found), (replace(said, first=first),)


def _dismissed(
    memory: Memory, found: Pending, tonight: Tonight, rule: Rule, limits: Limits, why: str, clock: bool = False
) -> _Steps:
    said = _of_pending(found, State.DISMISSED, tonight, rule, why)
    quiet = _later(tonight.point.night, int(limits["history_quiet"]))
    return replace(memory, pending=None, quiet=quiet), (replace(said, clock=clock),)


def _opened(
    memory: Memory, found: Pending, state: State, tonight: Tonight, rule: Rule, first: bool, located: str = ""
) -> _Steps:
    """The new level is the series' history from now on; of a regression the old one is kept to compare with."""
    said = replace(_of_pending(found, state, tonight, rule), first=first, located=located)
    since = found.trigger.since
    memory = replace(memory, pending=None, since=max(memory.since, located or since), quiet="")
    if not said.worse:
        return memory, (said,)
    watched = Watched(since, state, found.trigger.centre, found.trigger.spread, said.change)
    return replace(memory, watched=(*memory.watched, watched)), (said,)


def _located(
    memory: Memory, points: Sequence[NightPoint], found: Trigger, tonight: Tonight, rule: Rule, limits: Limits
) -> str:
    """The night from which on the new level fits best: least sum of absolute distances to the two levels."""
    past = _past(memory, points, tonight.point.night, rule, limits)
    nights, places = [*past.nights, tonight.point.night], [*past.places, rule.place(tonight.point.value)]
    old = rule.place(found.centre)
    move = rule.move(found.change) if tonight.confirmation is None else measured_move(found, tonight.confirmation, rule)
    at = last = len(nights) - 1
    cost = best = abs(places[last] - old - move) - abs(places[last] - old)
    for i in range(last - 1, max(last - int(limits["history_points"]), 0), -1):
        cost += abs(places[i] - old - move) - abs(places[i] - old)
        if cost < best:
            best, at = cost, i
    return nights[at]


def _at_once(rule: Rule, limits: Limits) -> float:
    """As many times what matters as `history_at_once` is of a time."""
    return rule.move(max(limits["history_at_once"], rule.delta * limits["history_at_once"] / limits["history_time"]))


def _is_back(one: Watched, place: float, rule: Rule) -> bool:
    """Whether a place is nearer to the old level than to the event's, or beyond the old one."""
    move = rule.move(one.change)
    moved = place - rule.place(one.centre)
    return moved < move / 2 if move > 0 else moved > move / 2


def _is_home(one: Watched, rule: Rule, limits: Limits) -> bool:
    """Whether it is back for long enough: small changes of noisy series need more nights to be sure of that.

    The median of the nights back must be as many standard errors from the event's level as a trigger is from its
    history.
    """
    count = len(one.back)
    if count < limits["history_back"]:
        return False
    left = abs(rule.move(one.change) - statistics.median(move for _, move in one.back))
    return left > limits["history_z"] * max(one.spread, rule.floor) * math.sqrt(MEDIAN_VARIANCE / count)


def _is_there(found: Trigger, tonight: Tonight, rule: Rule) -> bool:
    one = Watched(found.since, State.NEW, found.centre, found.spread, found.change)
    return not _is_back(one, rule.place(tonight.point.value), rule)


def _later(night: str, days: int) -> str:
    return (date.fromisoformat(night) + timedelta(days=days)).isoformat()


def _of_watched(one: Watched, state: State, tonight: Tonight, rule: Rule, *notes: str) -> Said:
    worse = rule.worse(one.change)
    return Said(tonight.look.key, one.since, tonight.point.night, state, one.change, worse, notes=notes)


def _of_pending(found: Pending, state: State, tonight: Tonight, rule: Rule, *notes: str) -> Said:
    measured, trigger = tonight.confirmation, found.trigger
    change = rule.change(measured_move(trigger, measured, rule)) if measured else trigger.change
    return Said(
        key=tonight.look.key,
        since=trigger.since,
        night=tonight.point.night,
        state=state,
        change=change,
        worse=rule.worse(trigger.change),
        trigger=tonight.look.trigger or trigger,
        confirmation=measured,
        notes=notes,
    )
