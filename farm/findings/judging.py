# SPDX-License-Identifier: Apache-2.0
"""Is a side above a floor, and how sure is that? `farm compare`'s test, and what is left where processes are few. Pure.

With enough processes a side (five) the ratio, its interval and the one-sided p-value are the exact rank test's. With
fewer, no test between processes is to be had: then each process's own interval stands for its error, a scatter between
processes is assumed (`assumed_process_sd`) and added to it, and of all pairs of processes the least favourable one is
judged. That is a statement about these runs alone, and is called so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

from farm.compare import ranks, verdict
from farm.compare.model import Process, Ratio, Rules, Side
from farm.findings.model import Sure

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Answer:
    """`above`: the ratio of new over base clearly exceeds the floor; `below`: it clearly does not reach it.

    `p_value` is one-sided, against "the ratio is the floor at most"; None where nothing can be said, and why.
    """

    ratio: Ratio
    sure: Sure
    above: bool = False
    below: bool = False
    p_value: float | None = None
    why: str = ""


def above(base: Side, new: Side, floor: float, process_sd: float, rules: Rules, *, clocks: bool = False) -> Answer:
    """Whether `new` over `base` exceeds `floor` (1.02: 2 % more). `clocks`: not by an effect of the clock alone."""
    judged = verdict.compare_sides(base, new, rules)
    if not base.sound or not new.sound:
        return Answer(judged.ratio, Sure.RUNS, why=judged.why)
    few = ranks.widest_coverage(len(base.sound), len(new.sound)) < rules.confidence
    answer = _few(base, new, floor, process_sd, judged.ratio) if few else _tested(base, new, floor, judged.ratio)
    if clocks and answer.above and not few:
        checked, _ = verdict.clock_check(base, new, judged, rules)
        if checked.why.startswith("a clock effect"):
            return Answer(answer.ratio, answer.sure, why=checked.why)
    return answer


def _tested(base: Side, new: Side, floor: float, ratio: Ratio) -> Answer:
    old, young = ([math.log(p.value) for p in side.sound] for side in (base, new))
    p_value = ranks.p_above(old, young, math.log(floor))
    clear = ratio.low is not None and ratio.low > floor
    under = ratio.high is not None and ratio.high < floor
    return Answer(ratio, Sure.PROCESSES, clear, under, p_value)


def _few(base: Side, new: Side, floor: float, process_sd: float, ratio: Ratio) -> Answer:
    """The least favourable pair of processes, with the assumed scatter."""
    pairs = list(_pairs(base, new))
    if any(error is None for _, error in pairs):
        return Answer(ratio, Sure.RUNS, why="a process has no interval, so nothing is known of its error")
    scatter = math.sqrt(2) * process_sd
    scores = [(shift - math.log(floor)) / math.hypot(error or 0.0, scatter) for shift, error in pairs]
    least, most = min(scores), max(scores)
    if ratio.low is None or ratio.high is None:
        shifts = [math.exp(shift) for shift, _ in pairs]
        covered = ranks.widest_coverage(len(base.sound), len(new.sound))
        ratio = Ratio(ratio.value, min(shifts), max(shifts), covered, verdict.WITHIN_RUN)
    edge = _NORMAL.inv_cdf(0.975)
    p_value = _NORMAL.cdf(-least)
    return Answer(ratio, Sure.RUNS, least > edge and _apart(base, new, floor), most < -edge, p_value)


def _pairs(base: Side, new: Side) -> Iterator[tuple[float, float | None]]:
    """The shift of logarithms of every pair of processes, with its standard error from their own intervals."""
    for old in base.sound:
        for young in new.sound:
            errors = [_error(process) for process in (old, young)]
            known = [error for error in errors if error is not None]
            error = math.hypot(*known) if len(known) == 2 else None
            yield math.log(young.value / old.value), error


def _error(process: Process) -> float | None:
    """The standard error of the logarithm that a process's own interval stands for."""
    low, high, confidence = process.low, process.high, process.confidence
    if low is None or high is None or confidence is None or not 0 < confidence < 1 or not 0 < low <= high < math.inf:
        return None
    return math.log(high / low) / (2 * _NORMAL.inv_cdf(0.5 + confidence / 2))


def _apart(base: Side, new: Side, floor: float) -> bool:
    """No process's interval of new reaches down to any of base, times the floor."""
    highest = max(process.high or process.value for process in base.sound)
    lowest = min(process.low or process.value for process in new.sound)
    return lowest > floor * highest
