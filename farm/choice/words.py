# SPDX-License-Identifier: Apache-2.0
"""A recommendation in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from farm.choice.model import AXES, Fit, Margin, Reading, Recommendation, Rival, Status


def with_sentence(made: Recommendation, unsettled: int) -> Recommendation:
    """The recommendation with its one sentence. `unsettled`: how many could be better, those not listed as well."""
    goal = AXES[made.limits.goal]
    if made.chosen is None:
        return replace(made, sentence=_nothing(made, unsettled))
    best = "highest" if goal.better == "higher" else "lowest"
    value = amount(goal.name, made.chosen.readings[goal.name])
    text = f"{made.chosen.way}: {value}, the {best} {goal.title} of what is known to fit"
    if made.status is Status.UNDECIDED:
        text += f"; the records cannot rule out {unsettled} other{'s' if unsettled > 1 else ''}"
    return replace(made, sentence=text + ".")


def _nothing(made: Recommendation, may: int) -> str:
    by = ", ".join(f"{AXES[axis].title} rules out {count}" for axis, count in made.excluded.items())
    told = f"Of {made.looked_at} ways none is known to fit"
    told += f": {by}" if by else ""
    return told + (f"; of {may} it cannot be told." if may else ".")


def amount(axis: str, found: Reading) -> str:
    """`0.187 ms [0.178, 0.197]`."""
    of = AXES[axis]
    value, low, high = (_number(of.shown(v)) for v in (found.value, found.low, found.high))
    return f"{value} {of.unit} [{low}, {high}]"


def margin(of: Margin) -> str:
    """`latency 0.187 ms [0.178, 0.197], at most 5 ms: 96 % to spare [96 %, 96 %]`."""
    axis = AXES[of.axis]
    bound = f"{'at most' if axis.better == 'lower' else 'at least'} {_number(axis.shown(of.limit))} {axis.unit}"
    if of.reading is None or of.margin is None or of.low is None or of.high is None:
        return f"{axis.title}, {bound}: unknown, {of.reason}"
    how = {Fit.WITHIN: "to spare", Fit.OUTSIDE: "to spare: outside", Fit.OPEN: "to spare: the interval holds the limit"}
    spare = f"{100 * of.margin:.3g} % [{100 * of.low:.3g} %, {100 * of.high:.3g} %] {how.get(of.fit, '')}"
    return f"{axis.title} {amount(of.axis, of.reading)} ({of.reading.scope}), {bound}: {spare}"


def rival(of: Rival, goal: str) -> str:
    """`onnx_tensorrt fp16, batch 8: 34 % worse [31 %, 37 %]; fits, too`."""
    if of.worse is None or of.low is None or of.high is None:
        return f"{of.candidate.way}: {of.reason}"
    if of.worse < 0:
        return f"{of.candidate.way}: {_better(goal, of.worse)}; {of.reason}"
    far = f"{100 * of.worse:.3g} % worse [{100 * of.low:.3g} %, {100 * of.high:.3g} %]"
    return f"{of.candidate.way}: {far}; {of.reason}"


def _better(goal: str, worse: float) -> str:
    """`2.1 times the throughput`, `0.4 times the latency`."""
    return f"{1 + worse if AXES[goal].better == 'lower' else 1 - worse:.3g} times the {AXES[goal].title}"


def lines(made: Recommendation) -> Iterator[str]:
    """Everything, a line each, for people."""
    yield f"{made.status}: {made.sentence}"
    for of in made.margins:
        yield f"  {margin(of)}"
    if made.runner_up is not None:
        yield f"runner-up: {rival(made.runner_up, made.limits.goal)}"
    if made.nearest is not None:
        yield f"nearest miss: {made.nearest.way}"
        for of in made.nearest_margins:
            yield f"  {margin(of)}"
    if made.unsettled:
        yield "cannot be told of these:" if made.chosen is None else "could be better:"
    for one in made.unsettled:
        yield f"  {rival(one, made.limits.goal)}"
    if made.excluded:
        yield "ruled out: " + ", ".join(f"{count} by {AXES[axis].title}" for axis, count in made.excluded.items())
    for note in made.notes:
        yield f"note: {note}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"


def document(made: Recommendation) -> dict[str, Any]:
    """Everything as JSON values, in the units that are recorded: accuracy a share, memory in bytes."""
    return asdict(made) | {"goal": made.limits.goal, "decided": made.status is Status.DECIDED}
