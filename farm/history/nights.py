# SPDX-License-Identifier: Apache-2.0
"""One night: from the store to what is asked to be measured again, and from that to events.

    found = assess(store, "2026-11-21", canaries={...})      # series, triggers, device events, what to settle
    confirmations = measure(found.wanted)                     # the farm's own work: scheduler
    night = conclude(store, found, confirmations)             # events with their states, causes and groups
    write(store, night)                                       # keeps the document's `run`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farm.canary import CanaryState
from farm.history.document import CanaryShift, Missed, Night
from farm.history.model import Confirmation, Event, Series, Trigger
from farm.store import Store


@dataclass(frozen=True)
class Wanted:
    """A trigger that only a measurement can settle, the most telling first in a list.

    `base` are ids of runs of the level before (the newest nights of the history, the newest last), `new` tonight's.
    `predicted_s` is how long one run of each side took, both added: multiply by the processes a side.
    """

    key: str
    trigger: Trigger
    predicted_s: float
    base: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class Assessment:
    """A night as its records tell it. `series` are those that have a point tonight or an open event."""

    night: str
    sweeps: tuple[str, ...]
    series: Mapping[str, Series]
    triggers: tuple[Trigger, ...]
    device_events: tuple[Event, ...]
    coverage_events: tuple[Event, ...]
    wanted: tuple[Wanted, ...]
    canaries: Mapping[str, CanaryShift] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def assess(store: Store, night: str, *, canaries: Mapping[str, CanaryState] | None = None) -> Assessment:
    """Judge a night by those before it. Reads the store alone, and writes nothing but its index.

    Raises:
        UsageError: `night` is no date.
        UnavailableError: the store cannot be read.
    """
    raise NotImplementedError


def conclude(
    store: Store, found: Assessment, confirmations: Sequence[Confirmation] = (), missed: Sequence[Missed] = ()
) -> Night:
    """What is said of the night once what could be settled is: events with states, groups and causes."""
    raise NotImplementedError


def write(store: Store, night: Night) -> None:
    """Write the night's document; `run` of the document that is there stays."""
    raise NotImplementedError
