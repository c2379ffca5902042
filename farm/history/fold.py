# SPDX-License-Identifier: Apache-2.0
"""One series from night to night: what is remembered of it, and what is said. Pure.
(signatures; the body follows within the hour)

A night of a series:  look = look_at(memory, points, tonight, ...)   what the numbers say, nothing measured yet
                      plan = night.plan_night(all looks)             common moves, queue; then somebody measures
                      memory, said = step(memory, points, Tonight(...))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from farm.history.model import Confirmation, NightPoint, State, Trigger
from farm.history.tracked import Rule
from farm.thresholds import DEFAULTS, Limits


@dataclass(frozen=True)
class Pending:
    """A change that is not settled: its first trigger, measurements that agreed, stayed open, or had no other side."""

    trigger: Trigger
    agreed: int = 0
    tries: int = 0
    again: int = 0


@dataclass(frozen=True)
class Watched:
    """An open event whose old level is kept, to see whether the series comes back."""

    since: str
    state: State
    centre: float
    spread: float
    change: float
    back: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """All that is kept of a series. `dataclasses.asdict` gives JSON, `recall` reads it back.

    `since`: its history begins here. `quiet`: no slow path up to that night. `shifts`: common moves of the device, by
    night, that what came before is corrected by. `last`: the last night that was folded.
    """

    since: str = ""
    quiet: str = ""
    pending: Pending | None = None
    watched: tuple[Watched, ...] = ()
    shifts: tuple[tuple[str, float], ...] = ()
    last: str = ""


@dataclass(frozen=True)
class Look:
    """What the numbers alone say tonight. `z`, `move` and `p_value` are of tonight against the history.

    `judged` False: too short a history. `trigger` None: within its history. `recheck`: a change of before tonight that
    waits for its (next) measurement; `trigger` is then its first one, or tonight's view of it.
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
    """One night of one series, after measuring. `accepted`: the `since` of events that a person accepted by now.

    `shift`: `Plan.shift_of` its key. `left`: why it was not measured again (Plan.left), empty if it was.
    """

    point: NightPoint
    look: Look
    confirmation: Confirmation | None = None
    accepted: tuple[str, ...] = ()
    shift: float = 0.0


@dataclass(frozen=True)
class Said:
    """What a night says of one event of the series: (key, since) name the event and stay the same.

    `change`: see `tracked`. `clock`: a clock effect, of the device. `first`: the event was not there before tonight.
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
    notes: tuple[str, ...] = field(default=())


def recall(data: object) -> Memory:
    """A memory from the JSON of `dataclasses.asdict`. Raises ValueError where it is none."""
    raise NotImplementedError


def look_at(
    memory: Memory,
    key: str,
    points: Sequence[NightPoint],
    tonight: NightPoint,
    rule: Rule,
    pool: float,
    limits: Limits = DEFAULTS,
) -> Look:
    """What tonight's value says. `points`: all of the series before tonight, oldest first (at least the last 60)."""
    raise NotImplementedError


def step(
    memory: Memory, points: Sequence[NightPoint], tonight: Tonight, rule: Rule, limits: Limits = DEFAULTS
) -> tuple[Memory, tuple[Said, ...]]:
    """Fold one night in. Only what changed or is open is said; the same input gives the same answer."""
    raise NotImplementedError
