# SPDX-License-Identifier: Apache-2.0
"""One night: from the store to what is asked to be measured again, and from that to events.

    found = assess(store, "2026-11-21", canaries={...})      # series, triggers, moves of devices, what to settle
    confirmations = ...                                       # the farm's own work, for each of found.wanted
    night = conclude(store, found, confirmations)             # events with their states, causes and groups
    write(store, night)                                       # keeps the document's `run` and `sweeps`

The sweeps of a night must be in its document before it is assessed (`document`): without them their records count for
the UTC date on which each began, which is another one after midnight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from farm.canary import CanaryState
from farm.contract.codec import to_json
from farm.contract.record import Record
from farm.errors import FarmError
from farm.history import coverage, device_events, events
from farm.history.calendar import Calendar, check_night, read_calendar
from farm.history.decisions import Decisions, moment, read_decisions
from farm.history.document import Missed, Night, decode, encode
from farm.history.fold import step
from farm.history.judging import Assessment, Past, Terms, Wanted, judge_night, newly_shifted, recall_or_new, told_by
from farm.history.memory import Memory, Said, Tonight, remembered
from farm.history.model import Confirmation, Event, State
from farm.store import Store

__all__ = ["Assessment", "Past", "Terms", "Wanted", "assess", "conclude", "replay", "write"]

#: Kept of every series that was ever folded; alone it says nothing.
_TRIVIAL = {"last"}


def assess(
    store: Store,
    night: str,
    *,
    canaries: Mapping[str, CanaryState] | None = None,
    terms: Terms | None = None,
) -> Assessment:
    """Judge a night by those before it. Reads the store alone, and writes nothing but its index.

    Args:
        canaries: what each device's canary says at the night's end, from its records.
        terms: budgets and thresholds.

    Raises:
        UsageError: `night` is no date.
        UnavailableError: the store cannot be read.
    """
    check_night(night)
    store.index.refresh()
    calendar, decisions, rules = read_calendar(store), read_decisions(store), terms or Terms()
    past = _past(store, calendar, night, decisions, rules)
    found = judge_night(store, calendar, night, past, told_by(canaries or {}), rules)
    bad = [f"{record.path}: {record.problem}" for record in store.index.problems]
    return replace(found, problems=(*found.problems, *decisions.problems, *bad))


def conclude(
    store: Store,
    found: Assessment,
    confirmations: Sequence[Confirmation] = (),
    missed: Sequence[Missed] = (),
    *,
    at: str | None = None,
) -> Night:
    """What is said of the night once what could be settled is: events with states, causes and groups.

    Args:
        confirmations: what was measured for `found.wanted`, by key; those of other keys are kept and change nothing.
        at: when it is judged, UTC, ISO 8601; by default now. Decisions count from then on.
    """
    when = at or datetime.now(UTC).isoformat(timespec="microseconds")
    return _settle(found, confirmations, missed, read_decisions(store), when, _reader(store))


def write(store: Store, night: Night) -> None:
    """Write the night's document. `run` and `sweeps` of the document that is there stay.

    Raises:
        IntegrityError: the document that is there cannot be read.
        UnavailableError: the store cannot be written.
    """
    if store.nights.exists(night.night):
        before = decode(store.nights.read(night.night), night.night)
        night = replace(night, run=before.run, sweeps=before.sweeps or night.sweeps)
    store.nights.write(night.night, encode(night))


def replay(store: Store, until: str, terms: Terms | None = None) -> list[Night]:
    """Judge every night before `until` that was judged once more, in order, from records, confirmations and decisions.

    What was measured then is taken from the nights' documents, and so is what the canaries said. Nothing is written.
    """
    store.index.refresh()
    calendar, decisions = read_calendar(store), read_decisions(store)
    return _replayed(store, calendar, decisions, terms or Terms(), "", until, Past())


def _past(store: Store, calendar: Calendar, night: str, decisions: Decisions, terms: Terms) -> Past:
    """What the last judged night left; judged again where that cannot be used, or a decision was taken back since."""
    before = calendar.before(night)
    if before is None:
        return Past()
    if before.memory is None:
        nights = _replayed(store, calendar, decisions, terms, "", night, Past())
        return past_of(nights[-1])
    undone = decisions.taken_back(before.assessed_at)
    if not undone:
        return past_of(before)
    first = min(moment(decision.decided_at) for decision in undone)
    kept = [each for each in calendar.nights.values() if each.assessed_at and moment(each.assessed_at) < first]
    known = [each for each in kept if each.night < night and each.memory is not None]
    start = known[-1] if known else None
    begin = past_of(start) if start else Past()
    nights = _replayed(store, calendar, decisions, terms, start.night if start else "", night, begin)
    return past_of(nights[-1]) if nights else begin


def past_of(night: Night) -> Past:
    """What a night leaves to the next one."""
    return Past(night.memory or {}, tuple(event for event in night.events if event.state.is_open), night.canaries)


def _replayed(
    store: Store, calendar: Calendar, decisions: Decisions, terms: Terms, after: str, until: str, past: Past
) -> list[Night]:
    made = []
    for name, night in calendar.nights.items():
        if not after < name < until or not night.assessed_at:
            continue
        found = judge_night(store, calendar, name, past, night.canaries, terms)
        again = _settle(found, night.confirmations, night.missed, decisions, night.assessed_at, _reader(store))
        made.append(replace(again, run=night.run))
        past = past_of(again)
    return made


def _settle(
    found: Assessment,
    confirmations: Sequence[Confirmation],
    missed: Sequence[Missed],
    decisions: Decisions,
    at: str,
    read: Callable[[str], Record | None],
) -> Night:
    measured = {each.key: each for each in confirmations}
    memory, said = _fold(found, measured, decisions, at)
    past = found.past.events
    triggers = {key: look.trigger for key, look in found.looks.items() if look.trigger is not None}
    shifted = newly_shifted(found.canaries, found.past.canaries)
    devices = device_events.events(
        found.night, found.moves, shifted, found.canaries, past, measured, triggers, found.rules
    )
    made = [
        *devices,
        *coverage.events(found.coverage, past, found.night),
        *events.of_series(found.night, said, found.series, past, read),
    ]
    decided = [_decided(event, decisions, at) for event in made]
    known = {each.key for each in missed}
    left = [Missed(key, why) for key, why in found.plan.left.items() if why == "budget" and key not in known]
    return Night(
        night=found.night,
        sweeps=found.sweeps,
        assessed_at=at,
        canaries=dict(found.canaries),
        triggers=found.triggers,
        confirmations=tuple(confirmations),
        missed=(*missed, *left),
        events=tuple(sorted(events.grouped(decided), key=_order)),
        memory=memory,
        left_out=dict(found.left_out),
        problems=found.problems,
    )


def _fold(
    found: Assessment, measured: Mapping[str, Confirmation], decisions: Decisions, at: str
) -> tuple[dict[str, object], list[Said]]:
    """What every series that is looked at closely remembers after tonight, and what is said of it."""
    memory, said = dict(found.past.memory), list[Said]()
    for key, carried in found.carried.items():
        memory[key] = to_json(remembered(carried))
    shifts, witnesses = found.plan.shifts(), {one.key for one in found.wanted if one.witness}
    for key, series in found.series.items():
        before = recall_or_new(memory.pop(key, None))
        tonight = Tonight(
            point=series.points[-1],
            look=found.looks[key],
            confirmation=None if key in witnesses else measured.get(key),
            accepted=_accepted(key, before, decisions, at),
            shift=shifts.get(key, 0.0),
            left=found.plan.left.get(key, ""),
        )
        new, told = step(before, series.points[:-1], tonight, found.rules[key], found.limits[series.device])
        kept = to_json(remembered(new))  # as it comes back from a document
        if kept.keys() - _TRIVIAL:
            memory[key] = kept
        said += told
    return memory, said


def _accepted(key: str, memory: Memory, decisions: Decisions, at: str) -> tuple[str, ...]:
    """The `since`, as the fold has it, of what the series remembers and a person accepted by now."""
    known = [one.since for one in memory.watched] + ([memory.pending.trigger.since] if memory.pending else [])
    return tuple(since for since in known if decisions.accepted(events.event_id(key, since), at))


def _decided(event: Event, decisions: Decisions, at: str) -> Event:
    """The event with the decision that holds for it; the fold knows of that of a series with a value tonight."""
    decision = decisions.accepted(event.event_id, at)
    if decision is None:
        return event
    waits = event.kind == events.KIND and event.worse
    state = State.ACCEPTED if event.state.is_open and not waits else event.state
    return replace(event, decision=decision, state=state)


def _order(event: Event) -> tuple[bool, bool, str, str, float, str]:
    """Open ones first, of them the worse ones; then by device and group, the largest change first."""
    return (not event.state.is_open, not event.worse, event.device, event.group, -abs(event.change), event.event_id)


def _reader(store: Store) -> Callable[[str], Record | None]:
    """Read records by run, each once; what cannot be read is None: `farm artifacts verify` names it."""
    held: dict[str, Record | None] = {}

    def read(run: str) -> Record | None:
        if run not in held:
            try:
                held[run] = store.records.read(run)
            except FarmError:
                held[run] = None
        return held[run]

    return read
