# SPDX-License-Identifier: Apache-2.0
"""What nights are made of and what is said of them: plain values, no behaviour but their own arithmetic.

A night is named by the UTC date on which it began, `2026-11-21`. A series is one metric of what `identity.series_id`
names. Values are in the metric's unit and greater than 0 where a ratio is made of them; a change is a share of the
value before, 0.05 for 5 % more, whichever way is worse.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class State(enum.StrEnum):
    """Of an event. NEW: seen tonight, not confirmed yet. CONFIRMED: by a measurement of its own, made to settle it.

    UNCONFIRMED: seen on enough nights, but what ran before cannot run again to be compared. ACCEPTED: a person took
    the new level for right. FIXED: the series is back where it was. DISMISSED: the measurement made to settle it found
    no change.
    """

    NEW = "new"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    ACCEPTED = "accepted"
    FIXED = "fixed"
    DISMISSED = "dismissed"

    @property
    def is_open(self) -> bool:
        """Whether it still asks for somebody's attention."""
        return self in (State.NEW, State.CONFIRMED, State.UNCONFIRMED)


@dataclass(frozen=True)
class NightPoint:
    """A series on one night: `value` is the median over the night's valid runs of it, `runs` are their ids."""

    night: str
    value: float
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """A metric of one point on one device, night by night, the oldest first. Nights without a valid run are not there.

    `series_id` is of `farm.identity`; `fields` are the identity fields by name, for people. `better` is `lower` or
    `higher`.
    """

    series_id: str
    metric: str
    device: str
    device_class: str
    better: str = "lower"
    fields: Mapping[str, str] = field(default_factory=dict)
    points: tuple[NightPoint, ...] = ()

    @property
    def key(self) -> str:
        """Unique among all series: `0123456789abcdef:latency_ms`."""
        return f"{self.series_id}:{self.metric}"


@dataclass(frozen=True)
class Trigger:
    """A night on which a series left its history. `path` is `step` (tonight) or `slow` (since `since`).

    `centre` is the history's median, `spread` the scale used (a share), `count` how many points it had, `z` how many
    spreads away tonight is, `change` by which share, `p_value` two-sided.
    """

    key: str
    night: str
    since: str
    path: str
    centre: float
    spread: float
    count: int
    z: float
    change: float
    p_value: float


@dataclass(frozen=True)
class Confirmation:
    """What a measurement made to settle a trigger found.

    `how` is `ab` (what ran before and what runs now, alternately) or `again` (only what runs now could be measured).
    `ratio` is new over base with `low` and `high` at `confidence`; `verdict` is one of `farm.compare.Verdict`.
    `clock_effect`: time moved and cycles did not. `base` says what stood for before. `sweeps` are what was measured.
    """

    key: str
    night: str
    how: str
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    clock_effect: bool = False
    base: str = ""
    reason: str = ""
    sweeps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What a person decided on an event: `accept`, with a reason. `decided_at` is UTC, ISO 8601."""

    event_id: str
    action: str
    reason: str
    decided_at: str
    by: str = ""


@dataclass(frozen=True)
class Event:
    """A change that people hear of: of one series, of a whole device (`kind` `device`), or of the farm's coverage.

    `event_id` stays the same from night to night. `keys` are the series concerned; `since` is the first night of the
    new level, `night` the one on which it was last judged. `change` is the share by which it moved, of several the
    median; `worse` says whether that is bad. `cause` are differences of software and hardware between both sides, in
    words; events with the same cause on a device are one group, `group`.
    """

    event_id: str
    kind: str
    metric: str
    device: str
    keys: tuple[str, ...]
    since: str
    night: str
    state: State
    change: float
    worse: bool
    triggers: tuple[Trigger, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    cause: tuple[str, ...] = ()
    group: str = ""
    decision: Decision | None = None
    notes: tuple[str, ...] = ()
