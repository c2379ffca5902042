# SPDX-License-Identifier: Apache-2.0
"""What `farm regressions` does: the events that nights found, a person's decisions on them, and one told in full.

Everything comes from the store; no broker is needed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from farm.errors import UsageError
from farm.history import coverage, events
from farm.history.calendar import Calendar, read_calendar
from farm.history.decisions import ACCEPT, REOPEN, read_decisions, write_decision
from farm.history.load import Loader, window
from farm.history.model import Decision, Event, NightPoint, Series, State
from farm.history.naming import names_of, subject
from farm.history.tracked import TRACKED
from farm.store import Store

#: Nights of an event's series that are shown.
SHOWN_NIGHTS = 40
_LISTED = "`farm regressions list --all` lists every event."
_LONGEST_REASON = 1000


@dataclass(frozen=True)
class Explained:
    """One event in full: `series` is the one that it is of, or the first of several; `base` and `new` are run ids.

    `name` is what it is about: a case, or a device.
    """

    event: Event
    series: Series | None
    name: str
    base: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def points(self) -> tuple[NightPoint, ...]:
        """The nights of its series, the oldest first."""
        return self.series.points if self.series else ()


class Regressions:
    """The events of a store. Each is known by its id, by the beginning of it, or by its group's id.

    Raises:
        UnavailableError: from any method: the store cannot be read.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def events(self, *, device: str | None = None, state: str | None = None, every: bool = False) -> list[Event]:
        """The open events, in the order in which they matter.

        Args:
            device: only those of this device.
            state: only those in this state, whether it is an open one or not.
            every: also those that are closed.

        Raises:
            UsageError: there is no such state.
        """
        wanted = None if state is None else _state(state)
        found = [
            event
            for event in self._known()
            if device in (None, event.device) and (event.state is wanted if wanted else every or event.state.is_open)
        ]
        return sorted(found, key=lambda event: (not event.state.is_open, not event.worse, event.device, event.group))

    def problems(self) -> tuple[str, ...]:
        """Nights and decisions that cannot be read, in words."""
        return (*read_calendar(self._store).problems, *read_decisions(self._store).problems)

    def names(self, of: Sequence[Event]) -> dict[str, str]:
        """What each event is about, by its id."""
        self._store.index.refresh()
        called = names_of(self._store, of)
        return {event.event_id: subject(event, called) for event in of}

    def find(self, *names: str) -> list[Event]:
        """The events that names stand for, each once.

        Raises:
            UsageError: a name stands for none, or the beginning of an id for several.
        """
        known = self._known()
        found = [event for name in names for event in _named(name, known)]
        return list({event.event_id: event for event in found}.values())

    def accept(self, *names: str, reason: str, by: str = "") -> list[Event]:
        """Take what is now for right: the next night judges by it. Return the events.

        Raises:
            UsageError: no such event, one that is closed, or no reason.
        """
        chosen = self.find(*names)
        closed = [event for event in chosen if not event.state.is_open]
        if closed:
            raise UsageError(
                f"event {closed[0].event_id} is {closed[0].state}: there is nothing to accept",
                hint="`farm regressions reopen` takes an acceptance back.",
            )
        return self._decide(chosen, ACCEPT, reason, by)

    def reopen(self, *names: str, reason: str, by: str = "") -> list[Event]:
        """Take acceptances back: the next night judges as if they had never been. Return the events.

        Raises:
            UsageError: no such event, one that is not accepted, or no reason.
        """
        chosen = self.find(*names)
        decisions = read_decisions(self._store)
        for event in chosen:
            if decisions.accepted(event.event_id) is None:
                raise UsageError(f"event {event.event_id} is {event.state}, not accepted", hint=_LISTED)
        return self._decide(chosen, REOPEN, reason, by)

    def explain(self, name: str) -> Explained:
        """One event with its series and the runs on both sides.

        Raises:
            UsageError: no such event, or several.
        """
        chosen = self.find(name)
        if len(chosen) > 1:
            listed = ", ".join(event.event_id for event in chosen)
            raise UsageError(f"{name!r} stands for {len(chosen)} events: {listed}", hint="Name one of them.")
        (event,) = chosen
        self._store.index.refresh()
        name = subject(event, names_of(self._store, [event]))
        series = self._series(event)
        if series is None:
            runs = coverage.runs_of(event)
            return Explained(event, None, name, tuple(runs[:1]), tuple(runs[1:]))
        base, new = events.sides(series, event.since)
        return Explained(event, series, name, tuple(base), tuple(new))

    def _known(self) -> list[Event]:
        """Every event as the newest night tells it, and as it is decided now."""
        decisions = read_decisions(self._store)
        found = _latest(read_calendar(self._store))
        decided = []
        for event in found:
            decision = decisions.accepted(event.event_id)
            if decision is not None and event.state.is_open:
                event = replace(event, state=State.ACCEPTED, decision=decision)
            elif decision is None and event.state is State.ACCEPTED and event.decision is not None:
                event = replace(event, state=State.NEW, decision=None, notes=("reopened: the next night judges it",))
            decided.append(event)
        return decided

    def _decide(self, chosen: Sequence[Event], action: str, reason: str, by: str) -> list[Event]:
        if not reason.strip() or len(reason) > _LONGEST_REASON:
            raise UsageError(
                f"a reason of 1 to {_LONGEST_REASON} characters is needed: others will want to know",
                hint='--reason "the new kernel is slower, and needed"',
            )
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        for event in chosen:
            write_decision(self._store, Decision(event.event_id, action, reason.strip(), at, by))
        return list(chosen)

    def _series(self, event: Event) -> Series | None:
        """The series of an event with its last nights; None where it is of no metric that is tracked."""
        if event.metric not in TRACKED or not event.keys:
            return None
        calendar = read_calendar(self._store)
        loader = Loader(self._store, calendar, window(self._store, calendar, None, SHOWN_NIGHTS))
        found = loader.series([event.metric], {key.partition(":")[0] for key in event.keys}, runs=True)
        return min(found, key=lambda series: event.keys.index(series.key), default=None)


def _latest(calendar: Calendar) -> list[Event]:
    """Each event as the last night that has it tells it. One that a later night no longer has asks for nothing."""
    judged = [night for night in calendar.nights.values() if night.assessed_at]
    found: dict[str, Event] = {}
    for night in judged:
        for event in night.events:
            found[event.event_id] = event
    here = {event.event_id for event in judged[-1].events} if judged else set()
    return [event if event.event_id in here else _closed(event) for event in found.values()]


def _closed(event: Event) -> Event:
    """An improvement is open for some nights, and then simply how it is."""
    if not event.state.is_open:
        return event
    return replace(event, state=State.ACCEPTED, notes=(*event.notes, "how it is by now"))


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise UsageError(f"there is no state {name!r}", hint=f"States: {', '.join(State)}.") from None


def _named(name: str, known: Iterable[Event]) -> list[Event]:
    known = list(known)
    exact = [event for event in known if name in (event.event_id, event.group)]
    if exact:
        return [event for event in exact if event.state.is_open or event.event_id == name] or exact
    begun = [event for event in known if name and event.event_id.startswith(name)]
    if len(begun) == 1:
        return begun
    if begun:
        listed = ", ".join(event.event_id for event in begun[:5])
        raise UsageError(f"{name!r} begins several events: {listed}", hint="Give more of the id.")
    near = difflib.get_close_matches(name, [event.event_id for event in known], n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? {_LISTED}" if near else _LISTED
    raise UsageError(f"there is no event {name!r}", hint=hint)
