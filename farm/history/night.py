# SPDX-License-Identifier: Apache-2.0
"""A night's series together: common moves of a device first, then which triggers are settled tonight, in order. Pure.
(signatures; the body follows within the hour)"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from farm.history.fold import Look
from farm.thresholds import DEFAULTS, Limits


@dataclass(frozen=True)
class Candidate:
    """What one series said tonight, and what settling it would cost. `seconds`: of device time, both sides together."""

    device: str
    metric: str
    look: Look
    seconds: float = 0.0


@dataclass(frozen=True)
class DeviceMove:
    """Series of a device that moved together. `shift` is the common move on the metric's scale, `change` as people

    read it; `share` of the `judged` series moved; `canary`: the device's canary shifted tonight. `keys` are those that
    went along; `witnesses` (some of `keys`) are worth an A/B, which tells the machine from the software.
    """

    device: str
    metric: str
    night: str
    shift: float
    change: float
    share: float
    judged: int
    canary: bool
    keys: tuple[str, ...]
    witnesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """`ask`: the series to settle tonight, the most urgent first, within the budgets. `left`: key -> why not tonight.

    `moves` are device-level events; the series in their `keys` have no event of their own tonight.
    """

    moves: tuple[DeviceMove, ...] = ()
    ask: tuple[Candidate, ...] = ()
    left: Mapping[str, str] | None = None

    def shift_of(self, key: str) -> float:
        """The common move that a series took part in tonight, for `fold.Tonight.shift`; 0 without one."""
        return sum(move.shift for move in self.moves if key in move.keys)


def plan_night(
    candidates: Sequence[Candidate],
    budgets: Mapping[str, float] | None = None,
    canary_shifted: Collection[str] = (),
    limits: Limits = DEFAULTS,
) -> Plan:
    """Decide the night. `budgets`: device -> seconds for settling (absent: no cap). `canary_shifted`: device names."""
    raise NotImplementedError
