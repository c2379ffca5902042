# SPDX-License-Identifier: Apache-2.0
"""Between two runs of one series the time moved and the number of cycles did not: the clock did it. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from farm import identity
from farm.compare.model import Process, Side
from farm.compare.verdict import judge
from farm.contract.record import ProcessFacts, Record
from farm.findings import cells, judging, words
from farm.findings.cells import Cell, side_of
from farm.findings.model import Candidate, Finding
from farm.findings.scene import Scene

RULE = "clock-not-cycles"
CLOCK = "gpu_clock_sm_mhz"

#: Neighbours in time of the newest runs: what was long ago is the detector's business.
MOST_RUNS = 6


def clock_not_cycles(scene: Scene) -> Iterator[Candidate]:
    """Every two neighbouring runs of a series with the same software, whose GPU clocks are known and differ."""
    for is_of, under, of in scene.series:
        if of[-1].job.rebuild is not None:
            continue
        known = [record for record in of if _clocked(record)][-MOST_RUNS:]
        for old, new in itertools.pairwise(known):
            if identity.software(old) == identity.software(new):
                base, later = (_cell(is_of, under, record) for record in (old, new))
                found = _candidate(scene, base, later) if base and later else None
                if found is not None:
                    yield found


def _clocked(record: Record) -> bool:
    made: Sequence[Record | ProcessFacts] = record.processes or [record]
    return any((of.metrics.get(CLOCK) or 0) > 0 for of in made)


def _cell(is_of: Mapping[str, str], under: Mapping[str, str], record: Record) -> Cell | None:
    side = side_of([record])
    if side is None or record.device is None:
        return None
    return Cell(is_of, under, record.device.device_class, record.device.kind, (record,), side)


def _candidate(scene: Scene, base: Cell, new: Cell) -> Candidate | None:
    edge, sd = scene.rules.threshold, scene.limits["assumed_process_sd"]
    if not base.side.sound or not new.side.sound:
        return None
    clocks = [_middle([p.clock_mhz or 0.0 for p in cell.side.sound]) for cell in (base, new)]
    if min(clocks) <= 0 or abs(math.log(clocks[1] / clocks[0])) <= math.log1p(edge):
        return None
    slower = judging.above(base.side, new.side, 1 + edge, sd, scene.rules)
    faster = judging.above(new.side, base.side, 1 + edge, sd, scene.rules)
    answer = slower if slower.ratio.value >= 1 else faster
    cycles = _cycles_ratio(scene, base.side, new.side)
    ratio = slower.ratio
    against = (ratio.value > 1) == (clocks[1] < clocks[0])
    same_cycles = abs(math.log(cycles)) <= math.log1p(edge)
    old, young = cells.evidence(base, "earlier"), cells.evidence(new, "later")
    sentence = (
        f"{words.point(new)}, {new.way}, on {new.place}: the time went from {words.quantity(old)} to "
        f"{words.quantity(young)} ({words.times(ratio)}, {answer.sure}) while the SM clock went from {clocks[0]:.0f} "
        f"to {clocks[1]:.0f} MHz: in cycles it is {cycles - 1:+.1%}, so the clock did it and not the software."
    )
    finding = Finding(
        RULE,
        {n: new.identity[n] for n in ("model", "batch", "device")} | {"way": new.way},
        sentence,
        abs(ratio.value - 1),
        answer.sure,
        old,
        young,
        ratio.value,
        ratio.low,
        ratio.high,
        ratio.confidence,
        notes=cells.differences(base, new, ()),
        numbers={"clock_base_mhz": clocks[0], "clock_new_mhz": clocks[1], "cycles_ratio": cycles},
    )
    p_value = 1.0 if answer.p_value is None else min(1.0, 2 * answer.p_value)
    return Candidate(finding, answer.above and against and same_cycles, p_value, answer.above or answer.below)


def _cycles_ratio(scene: Scene, base: Side, new: Side) -> float:
    return judge(_cycles(base.sound), _cycles(new.sound), scene.rules).ratio.value


def _cycles(of: Sequence[Process]) -> list[float]:
    return [process.value * process.clock_mhz for process in of if process.clock_mhz]


def _middle(values: Sequence[float]) -> float:
    """The median of the known clocks; 0 where one is not known."""
    ordered = sorted(values)
    return 0.0 if not ordered or ordered[0] <= 0 else ordered[len(ordered) // 2]
