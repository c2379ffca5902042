# SPDX-License-Identifier: Apache-2.0
"""What is kept of a series from night to night, and what a night says of it: plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from farm.history.model import Confirmation, NightPoint, State, Trigger

#: Why a trigger is not settled tonight: its whole device moved, too many such triggers are noise, no device time left.
COMMON, NOISE, BUDGET = "common", "noise", "budget"


@dataclass(frozen=True)
class Pending:
    """A change that is not settled.

    Args:
        trigger: its first; `since` names the event.
        agreed: nights whose measurement found it.
        tries: nights whose measurement left it open.
        again: nights on which it was there and what ran before could not run.
    """

    trigger: Trigger
    agreed: int = 0
    tries: int = 0
    again: int = 0


@dataclass(frozen=True)
class Watched:
    """An open event whose old level is kept, to see whether the series comes back.

    `centre` and `spread` are of the old level, `change` is the event's. `back`: the latest nights in a row on which it
    was, with the distance to the old level on the metric's scale.
    """

    since: str
    state: State
    centre: float
    spread: float
    change: float
    back: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Memory:
    """All that is kept of a series; `remembered` gives JSON of it and `recall` reads it back.

    Args:
        since: its history begins on this night; empty: with its first.
        quiet: no slow change is looked for up to this night.
        pending: the change that is being settled.
        watched: open events.
        shifts: common moves of the device, (night, move): what came before each is moved by it.
        last: the last night that was folded in.
    """

    since: str = ""
    quiet: str = ""
    pending: Pending | None = None
    watched: tuple[Watched, ...] = ()
    shifts: tuple[tuple[str, float], ...] = ()
    last: str = ""


@dataclass(frozen=True)
class Look:
    """What the numbers alone say tonight.

    Args:
        judged: whether the history is long enough.
        z, move, p_value: of tonight against the level expected; of a slow trigger its own `p_value`.
        trigger: None within the history.
        recheck: a change of an earlier night waits for its next measurement; `trigger` is then its first, of tonight.
    """

    key: str
    night: str
    judged: bool = False
    z: float = 0.0
    move: float = 0.0
    p_value: float = 1.0
    trigger: Trigger | None = None
    recheck: bool = False


@dataclass(frozen=True)
class Tonight:
    """One night of one series, after measuring.

    Args:
        point: its value.
        look: `fold.look_at` of it.
        confirmation: the measurement made tonight to settle it.
        accepted: the `since` of events that a person accepted by now; those long closed may stay in it.
        shift: the common move of its device that it took part in (`Plan.shifts`).
        left: why it was not measured (`Plan.left`): `COMMON`, `NOISE`, `BUDGET`, or empty.
    """

    point: NightPoint
    look: Look
    confirmation: Confirmation | None = None
    accepted: tuple[str, ...] = ()
    shift: float = 0.0
    left: str = ""


@dataclass(frozen=True)
class Said:
    """What a night says of one event of the series.

    Args:
        since: names the event together with `key`, and stays the same: the night that its trigger thought it began.
        change: see `tracked`; as measured where it was.
        clock: an effect of the device's clock.
        first: it was not there before tonight.
        located: the night on which the change fits the nights best, on the night that it is confirmed; else empty.
    """

    key: str
    since: str
    night: str
    state: State
    change: float
    worse: bool
    trigger: Trigger | None = None
    confirmation: Confirmation | None = None
    clock: bool = False
    first: bool = False
    located: str = ""
    notes: tuple[str, ...] = ()


def remembered(memory: Memory) -> dict[str, Any]:
    """A memory as JSON values, without what is empty: most series have nothing to remember but their last night."""
    return {name: value for name, value in dataclasses.asdict(memory).items() if value}


def recall(data: Mapping[str, Any]) -> Memory:
    """The memory that `remembered` wrote.

    Raises:
        ValueError: it is none.
    """
    try:
        pending = data.get("pending")
        return Memory(
            since=str(data.get("since", "")),
            quiet=str(data.get("quiet", "")),
            pending=Pending(**{**pending, "trigger": Trigger(**pending["trigger"])}) if pending else None,
            watched=tuple(
                Watched(**{**one, "state": State(one["state"]), "back": _pairs(one.get("back", ()))})
                for one in data.get("watched", ())
            ),
            shifts=_pairs(data.get("shifts", ())),
            last=str(data.get("last", "")),
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"not the memory of a series: {error}") from error


def _pairs(data: Iterable[Any]) -> tuple[tuple[str, float], ...]:
    return tuple((str(night), float(move)) for night, move in data)
