# SPDX-License-Identifier: Apache-2.0
"""From the records of one way to a value and an interval on each axis. Pure.

An interval here is what a choice is judged by, so it must hold what another process would have given. Of several
processes it is that between them. Of one it is the process's own, widened on each side by the scatter assumed between
processes (`assumed_process_sd`, two standard deviations): one process says nothing of the next one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from farm import processes
from farm.accuracy import wilson
from farm.choice.model import Reading
from farm.contract.record import ProcessFacts, Record

_REACH = 1.96

#: A flagged value is believed to within this factor: a candidate that is ten times too slow is so, flag or not.
_DOUBT = 2.0

Facts = Record | ProcessFacts


def reading(records: Sequence[Record], metric: str, sd: float, of: Callable[[Facts], float | None]) -> Reading | None:
    """One axis over all processes of some records; None where no process without a doubt has it."""
    found = [(r.run_id, facts, value) for r in records for facts in _each(r) if (value := of(facts)) is not None]
    usable = [entry for entry in found if not _flagged(entry[1], "invalid") and entry[2] >= 0]
    sound = [entry for entry in usable if not _flagged(entry[1], "suspect")]
    values = [value for _, _, value in sound or usable]
    if not values:
        return None
    runs = tuple(dict.fromkeys(run for run, _, _ in sound or usable))
    if not sound:
        low, high = min(values) / _DOUBT, max(values) * _DOUBT
        return Reading(
            statistics.median(values), low, high, f"flagged, taken as within {_DOUBT:g} times", metric, runs, True
        )
    between = processes.between(values) if len(values) > 1 else None
    if between is not None and len(values) >= processes.FEWEST_FOR_T:
        return Reading(statistics.median(values), between.low, between.high, between.scope, metric, runs)
    low, high = _own(sound[0][1], metric, values[0]) if len(values) == 1 else (min(values), max(values))
    wide = math.exp(_REACH * sd)
    count = "one process" if len(values) == 1 else f"{len(values)} processes"
    scope = f"{count}, widened by {100 * (wide - 1):.1f} % for those not seen"
    return Reading(statistics.median(values), low / wide, high * wide, scope, metric, runs)


def accuracy(record: Record) -> Reading | None:
    """Top-1 with Wilson's interval; None where the record has none that can be used."""
    share, count = record.metrics.get("top1"), record.metrics.get("accuracy_samples")
    if share is None or not count or not 0 <= share <= 1 or _flagged(record, "invalid"):
        return None
    low, high = wilson(round(share * count), round(count))
    return Reading(share, low, high, f"Wilson, {count:.0f} images", "top1", (record.run_id,))


def latency(facts: Facts) -> float | None:
    """Median time of a request in ms."""
    return _metric(facts, "latency_ms")


def throughput(facts: Facts) -> float | None:
    """Inputs per second."""
    return _metric(facts, "throughput_per_s")


def energy(facts: Facts) -> float | None:
    """J per input; 0 is a counter that did not move."""
    return _metric(facts, "energy_per_input_j") or None


def gpu_memory(facts: Facts) -> float | None:
    """Bytes that the run added to what was in use on the GPU before it."""
    peak, before = _metric(facts, "gpu_memory_peak_bytes"), _metric(facts, "gpu_memory_before_bytes")
    return None if peak is None or before is None or peak <= before else peak - before


def board_memory(facts: Facts) -> float | None:
    """Bytes that a board's available memory fell by."""
    return _metric(facts, "memory_available_drop_bytes")


def host_memory(facts: Facts) -> float | None:
    """Bytes of the measuring process at its peak."""
    return _metric(facts, "host_rss_peak_bytes")


#: Where memory is read, by the kind of device: what runs out there.
MEMORY: dict[str, tuple[str, Callable[[Facts], float | None]]] = {
    "gpu": ("gpu_memory_peak_bytes less gpu_memory_before_bytes", gpu_memory),
    "soc": ("memory_available_drop_bytes", board_memory),
    "cpu": ("host_rss_peak_bytes", host_memory),
}


def _each(record: Record) -> Sequence[Facts]:
    return record.processes or [record]


def _flagged(facts: Facts, level: str) -> bool:
    return any(flag.level == level for flag in facts.flags)


def _metric(facts: Facts, name: str) -> float | None:
    value = None if name in facts.withheld else facts.metrics.get(name)
    return None if value is None or not math.isfinite(value) else float(value)


def _own(facts: Facts, metric: str, value: float) -> tuple[float, float]:
    found = facts.intervals.get(metric)
    if found is None or not 0 < found.low <= value <= found.high < math.inf:
        return value, value
    return found.low, found.high
