# SPDX-License-Identifier: Apache-2.0
"""One event as text: figures, a plot of its nights, and the commands that show its runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from farm.contract.metrics import METRICS
from farm.history.model import Confirmation, Event, NightPoint, Trigger
from farm.history.tracked import TRACKED, told
from farm.regressions import Explained

#: Characters of the plot, between its lowest and its highest value.
_WIDTH = 40


def lines(found: Explained) -> Iterator[str]:
    """The text, line by line."""
    event = found.event
    yield f"{event.event_id}  {event.state}  {found.name} on {event.device}"
    yield f"  {_headline(event)}, since {event.since}, last judged {event.night}; group {event.group}"
    for word, told_ in (("cause", event.cause), ("note", event.notes)):
        for text in told_:
            yield f"  {word}: {text}"
    if event.decision:
        yield f"  accepted {event.decision.decided_at[:10]} {event.decision.by}: {event.decision.reason}"
    for trigger in event.triggers:
        yield f"  set off on {trigger.night}: {_trigger(trigger, event.metric)}"
    for made in event.confirmations:
        yield f"  measured on {made.night}: {confirmation_line(made)}"
    if found.points:
        yield ""
        yield from plot(found.points, event.since, METRICS[event.metric].unit)
    yield from _commands(found)


def _headline(event: Event) -> str:
    if event.metric not in TRACKED:
        return f"{event.metric}" + (f" {100 * event.change:+.1f} %" if event.change else "")
    return f"{event.metric} {told(event.metric, event.change)}, {'worse' if event.worse else 'better'}"


def _trigger(trigger: Trigger, metric: str) -> str:
    spread = f"{100 * trigger.spread:.1f} %" if TRACKED[metric].scale == "log" else f"{trigger.spread:.3g}"
    p_value = f"p = {trigger.p_value:.1g}" if trigger.p_value else "p < 1e-15"
    slow = f"; a slow change that began on {trigger.since}" if trigger.path == "slow" else ""
    return (
        f"{told(metric, trigger.change)} of the median {trigger.centre:.4g} of {trigger.count} nights, "
        f"{abs(trigger.z):.1f} times their spread of {spread} ({p_value}){slow}"
    )


def confirmation_line(made: Confirmation) -> str:
    """What a measurement found, in a line."""
    how = "what ran before and what runs now, alternately" if made.how == "ab" else "what runs now alone"
    ratio = "" if made.ratio is None else f", {made.ratio:.4f} times base"
    ends = "" if made.low is None or made.high is None else f" ({made.low:.4f} to {made.high:.4f}"
    ends += f" at {100 * made.confidence:.1f} %)" if ends and made.confidence else ")" if ends else ""
    clock = ", a clock effect" if made.clock_effect else ""
    why = f"; {made.reason}" if made.reason else ""
    return f"{made.verdict}{ratio}{ends}{clock}, {how}{why}"


def plot(points: Sequence[NightPoint], since: str, unit: str) -> Iterator[str]:
    """A line for each night: its value, and where it lies between the lowest and the highest."""
    low, high = min(point.value for point in points), max(point.value for point in points)
    width = (high - low) or 1.0
    yield f"  night       {'value':>12} {unit}"
    for point in points:
        place = round((_WIDTH - 1) * (point.value - low) / width)
        mark = "  <- since" if point.night == since else ""
        yield f"  {point.night}  {point.value:>12.6g} |{' ' * place}*{' ' * (_WIDTH - 1 - place)}|{mark}"


def _commands(found: Explained) -> Iterator[str]:
    yield ""
    for word, runs in (("before", found.base), ("now", found.new)):
        if runs:
            yield f"  runs {word}: {' '.join(runs)}"
    if found.base and found.new:
        listed = ", ".join(f"'{run}'" for run in (*found.base, *found.new))
        yield f'  farm results --where "run_id in ({listed})" --columns all --format csv'
        if found.points:
            yield f"  farm compare {found.base[-1]} {found.new[-1]}"
    if found.event.state.is_open:
        yield f'  farm regressions accept {found.event.event_id} --reason "..."'
