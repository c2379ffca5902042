# SPDX-License-Identifier: Apache-2.0
"""Compare the records of two sides: pair them, judge each cell, and keep false alarms in check. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from farm.accuracy import SHARES
from farm.compare import ranks, verdict
from farm.compare.model import Cell, Comparison, LeftOut, Process, Rules, Side, Verdict
from farm.compare.pairing import Pair, pair, software_differences, treatment_of
from farm.contract.metrics import METRICS, Metric
from farm.contract.record import ACCURACY, LATENCY, PIPELINE, ProcessFacts, Record
from farm.errors import UsageError

#: The clock that a device's times are multiplied with. A CPU's is the mean over its cores, idle ones too.
_CLOCKS = ("gpu_clock_sm_mhz", "cpu_frequency_mhz")

#: The metrics of the timed stage, which is what the clocks are read in.
CLOCKED = ("latency_", "device_latency_")


def compare(base: Sequence[Record], new: Sequence[Record], rules: Rules | None = None) -> Comparison:
    """Compare two sets of records. The same records in any order give the same comparison.

    Raises:
        UsageError: the metric or the treatment is none, or a rule is out of range.
    """
    rules = rules or Rules()
    metric = _metric(rules)
    base, new = (_of_metric(records, metric) for records in (base, new))
    treatment = treatment_of(base, new, rules)
    pairs, left = pair(base, new, [difference.name for difference in treatment])
    cells, without = [], list(left)
    for made in pairs:
        found = _cell(made, metric, rules)
        if isinstance(found, Cell):
            cells.append(found)
        else:
            without.append(found)
    return Comparison(
        rules=rules,
        unit=metric.unit,
        better=str(metric.better),
        treatment=treatment,
        software=software_differences(pairs, same_thing=not treatment),
        cells=tuple(controlled(cells, rules)),
        left_out=tuple(without),
        caveats=tuple(_caveats(pairs)),
    )


def _of_metric(records: Sequence[Record], metric: Metric) -> list[Record]:
    """The runs that could have the metric: a job's accuracy is no further sample of the batch size it was taken at."""
    point = ACCURACY if metric.name in SHARES else PIPELINE if metric.name.startswith("pipeline_") else LATENCY
    return [r for r in records if r.point == point or (r.batch_size is None and r.point == LATENCY)]


def _metric(rules: Rules) -> Metric:
    if rules.metric not in METRICS:
        near = difflib.get_close_matches(rules.metric, METRICS, n=1)
        hint = f"Did you mean {near[0]}?" if near else "docs/metrics.md lists the metrics."
        raise UsageError(f"there is no metric {rules.metric!r}", hint=hint)
    metric = METRICS[rules.metric]
    if metric.better is None:
        raise UsageError(f"neither more nor less of {metric.name} is better, so there is no verdict on it")
    if not 0 < rules.threshold < 1:
        raise UsageError(
            f"a threshold of {100 * rules.threshold:g} % is none", hint="Give more than 0 and less than 100."
        )
    if not 0.5 <= rules.confidence < 1:
        raise UsageError(f"a confidence of {rules.confidence:g} is none", hint="Give 0.5 or more and less than 1.")
    return metric


def _cell(made: Pair, metric: Metric, rules: Rules) -> Cell | LeftOut:
    sides = []
    for name, records in (("base", made.base), ("new", made.new)):
        processes = [process for record in records for process in processes_of(record, metric, rules)]
        if not processes:
            why = records[-1].withheld.get(metric.name, "it was not measured, or is not above zero")
            return LeftOut(made.cell, made.device, f"{name} has no {metric.name}: {why}")
        sides.append(Side(tuple(sorted(processes, key=lambda p: (p.started_at, p.run_id, p.number)))))
    base, new = sides
    judged = verdict.compare_sides(base, new, rules)
    cycles = None
    if metric.name.startswith(CLOCKED):
        judged, cycles = verdict.clock_check(base, new, judged, rules)
    found = (
        Verdict.UNCLEAR if judged.direction is None else verdict.word(judged.direction, metric.unit, str(metric.better))
    )
    notes = tuple(note for note in (judged.why, _left_aside(base, new)) if note)
    return Cell(made.cell, made.device, base, new, judged.ratio, found, notes, judged.p_value, cycles)


def processes_of(record: Record, metric: Metric, rules: Rules, *, zeros: bool = False) -> Iterator[Process]:
    """The processes of a run as the comparison sees them: those with a value that a ratio can be made of.

    With `zeros` also those with 0 or less, for what is compared by difference.

    A flag of one process keeps that one from a verdict, not the others. That the processes of a run disagree keeps
    none: how far processes differ is what the interval is made from.
    """
    made: Sequence[Record | ProcessFacts] = record.processes or [record]
    for of in made:
        value = None if metric.name in of.withheld else of.metrics.get(metric.name)
        if value is None or not math.isfinite(value) or (value <= 0 and not zeros):
            continue
        flags = {f.name for f in of.flags if f.level == "invalid" or (f.level != "info" and f.name not in rules.accept)}
        clocks = (of.metrics.get(name) for name in _CLOCKS)
        interval = of.intervals.get(metric.name)
        yield Process(
            run_id=record.run_id,
            value=float(value),
            started_at=of.started_at,
            finished_at=of.finished_at,
            clock_mhz=next((mhz for mhz in clocks if mhz), None),
            flags=tuple(sorted(flags)),
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            confidence=interval.confidence if interval else None,
            number=of.index if isinstance(of, ProcessFacts) else 1,
        )


def _left_aside(base: Side, new: Side) -> str:
    """Flagged processes beside sound ones."""
    told = []
    for name, side in (("base", base), ("new", new)):
        flagged = len(side.processes) - len(side.sound)
        if flagged and side.sound:
            who = "process" if flagged == 1 else "processes"
            told.append(f"{flagged} flagged {who} of {name} left aside ({', '.join(side.flags)})")
    return "; ".join(told)


def controlled(cells: Sequence[Cell], rules: Rules) -> list[Cell]:
    """Take back verdicts that chance gives to this many cells (Benjamini, Hochberg). SAME is no alarm and stays."""
    tested = [i for i, cell in enumerate(cells) if cell.p_value is not None]
    adjusted = dict(zip(tested, ranks.false_discovery([cells[i].p_value or 0.0 for i in tested]), strict=True))
    found = []
    for i, cell in enumerate(cells):
        stands = adjusted.get(i, 0.0) <= rules.false_discovery_rate or cell.verdict is Verdict.SAME
        if not stands and cell.verdict is not Verdict.UNCLEAR:
            why = f"looks {cell.verdict}, as chance may among {len(tested)} cells: measure more processes"
            cell = replace(cell, verdict=Verdict.UNCLEAR, notes=(why, *cell.notes))
        found.append(cell)
    return found


def _caveats(pairs: Sequence[Pair]) -> list[str]:
    """What holds for the whole comparison: sides that were not measured alternately."""
    apart = [gap for made in pairs if (gap := gap_s(made.base, made.new)) is not None]
    if not apart:
        return []
    return [
        f"base and new were not measured alternately (up to {span(max(apart))} lie between them): what the machine "
        "did meanwhile is part of the difference. `farm compare --measure` alternates"
    ]


def gap_s(base: Sequence[Record], new: Sequence[Record]) -> float | None:
    """Seconds between the sides of a cell where one ended before the other began; None where they alternate."""
    old, young = (_times(records) for records in (base, new))
    first, second = sorted((old, young))
    return (second[0] - first[1]).total_seconds() if second[0] >= first[1] else None


def _times(records: Sequence[Record]) -> tuple[datetime, datetime]:
    starts = [datetime.fromisoformat(record.started_at) for record in records]
    ends = [datetime.fromisoformat(record.finished_at) for record in records]
    return min(starts), max(ends)


def span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
