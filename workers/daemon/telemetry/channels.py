# SPDX-License-Identifier: Apache-2.0
"""A channel: one function of a host or device that tells something, and how often it is asked.

Each is asked once at the start. What does not answer then is not asked again, and its values are absent: never 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: How often a channel is asked: at each of so many ticks, or one of the two below.
EACH, HALF_SECOND, SECOND = 1, 5, 10
#: When the timed stage starts and ends, and at the trace's first and last sample: what costs milliseconds.
BORDERS = 0
#: At the trace's first and last sample alone: how the device is set.
ENDS = -1

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Channel:
    """`read` gives values by their names in the trace, None where there are none."""

    name: str
    every: int
    read: Callable[[], Values | None]


@dataclass(frozen=True)
class Probed:
    """The channels that answer, what one call of each cost at the start (us), and those that do not answer."""

    channels: Sequence[Channel]
    cost_us: Mapping[str, float]
    silent: Sequence[str]


def probe(channels: Iterable[Channel]) -> Probed:
    """Ask each channel once."""
    kept, cost_us, silent = [], {}, []
    for channel in channels:
        start = time.perf_counter_ns()
        answer = known(channel.read())
        if answer:
            kept.append(channel)
            cost_us[channel.name] = round((time.perf_counter_ns() - start) / 1e3, 1)
        else:
            silent.append(channel.name)
    return Probed(kept, cost_us, silent)


def read(channels: Iterable[Channel], tick: int, *, border: bool = False, end: bool = False) -> dict[str, Any]:
    """The values of the channels that are due at this tick."""
    found: dict[str, Any] = {}
    for channel in channels:
        if end or (border and channel.every == BORDERS) or (channel.every > 0 and tick % channel.every == 0):
            found |= known(channel.read())
    return found


def known(values: Values | None) -> dict[str, Any]:
    """Without the values that are None."""
    return {name: value for name, value in (values or {}).items() if value is not None}
