# SPDX-License-Identifier: Apache-2.0
"""What is due now: a night to go on with, one to begin, those that were missed. Pure.

A night is named by the UTC date on which its time falls, and there is one of each name: whatever asks, and however
often, none is begun twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from farm.nightly_settings import NightlySweep
from farm.times import Times

#: A farm without any night so far missed none: its first is begun at its time or a little later.
FIRST = timedelta(minutes=15)
#: From here on a night says that it was caught up.
LATE = timedelta(minutes=10)


@dataclass(frozen=True)
class Known:
    """A night that has a document. `slot` is the time that it is for, `schedule` is `Times.text` of then."""

    name: str
    slot: datetime
    done: bool
    schedule: str


@dataclass(frozen=True)
class Due:
    """`resume` comes first; `begin` is the time of the night to begin. `missed` are names of nights that never were."""

    resume: str | None = None
    begin: datetime | None = None
    late: bool = False
    missed: tuple[str, ...] = ()
    next_at: datetime | None = None


def night_name(moment: datetime) -> str:
    """`2026-11-21`: the UTC date."""
    return moment.astimezone(UTC).date().isoformat()


def decide(times: Times, now: datetime, nights: Sequence[Known], catch_up: timedelta) -> Due:
    """Say what is due at `now`.

    Args:
        times: when nights begin.
        now: with a time zone.
        nights: all that have documents, in any order.
        catch_up: how late a night may begin; then it is missed.
    """
    names = {night.name for night in nights}
    resume = min((night.name for night in nights if not night.done), default=None)
    last = max(nights, key=lambda night: night.slot, default=None)
    next_at = times.following(now)
    latest = times.latest(now)
    window = catch_up if last else min(catch_up, FIRST)
    begin = latest if latest is not None and now - latest <= window and night_name(latest) not in names else None
    # The farm's own clock may have been set back: what lies before the last night was had, or was missed then.
    if last is not None and begin is not None and begin <= last.slot:
        begin = None
    return Due(
        resume=resume,
        begin=begin,
        late=begin is not None and now - begin > LATE,
        missed=_missed(times, now, last, names | ({night_name(begin)} if begin else set())),
        next_at=next_at,
    )


def _missed(times: Times, now: datetime, last: Known | None, names: set[str]) -> tuple[str, ...]:
    """Times since the last night that have none. By another schedule than the last night's nothing can be said."""
    if last is None or last.schedule != times.text:
        return ()
    latest = times.latest(now)
    found = {night_name(moment) for moment in times.between(last.slot, latest)} if latest else set()
    return tuple(sorted(found - names))


def tonight(sweeps: Sequence[NightlySweep], weekday: int, labels: Sequence[str] = ()) -> list[NightlySweep]:
    """The sweeps of a night. With `labels` those that have one of them, whatever the day (0 for Monday)."""
    if labels:
        return [sweep for sweep in sweeps if sweep.label in labels]
    return [sweep for sweep in sweeps if sweep.is_for(weekday)]


def again_of(night: str) -> int:
    """What makes this night's repeat of a sweep a sweep of its own, and the same one however often it is submitted."""
    return int(night.replace("-", ""))
