# SPDX-License-Identifier: Apache-2.0
"""Whether a point needs another process, from its protocol and what the processes so far measured. Pure.

The smallest number is always made: the budget in seconds and the target only decide on those beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from farm.contract.job import Protocol
from farm.processes import relative_half_width

#: Where a protocol has a target and no largest number: more than ten hardly narrow the interval of a noisy device.
MOST = 10


class Ended(StrEnum):
    """Why a point has no further process, as records keep it in `effective.processes_ended_by`."""

    COUNT = "processes"
    HALF_WIDTH = "processes_half_width"
    MOST = "max_processes"
    BUDGET = "processes_max_s"
    NOT_OK = "not_ok"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Replication:
    """How many processes a point is measured in: `least`, and with a target up to `most`."""

    least: int = 1
    most: int = 1
    half_width: float | None = None
    max_s: float | None = None

    @property
    def several(self) -> bool:
        """Whether a point is told as one of several processes, however many it comes to."""
        return self.most > 1

    def label(self, index: int) -> str:
        """`process 3 of 5`; where the number is open `process 3 of 5 to 10`."""
        return f"process {index} of {self.least}" + (f" to {self.most}" if self.most > self.least else "")


def replication(protocol: Protocol) -> Replication:
    """What a protocol asks for."""
    least, target = protocol.processes, protocol.processes_half_width
    if target is None:
        return Replication(least, least)
    most = protocol.max_processes if protocol.max_processes is not None else MOST
    return Replication(least, max(least, most), target, protocol.processes_max_s)


def ended(wanted: Replication, medians_ms: Sequence[float | None], spent_s: float) -> Ended | None:
    """Why no further process is needed, or None: make another.

    Args:
        wanted: what the protocol asks for.
        medians_ms: of the processes so far, all of them ok; None where a process has none.
        spent_s: wall clock since the first of them began.
    """
    done = len(medians_ms)
    if done < wanted.least:
        return None
    if wanted.half_width is None:
        return Ended.COUNT
    known = [median for median in medians_ms if median is not None]
    if len(known) == done and relative_half_width(known) <= wanted.half_width:
        return Ended.HALF_WIDTH
    if done >= wanted.most:
        return Ended.MOST
    if wanted.max_s is not None and spent_s >= wanted.max_s:
        return Ended.BUDGET
    return None
