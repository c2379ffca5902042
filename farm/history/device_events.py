# SPDX-License-Identifier: Apache-2.0
"""A device that changed as a whole: one event, of its canary or of many series that moved together. Pure.

A canary that shifted has been measured twice and settles it by itself. A common move without one is settled by an A/B
of a witness: does what ran before run as it did then, on the device of tonight? Where it does not, the device changed;
where it does, the software did. Without either the event stays NEW, and is UNCONFIRMED from the second night on. It is
FIXED by a common move back, or by a canary that is steady again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from farm.contract.canonical import short_digest
from farm.history.confirm import AB, Answer, answer
from farm.history.document import CanaryShift
from farm.history.model import Confirmation, Event, State, Trigger
from farm.history.night import DeviceMove
from farm.history.tracked import Rule, rule_for

KIND = "device"
CANARY = "canary"

#: A move back need not be exact: half of it is nearer to the old level than to the new.
_BACK = 0.5


def events(
    night: str,
    moves: Sequence[DeviceMove],
    shifted: Iterable[str],
    canaries: Mapping[str, CanaryShift],
    past: Iterable[Event],
    measured: Mapping[str, Confirmation],
    triggers: Mapping[str, Trigger],
    rules: Mapping[str, Rule],
) -> list[Event]:
    """The device events of a night: those that go on, and new ones.

    Args:
        shifted: devices whose canary shifted tonight.
        measured: tonight's confirmations by series key.
        triggers: tonight's triggers, and `rules` the rule of each series, by key.
    """
    went_on = [_gone_on(event, night, moves, canaries) for event in past if event.kind == KIND]
    settled = {event.device for event in went_on if event.state is State.FIXED and event.night == night}
    made = []
    for device in sorted({move.device for move in moves} | set(shifted)):
        if device in settled:
            continue
        own = [move for move in moves if move.device == device]
        canary = canaries.get(device) if device in shifted else None
        made.append(_new(night, device, own, canary, measured, triggers, rules))
    return went_on + made


def _new(
    night: str,
    device: str,
    moves: Sequence[DeviceMove],
    canary: CanaryShift | None,
    measured: Mapping[str, Confirmation],
    triggers: Mapping[str, Trigger],
    rules: Mapping[str, Rule],
) -> Event:
    main = min(moves, key=lambda move: (move.metric != "latency_ms", move.metric), default=None)
    witnesses = [key for move in moves for key in move.witnesses if key in measured]
    notes = [_told(move) for move in moves]
    state = State.NEW
    if canary is not None:
        state = State.CONFIRMED
        notes.append(f"its canary: {canary.evidence or canary.verdict}")
    for key in witnesses:
        state, said = _settled(measured[key], triggers[key], rules[key])
        notes.append(said)
        if state is State.CONFIRMED:
            break
    change = main.change if main else (canary.change if canary and canary.change is not None else 0.0)
    better = rule_for(main.metric).better if main else "lower"
    return Event(
        event_id=short_digest([KIND, device, night], 10),
        kind=KIND,
        metric=main.metric if main else CANARY,
        device=device,
        keys=tuple(dict.fromkeys(key for move in moves for key in move.keys)),
        since=night,
        night=night,
        state=state,
        change=change,
        worse=(change > 0) == (better == "lower"),
        triggers=tuple(triggers[key] for key in witnesses),
        confirmations=tuple(measured[key] for key in witnesses),
        notes=tuple(notes),
    )


def _settled(measured: Confirmation, trigger: Trigger, rule: Rule) -> tuple[State, str]:
    if measured.how != AB:
        return State.NEW, "what ran before cannot run again to tell the device from the software"
    match answer(trigger, measured, rule):
        case Answer.AGREED:
            return State.CONFIRMED, "the software: what ran before runs as it did, on the same device"
        case Answer.NONE | Answer.CLOCK:
            return State.CONFIRMED, "the device: what ran before has changed as much, measured beside it"
        case Answer.OPEN:
            return State.NEW, "measured, and still open whether it is the device or the software"


def _gone_on(event: Event, night: str, moves: Sequence[DeviceMove], canaries: Mapping[str, CanaryShift]) -> Event:
    back = any(
        move.device == event.device
        and move.metric == event.metric
        and move.change * event.change < 0
        and abs(move.change) > _BACK * abs(event.change)
        for move in moves
    )
    canary = canaries.get(event.device)
    steady = event.metric == CANARY and canary is not None and not canary.shifted
    if back or steady:
        return replace(event, night=night, state=State.FIXED, notes=(*event.notes, f"back since {night}"))
    if event.state is State.NEW:
        return replace(event, night=night, state=State.UNCONFIRMED)
    return replace(event, night=night)


def _told(move: DeviceMove) -> str:
    return f"{move.metric}: {len(move.keys)} series moved together, {move.share:.0%} of {move.judged}"
