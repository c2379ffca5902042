# SPDX-License-Identifier: Apache-2.0
"""Energy of the energy pass, or of the timed stage, from a counter's difference or an integrated power trace. Pure.

A mean of power readings over a short stage is no energy: sensors average over up to a second, or see a quarter of the
time (Yang, Adamek and Armour, SC'24). Below the least length the energy is withheld, with the reason.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from farm.contract.record import Flag
from farm.contract.run import StageTime
from farm.thresholds import Limits
from workers.daemon.telemetry.trace import Point

#: A reading this far from the stage's border says nothing about it; a gap this long is no trace.
_REACH_NS = 1_000_000_000
_LEAST_SAMPLES = 10


@dataclass(frozen=True)
class Energy:
    """Joules of the stage. `source` says what `joules` come from; `trace_joules` is the integrated power.

    Without `joules`, `withheld` says why.
    """

    joules: float | None = None
    trace_joules: float | None = None
    source: str | None = None
    withheld: str | None = None
    flag: Flag | None = None


def stage_energy(
    counter: Sequence[Point], power: Sequence[Point], stage: StageTime, names: tuple[str, str], limits: Limits
) -> Energy:
    """The energy of `stage`.

    Args:
        counter: readings of an energy counter, in joules, rising.
        power: readings of power, in watts.
        stage: what is asked about.
        names: what counter and power are called in a record.
        limits: `energy_min_s` and `energy_disagreement` of `farm.thresholds`.
    """
    seconds = (stage.end_ns - stage.start_ns) / 1e9
    if not counter and not power:
        return Energy(withheld="no energy counter and no power sensor can be read")
    if seconds < limits["energy_min_s"]:
        return Energy(withheld=f"the {_what(stage)} took {seconds:.3g} s, {limits['energy_min_s']:g} s is the least")
    counted, integrated = _counted(counter, power, stage), integrate(power, stage)
    if counted is None and integrated is None:
        return Energy(withheld=f"the readings of counter and power do not cover the {_what(stage)}")
    if counted is None:
        return Energy(integrated, integrated, f"integrated {names[1]}")
    return Energy(counted, integrated, names[0], flag=_disagreement(counted, integrated, names, stage, limits))


def integrate(power: Sequence[Point], stage: StageTime) -> float | None:
    """Joules under a power trace (trapezoids, its ends held); None where it has holes or too few readings."""
    inside = [(ns, watt) for ns, watt in power if stage.start_ns <= ns <= stage.end_ns]
    if len(inside) < _LEAST_SAMPLES:
        return None
    held = [(stage.start_ns, inside[0][1]), *inside, (stage.end_ns, inside[-1][1])]
    if any(after[0] - before[0] > _REACH_NS for before, after in itertools.pairwise(held)):
        return None
    return sum((b[0] - a[0]) / 1e9 * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(held))


def unwrap(readings: Sequence[tuple[int, Sequence[float]]], ranges: Sequence[float | None]) -> list[Point]:
    """Sum several counters (microjoules) that start again from zero at `ranges` into one that rises, in joules.

    Nothing comes of counters whose range is unknown once one of them has started again.
    """
    total, found = 0.0, [(readings[0][0], 0.0)] if readings else []
    for (_, before), (ns, after) in itertools.pairwise(readings):
        if len(before) != len(ranges) or len(after) != len(ranges):
            return []
        for low, high, limit in zip(before, after, ranges, strict=True):
            if high < low and limit is None:
                return []
            total += high - low if high >= low else high - low + (limit or 0.0)
        found.append((ns, total / 1e6))
    return found


def _counted(counter: Sequence[Point], power: Sequence[Point], stage: StageTime) -> float | None:
    start, end = _at(counter, power, stage.start_ns), _at(counter, power, stage.end_ns)
    if start is None or end is None or end <= start:
        return None
    return end - start


def _at(counter: Sequence[Point], power: Sequence[Point], ns: int) -> float | None:
    """The counter at a time between its readings.

    A costly counter is read once near each border of the stage, up to a tick late: what flowed between border and
    reading is the power of that moment times the distance.
    """
    before = max((p for p in counter if p[0] <= ns), default=None)
    after = min((p for p in counter if p[0] >= ns), default=None)
    if before and after and after[0] - before[0] <= _REACH_NS:
        share = (ns - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
        return before[1] + share * (after[1] - before[1])
    near = [p for p in (before, after) if p is not None and abs(p[0] - ns) <= _REACH_NS]
    if not near:
        return None
    reading = min(near, key=lambda p: abs(p[0] - ns))
    around = [w for at, w in power if min(ns, reading[0]) - _REACH_NS / 5 <= at <= max(ns, reading[0]) + _REACH_NS / 5]
    if not around:
        return None
    return reading[1] + statistics.fmean(around) * (ns - reading[0]) / 1e9


def _disagreement(
    counted: float, integrated: float | None, names: tuple[str, str], stage: StageTime, limits: Limits
) -> Flag | None:
    """About the energy alone, so `info`: the run's times are as good as any."""
    if integrated is None or abs(integrated / counted - 1) <= limits["energy_disagreement"]:
        return None
    told = f"{names[0]} {counted:.4g} J, integrated {names[1]} {integrated:.4g} J over the {_what(stage)}"
    return Flag("energy_doubtful", "info", told)


def _what(stage: StageTime) -> str:
    return "energy pass" if stage.name == "energy" else "timed stage"
