# SPDX-License-Identifier: Apache-2.0
"""From the processes of an A/B measurement to a `Confirmation`, and from that to an answer. Pure.

A change is there where the exact 99 % interval of Hodges and Lehmann's shift (`farm.compare`) lies on the trigger's
side of none at all and the estimate is as large as what matters. That asks less than the verdict of a comparison, whose
whole interval must be beyond what matters: the trigger has said already where to look, and a change below
`history_at_once` must be found so on two nights.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence

from farm.compare import ranks
from farm.compare.model import CONFIDENCE, Rules, Verdict
from farm.compare.verdict import judge, word
from farm.contract.metrics import METRICS
from farm.history.model import Confirmation, Trigger
from farm.history.tracked import LOG, Rule
from farm.thresholds import DEFAULTS, Limits

AB, AGAIN = "ab", "again"
#: What a `Confirmation` calls a `ranks.Shift`'s.
_ENDS = {"ratio": "estimate", "low": "low", "high": "high"}


class Answer(enum.StrEnum):
    """What a measurement says of a trigger."""

    AGREED = "agreed"  # the change is there, in the same direction, and large enough
    NONE = "none"  # it is not
    OPEN = "open"  # it cannot be said yet
    CLOCK = "clock"  # time moved and cycles did not


def confirmation(found: Trigger, night: str, base: Sequence[float], new: Sequence[float], rule: Rule) -> Confirmation:
    """The answer of processes of both sides, which are not empty.

    On a linear scale a median of 0 in base has no ratio: `ratio`, `low` and `high` are None and the verdict counts.
    """
    if rule.scale == LOG:
        judged = judge(base, new, Rules(metric=rule.metric, threshold=rule.delta))
        verdict = _verdict(judged.direction, rule)
        ratio = judged.ratio
        told = (ratio.value, ratio.low, ratio.high, ratio.confidence)
        return Confirmation(found.key, night, AB, verdict, *told, reason=judged.why)
    moved = ranks.shift(base, new, CONFIDENCE)
    verdict = _verdict(_direction(moved, rule), rule)
    middle = statistics.median(base)
    if middle <= 0:
        return Confirmation(found.key, night, AB, verdict, confidence=moved.coverage)
    ratios = {name: 1 + getattr(moved, end) / middle for name, end in _ENDS.items()}
    return Confirmation(found.key, night, AB, verdict, **ratios, confidence=moved.coverage)


def answer(found: Trigger, measured: Confirmation, rule: Rule) -> Answer:
    """What a measurement says of the trigger that it was made for."""
    if measured.clock_effect:
        return Answer.CLOCK
    up = found.change > 0
    if rule.scale != LOG or measured.ratio is None or measured.low is None or measured.high is None:
        return _by_verdict(measured, rule.worse(1.0 if up else -1.0))
    ends = [math.log(end) for end in (measured.low, measured.ratio, measured.high)]
    low, estimate, high = ends if up else [-end for end in reversed(ends)]
    centre = rule.place(found.centre)
    sign = 1 if up else -1
    sure = (measured.confidence or 0.0) >= CONFIDENCE
    if sure and low > 0 and rule.matters(centre, sign * estimate):
        return Answer.AGREED
    if high < abs(rule.move(sign * rule.delta)) or not rule.matters(centre, sign * max(estimate, 0.0), part=0.5):
        return Answer.NONE
    return Answer.OPEN


def measured_move(found: Trigger, measured: Confirmation, rule: Rule) -> float:
    """How far the series moved, on its scale: as measured to settle it, else as its nights say."""
    if rule.scale == LOG and measured.ratio is not None and measured.how == AB:
        return math.log(measured.ratio)
    return rule.move(found.change)


def more_processes(
    found: Trigger, base: Sequence[float], new: Sequence[float], rule: Rule, limits: Limits = DEFAULTS
) -> int:
    """How many processes a side to add tonight: `history_processes` to begin with, 0 once there is an answer."""
    have = min(len(base), len(new))
    said = answer(found, confirmation(found, found.night, base, new, rule), rule) if have else Answer.OPEN
    return to_add(said, have, limits)


def to_add(said: Answer, have: int, limits: Limits = DEFAULTS) -> int:
    """How many processes a side to add to those that there are: none where they gave an answer."""
    if said is not Answer.OPEN:
        return 0
    return max(min(int(limits["history_processes"]), int(limits["history_most_processes"]) - have), 0)


def _by_verdict(measured: Confirmation, worse: bool) -> Answer:
    verdict = Verdict(measured.verdict)
    if verdict is Verdict.UNCLEAR:
        return Answer.OPEN
    if verdict is Verdict.SAME:
        return Answer.NONE
    return Answer.AGREED if verdict.is_alarm == worse else Answer.NONE


def _verdict(direction: int | None, rule: Rule) -> str:
    if direction is None:
        return Verdict.UNCLEAR
    return word(direction, METRICS[rule.metric].unit, rule.better)


def _direction(moved: ranks.Shift, rule: Rule) -> int | None:
    """As `compare.verdict.judge`, where there are no ratios."""
    if moved.coverage < CONFIDENCE:
        return None
    if moved.low > rule.delta or moved.high < -rule.delta:
        return 1 if moved.low > 0 else -1
    return 0 if -rule.delta <= moved.low and moved.high <= rule.delta else None
