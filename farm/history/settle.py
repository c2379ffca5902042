# SPDX-License-Identifier: Apache-2.0
"""From the records of a session to what it says of each of its triggers. Pure.

Both sides measured: the processes of one against those of the other. Only one: its processes against the nights before,
one value for each, which lets whatever the machine did since then count as the change.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from farm.compare.comparison import CLOCKED, processes_of
from farm.compare.model import Process, Rules, Side, Verdict
from farm.compare.verdict import clock_check, judge
from farm.contract.metrics import METRICS
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.history.confirm import AB, Answer, answer, confirmation, to_add
from farm.history.model import Confirmation
from farm.history.session import Member, Session
from farm.history.tracked import LOG, Rule, rule_for
from farm.thresholds import DEFAULTS, Limits

#: A session goes on after one turn that failed; what ended in one of these would end so again.
_FINAL = (Outcome.CANCELLED, Outcome.UNSUPPORTED)


def conclude(
    session: Session,
    member: Member,
    base: Sequence[Record],
    new: Sequence[Record],
    limits: Limits = DEFAULTS,
    accept: Sequence[str] = (),
) -> Confirmation:
    """What the turns of both sides say of one trigger; `verdict` is "" with a `reason` where they say nothing.

    `base` is empty where only what runs now was measured. `accept` are suspect flags that are taken as sound.
    """
    rule = rule_of(member, limits)
    old, young = _sides(session, member, base, new, rule, accept)
    for name, side in (("before", old), ("now", young)):
        if not side.sound:
            flags = f", without a flag ({', '.join(side.flags)})" if side.flags else ""
            return without(member, session, f"no process of {name} has a {member.metric}{flags}")
    return _told(_judged(member, old, young, rule), session)


def more(
    session: Session,
    base: Sequence[Record],
    new: Sequence[Record],
    limits: Limits = DEFAULTS,
    accept: Sequence[str] = (),
) -> int:
    """How many processes a side to add for the member that needs most; 0: every one has its answer, or can get none."""
    wanted = 0
    for member in session.members:
        rule = rule_of(member, limits)
        old, young = _sides(session, member, base, new, rule, accept)
        if not old.sound or not young.sound:
            continue  # what is flagged five times will be flagged ten times
        said = answer(member.trigger, _judged(member, old, young, rule), rule)
        have = min(len(side.sound) for side in ((old, young) if session.base is not None else (young,)))
        wanted = max(wanted, to_add(said, have, limits))
    return wanted


def without(member: Member, session: Session | None, reason: str) -> Confirmation:
    """No answer, and why."""
    how, told = (session.sides.how, session.sides.told) if session else (AB, "")
    return Confirmation(member.trigger.key, member.trigger.night, how, "", base=told, reason=reason)


def ends_session(failed: Sequence[Outcome]) -> bool:
    """Whether to give a session up: its turns that came to nothing ended so."""
    return any(outcome in _FINAL for outcome in failed) or len(failed) > 1


def rule_of(member: Member, limits: Limits) -> Rule:
    """How the metric of a trigger is judged."""
    return rule_for(member.metric, limits, member.now.metrics.get("accuracy_samples"))


def records_of_point(member: Member, records: Sequence[Record]) -> list[Record]:
    """The records of the point that a trigger is on."""
    return [r for r in records if r.point == member.now.point and r.batch_size == member.now.batch_size]


def _sides(
    session: Session, member: Member, base: Sequence[Record], new: Sequence[Record], rule: Rule, accept: Sequence[str]
) -> tuple[Side, Side]:
    young = _side(records_of_point(member, new), rule, accept)
    if session.base is not None:
        return _side(records_of_point(member, base), rule, accept), young
    nights = [_side(night, rule, accept) for night in member.nights]
    return Side(tuple(_night(side) for side in nights if side.sound)), young


def _side(records: Sequence[Record], rule: Rule, accept: Sequence[str]) -> Side:
    rules = Rules(metric=rule.metric, accept=tuple(accept))
    ok = [record for record in records if record.outcome is Outcome.OK]
    made = [p for r in ok for p in processes_of(r, METRICS[rule.metric], rules, zeros=rule.scale != LOG)]
    return Side(tuple(sorted(made, key=lambda process: (process.started_at, process.run_id, process.number))))


def _night(side: Side) -> Process:
    """A night as one process: its value is the median of that night's."""
    clocks = [process.clock_mhz for process in side.sound]
    known = [mhz for mhz in clocks if mhz]
    clock = statistics.median(known) if len(known) == len(clocks) else None
    return replace(side.sound[0], value=side.median, clock_mhz=clock, low=None, high=None, confidence=None)


def _judged(member: Member, old: Side, young: Side, rule: Rule) -> Confirmation:
    trigger = member.trigger
    made = confirmation(trigger, trigger.night, _values(old), _values(young), rule)
    why = _clock_effect(member, old, young, made, rule)
    return replace(made, verdict=Verdict.UNCLEAR, clock_effect=True, reason=why) if why else made


def _clock_effect(member: Member, old: Side, young: Side, made: Confirmation, rule: Rule) -> str:
    """Why a change of time is none of the software: the clock moved, and the cycles did not."""
    clocks = [process.clock_mhz or 0.0 for side in (old, young) for process in side.sound]
    if not rule.metric.startswith(CLOCKED) or rule.scale != LOG or not all(mhz > 0 for mhz in clocks):
        return ""
    rules = Rules(metric=rule.metric, threshold=rule.delta)
    judged = judge(_values(old), _values(young), rules)
    checked, cycles = clock_check(old, young, judged, rules)
    if judged.direction is not None and checked.direction is None and cycles is not None:
        return checked.why
    # A change may count here that is too close to the threshold for a verdict there.
    in_cycles = confirmation(member.trigger, made.night, _cycles(old), _cycles(young), rule)
    agreed = answer(member.trigger, made, rule) is Answer.AGREED
    if agreed and in_cycles.ratio is not None and answer(member.trigger, in_cycles, rule) is Answer.NONE:
        return f"a clock effect: {in_cycles.ratio - 1:+.1%} in cycles"
    return ""


def _told(made: Confirmation, session: Session) -> Confirmation:
    sides = session.sides
    if session.base is not None:
        return replace(made, how=sides.how, base=sides.told)
    weaker = "only what runs now was measured, so a change of the machine since then would look the same"
    reason = "; ".join(part for part in (made.reason, sides.why, weaker) if part)
    return replace(made, how=sides.how, base=sides.told, reason=reason)


def _values(side: Side) -> list[float]:
    return [process.value for process in side.sound]


def _cycles(side: Side) -> list[float]:
    return [process.value * (process.clock_mhz or 0.0) for process in side.sound]
