# SPDX-License-Identifier: Apache-2.0
"""From what a night says of its series to events that stay the same from night to night. Pure, but for the records that
causes are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date

from farm.contract.canonical import short_digest
from farm.contract.record import Record
from farm.history.causes import causes
from farm.history.memory import Said
from farm.history.model import Event, Series, State

KIND = "series"

#: An improvement asks nothing of anybody: after so many nights it is history.
IMPROVEMENT_NIGHTS = 7
_SIDE_RUNS = 3


def event_id(key: str, since: str) -> str:
    """The name of a series' event: ten hexadecimal digits.

    `since` is that of `Said`, which stays the same; an `Event` has the night on which the change was located.
    """
    return short_digest([KIND, key, since], 10)


def of_series(
    night: str,
    said: Iterable[Said],
    series: Mapping[str, Series],
    past: Iterable[Event],
    read: Callable[[str], Record | None],
) -> list[Event]:
    """The events of series: what tonight says of them, and those of before that it says nothing of.

    Args:
        series: those that had a value tonight and were looked at closely, with the runs of their points.
        read: a run's record; None where it cannot be read.
    """
    known = {event.event_id: event for event in past if event.kind == KIND}
    made = {}
    for one in said:
        name = event_id(one.key, one.since)
        made[name] = _event(name, one, series[one.key], known.get(name), read)
    rest = [_unsaid(event, night, series) for name, event in known.items() if name not in made]
    return [*made.values(), *filter(None, rest)]


def _event(name: str, said: Said, series: Series, before: Event | None, read: Callable[[str], Record | None]) -> Event:
    since = said.located or (before.since if before else said.since)
    trigger = (said.trigger,) if said.trigger else ()
    measured = (said.confirmation,) if said.confirmation else ()
    notes = (*said.notes, "an effect of the clock: time moved and cycles did not") if said.clock else said.notes
    if before is None:
        return Event(
            event_id=name,
            kind=KIND,
            metric=series.metric,
            device=series.device,
            keys=(series.key,),
            since=since,
            night=said.night,
            state=said.state,
            change=said.change,
            worse=said.worse,
            triggers=trigger,
            confirmations=measured,
            cause=_causes(series, since, read),
            notes=notes,
        )
    return replace(
        before,
        since=since,
        night=said.night,
        state=said.state,
        change=said.change,
        worse=said.worse,
        # The first one says what set it off; of the nights since, what was measured is what counts.
        triggers=before.triggers or trigger,
        confirmations=(*before.confirmations, *measured),
        cause=before.cause if since == before.since else _causes(series, since, read),
        notes=notes,
    )


def sides(series: Series, since: str) -> tuple[list[str], list[str]]:
    """Ids of runs on the last nights before an event and on its first ones, one a night, the newest last.

    `series` has the runs of its points.
    """
    old = [run for point in series.points if point.night < since for run in point.runs[-1:]]
    new = [run for point in series.points if point.night >= since for run in point.runs[-1:]]
    return old[-_SIDE_RUNS:], new[:_SIDE_RUNS]


def _causes(series: Series, since: str, read: Callable[[str], Record | None]) -> tuple[str, ...]:
    """What differs from the night before to the first night; if nothing does, over some nights on both sides, since a
    small change may be dated wrongly by a few."""
    old, new = ([record for run in side if (record := read(run))] for side in sides(series, since))
    return causes(old[-1:], new[:1]) or causes(old[:1], new[-1:])


def _unsaid(event: Event, night: str, series: Mapping[str, Series]) -> Event | None:
    """An event of which tonight says nothing: its series has no value, or it is an improvement, and not watched."""
    if event.keys[0] not in series:
        return event
    if event.state is State.CONFIRMED and not event.worse:
        # Told for so long from when it was certain: it may have begun some nights before.
        told = max([event.since, *(made.night for made in event.confirmations)])
        age = (date.fromisoformat(night) - date.fromisoformat(told)).days
        return event if age <= IMPROVEMENT_NIGHTS else None
    return replace(event, night=night, state=State.DISMISSED, notes=("gone with a later event of its series",))


def grouped(events: Sequence[Event]) -> list[Event]:
    """Events with their groups: the same cause on the same device; without one, the same first night."""
    return [replace(event, group=_group(event)) for event in events]


def _group(event: Event) -> str:
    why = list(event.cause) or ["since", event.since]
    return short_digest(["group", event.device, why], 8)
