# SPDX-License-Identifier: Apache-2.0
"""Which faults come when: all of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.faults import FAULTS, Fault, Pick

#: Seconds between two faults, at most: less than a job takes, so that several fall into one.
LONGEST_GAP_S = 1.6


@dataclass(frozen=True)
class Planned:
    """One fault to come. `gap_s`: how long after the one before."""

    number: int
    gap_s: float
    fault: Fault
    pick: Pick


def schedule(seed: int, workers: int, faults: Sequence[Fault] = FAULTS) -> Iterator[Planned]:
    """Faults without end, the same for the same seed. Every kind comes once before any comes by its weight."""
    source = random.Random(seed)
    first = list(faults)
    source.shuffle(first)
    number = 0
    while True:
        weights = [fault.weight for fault in faults]
        fault = first[number] if number < len(first) else source.choices(faults, weights)[0]
        pick = Pick(source.randrange(workers), source.random(), source.random())
        yield Planned(number, source.uniform(0.0, LONGEST_GAP_S), fault, pick)
        number += 1


def told(planned: Planned) -> dict[str, object]:
    """One line of the schedule as it is written down."""
    pick = planned.pick
    return {
        "number": planned.number,
        "gap_s": round(planned.gap_s, 3),
        "fault": planned.fault.name,
        "worker": pick.victim + 1,
        "amount": round(pick.amount, 3),
        "which": round(pick.which, 3),
    }
