# SPDX-License-Identifier: Apache-2.0
"""From the processes of two sides to a ratio and a verdict. Pure.

All on logarithms: the ratio of two medians is a shift there, and base and new can be exchanged. The band of what does
not matter reaches from 1 / (1 + threshold) to 1 + threshold. An interval outside of it is FASTER or SLOWER, one inside
is SAME, and all else is UNCLEAR.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from farm.compare import ranks
from farm.compare.model import Process, Ratio, Rules, Side, Verdict

WITHIN_RUN = "within one run each"


@dataclass(frozen=True)
class Judged:
    """`direction`: 1 above the band, -1 below, 0 inside, None: it cannot be said, for the reason in `why`."""

    ratio: Ratio
    direction: int | None
    why: str = ""
    p_value: float | None = None


def judge(base: Sequence[float], new: Sequence[float], rules: Rules) -> Judged:
    """Compare the values of processes. All must be above zero, and neither side empty."""
    old, young = [math.log(value) for value in base], [math.log(value) for value in new]
    found = ranks.shift(old, young, rules.confidence)
    ratio = Ratio(math.exp(found.estimate), math.exp(found.low), math.exp(found.high), found.coverage)
    if found.coverage < rules.confidence:
        return Judged(ratio, None, _too_few(len(base), len(new), found.coverage, rules))
    edge = math.log1p(rules.threshold)
    p_value = ranks.p_outside(old, young, edge)
    if found.low > edge or found.high < -edge:
        return Judged(ratio, 1 if found.low > edge else -1, p_value=p_value)
    if -edge <= found.low and found.high <= edge:
        return Judged(ratio, 0, p_value=p_value)
    return Judged(ratio, None, _wide(found, rules), p_value)


def within_run(base: Process, new: Process) -> Ratio:
    """One process each: what the iterations of these two runs say, which is nothing about the next process.

    The interval spans every ratio of a value in one interval and a value in the other; by Bonferroni's inequality it
    covers with at least 90 % where the two do with 95 %.
    """
    value = new.value / base.value
    known = [end for end in (base.low, base.high, new.low, new.high) if end is not None and end > 0]
    if len(known) < 4 or base.confidence is None or new.confidence is None:
        return Ratio(value, scope=WITHIN_RUN)
    a, b, c, d = known
    return Ratio(value, c / b, d / a, max(0.0, base.confidence + new.confidence - 1), WITHIN_RUN)


def compare_sides(base: Side, new: Side, rules: Rules) -> Judged:
    """The ratio of a cell, and what can be said of it."""
    ratio = Ratio(new.median / base.median, scope="none")
    for name, side in (("base", base), ("new", new)):
        if not side.sound:
            return Judged(ratio, None, f"no process of {name} is without a flag ({', '.join(side.flags)})")
    if len(base.sound) == len(new.sound) == 1:
        why = "one process each: differences between processes are unknown"
        return Judged(within_run(base.sound[0], new.sound[0]), None, why)
    return judge([p.value for p in base.sound], [p.value for p in new.sound], rules)


def clock_check(base: Side, new: Side, judged: Judged, rules: Rules) -> tuple[Judged, Ratio | None]:
    """The same in cycles (time x clock), where the clocks of the sides differ enough to matter.

    A change of time that is none in cycles, or one that shows in cycles alone, is an effect of the clock: the verdict
    falls to UNCLEAR, since the clock may have moved by itself or because of what is compared.
    """
    clocks = [[process.clock_mhz or 0.0 for process in side.sound] for side in (base, new)]
    if judged.direction is None or not all(mhz > 0 for of in clocks for mhz in of):
        return judged, None
    clock = judge(clocks[0], clocks[1], rules).ratio.value
    cycles = judge(_cycles(base), _cycles(new), rules)
    edge, moved, left = math.log1p(rules.threshold), math.log(clock), math.log(judged.ratio.value * clock)
    # Enough to matter: without the clock's share a change would be within the band, or none would be outside of it.
    explained = judged.direction != 0 and moved * judged.direction < 0 and abs(left) <= edge
    hidden = judged.direction == 0 and abs(moved) > edge
    if not (explained or hidden) or cycles.direction == judged.direction:
        return judged, cycles.ratio if abs(moved) > edge else None
    at = " -> ".join(f"{statistics.median(of):.0f}" for of in clocks)
    why = f"a clock effect: {at} MHz, and {cycles.ratio.value - 1:+.1%} in cycles"
    return Judged(judged.ratio, None, why, None), cycles.ratio


def word(direction: int, unit: str, better: str) -> Verdict:
    """The verdict of a direction: times and rates are faster or slower, all else is better or worse."""
    if direction == 0:
        return Verdict.SAME
    gain = (direction < 0) == (better == "lower")
    if unit in ("ms", "s", "inputs/s"):
        return Verdict.FASTER if gain else Verdict.SLOWER
    return Verdict.BETTER if gain else Verdict.WORSE


def _cycles(side: Side) -> list[float]:
    return [process.value * (process.clock_mhz or 0.0) for process in side.sound]


def _too_few(base: int, new: int, coverage: float, rules: Rules) -> str:
    needed = ranks.fewest(rules.confidence)
    told = f"{base} and {new} processes reach {coverage:.1%} at most"
    return f"{told}: {needed} a side are the fewest for {rules.confidence:.0%}"


def _wide(found: ranks.Shift, rules: Rules) -> str:
    if found.low > 0 or found.high < 0:
        return f"there is a difference; whether it is over {100 * rules.threshold:g} % is open"
    return f"the interval reaches over {100 * rules.threshold:g} %: more processes, or a quieter machine"
