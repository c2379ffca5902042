# SPDX-License-Identifier: Apache-2.0
"""In which order two sweeps are measured to be compared: alternately, so that a drift meets both. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from farm.contract.canonical import short_digest
from farm.contract.names import turn_name
from farm.errors import UsageError
from farm.sweep import SweepSpec

BASE, NEW = "base", "new"
_MAX_PROCESSES = 100
#: With the suffix, names stay within the 100 characters that a sweep's name may have.
_NAME_LENGTH = 80


@dataclass(frozen=True)
class Turn:
    """One sweep to be measured once: process `number` (from 1) of a side. `spec` has a name and an id of its own."""

    side: str
    number: int
    spec: SweepSpec


def alternation(processes: int, seed: int) -> list[str]:
    """Sides in order: blocks of base-new-new-base or new-base-base-new, chosen by the seed.

    In each block both sides have the same mean place, so that a steady drift cancels. The order of fewer processes is
    the beginning of that of more: what was measured can be added to.
    """
    chosen = random.Random(seed)  # noqa: S311 - an order that can be repeated, and no secret
    sides: list[str] = []
    while len(sides) < 2 * processes:
        first, second = (BASE, NEW) if chosen.random() < 0.5 else (NEW, BASE)
        sides += [first, second, second, first]
    return sides[: 2 * processes]


def turns(base: SweepSpec, new: SweepSpec, processes: int, *, seed: int = 0, session: int = 0) -> list[Turn]:
    """What to measure, in order. The same sweeps, seed and session give the same turns, so that they can be resumed.

    Raises:
        UsageError: a number of processes that is none.
    """
    if not 1 <= processes <= _MAX_PROCESSES:
        raise UsageError(f"{processes} processes a side cannot be measured", hint=f"Give 1 to {_MAX_PROCESSES}.")
    tag = short_digest([base.sweep_id, new.sweep_id, seed, session], 8)
    specs = {BASE: _named(base, tag, BASE), NEW: _named(new, tag, NEW)}
    done = {BASE: 0, NEW: 0}
    made = []
    for side in alternation(processes, seed):
        made.append(Turn(side, done[side] + 1, specs[side].repeated(done[side])))
        done[side] += 1
    return made


def _named(spec: SweepSpec, tag: str, side: str) -> SweepSpec:
    """The sweep under the comparison's name: repeats made for something else, and on another day, are none of it."""
    stem = spec.name[:_NAME_LENGTH].rstrip(".-_")
    return spec.model_copy(update={"name": turn_name(stem, tag, side)})
