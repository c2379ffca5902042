# SPDX-License-Identifier: Apache-2.0
"""The farm's own detector, driven night by night over simulated series; re-runs are simulated processes of both sides.

Nothing here decides: looks, common moves, the queue, the answers of measurements and the states are `farm.history`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from detection.nights import BURN_IN, PROCESSES, Farm, Simulated

from farm.history.confirm import confirmation, more_processes
from farm.history.detect import base_nights, pooled
from farm.history.fold import carry, look_at, step
from farm.history.memory import Memory, Tonight
from farm.history.model import Confirmation, NightPoint, State, Trigger
from farm.history.night import Candidate, plan_night
from farm.history.tracked import rule_for
from farm.thresholds import DEFAULTS, Limits

METRIC = "latency_ms"


@dataclass(frozen=True)
class Alert:
    """A change told on a night (an index, as is `since`); `worse` is its direction."""

    key: str
    night: int
    since: int
    worse: bool


@dataclass
class Course:
    """What the detector did: alerts, moves as (device, night), processes run again, events called fixed."""

    alerts: list[Alert] = field(default_factory=list)
    moves: list[tuple[str, int]] = field(default_factory=list)
    reruns: int = 0
    fixed: list[tuple[str, int]] = field(default_factory=list)


def watch(farm: Farm, budget: float, limits: Limits = DEFAULTS) -> Course:
    """All nights of a farm. `budget`: the share of a device's measuring time that re-runs may take besides."""
    rule, course = rule_for(METRIC, limits), Course()
    memories = {one.key: Memory() for one in farm.series}
    points: dict[str, list[NightPoint]] = {one.key: [] for one in farm.series}
    index = {name: t for t, name in enumerate(farm.names)}
    for t, name in enumerate(farm.names):
        pools = _pools(farm, points, limits)
        seen = {one.key: NightPoint(name, value) for one in farm.series if (value := one.values[t]) is not None}
        present = [one for one in farm.series if one.key in seen]
        cost = 2.0 * limits["history_processes"]
        candidates = [
            Candidate(one.noise.name, METRIC, look_at(
                memories[one.key], one.key, points[one.key], seen[one.key], rule, pools[one.noise.name], limits
            ), cost)
            for one in present
        ]  # fmt: skip
        plan = plan_night(candidates, _budgets(farm, budget), (), limits)
        course.moves += [(move.device, t) for move in plan.moves]
        shifts, measured = plan.shifts(), {}
        by_key = {one.key: one for one in present}
        for ask in plan.ask:
            found = ask.look.trigger
            assert found is not None
            key = ask.look.key
            since = memories[key].since
            base = base_nights([point for point in points[key] if point.night >= since], found, limits)
            if base:
                measured[key] = _measure(by_key[key], index[base[0].night], t, found, name, course, limits)
        for move in plan.moves:
            for one in farm.series:
                if one.noise.name == move.device and one.key not in seen:
                    memories[one.key] = carry(memories[one.key], points[one.key], name, move.shift, rule, limits)
        for candidate in candidates:
            key = candidate.look.key
            tonight = Tonight(
                seen[key], candidate.look, measured.get(key), (), shifts.get(key, 0.0), plan.left.get(key, "")
            )
            memories[key], said = step(memories[key], points[key], tonight, rule, limits)
            points[key].append(seen[key])
            for one in said:
                if one.state is State.CONFIRMED and one.confirmation is not None:
                    course.alerts.append(Alert(key, t, index[one.since], one.worse))
                elif one.state is State.FIXED:
                    course.fixed.append((key, t))
    return course


def _pools(farm: Farm, points: Mapping[str, list[NightPoint]], limits: Limits) -> dict[str, float]:
    rule = rule_for(METRIC, limits)
    names = {one.noise.name for one in farm.series}
    return {
        name: pooled((points[one.key] for one in farm.series if one.noise.name == name), rule, limits) for name in names
    }


def _budgets(farm: Farm, budget: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in farm.series:
        found[one.noise.name] = found.get(one.noise.name, 0.0) + budget * PROCESSES
    return found


def _measure(
    one: Simulated, before: int, t: int, found: Trigger, night: str, course: Course, limits: Limits
) -> Confirmation:
    rule = rule_for(METRIC, limits)
    base: list[float] = []
    new: list[float] = []
    while more := more_processes(found, base, new, rule, limits):
        base += [one.rerun(before, t) for _ in range(more)]
        new += [one.rerun(t, t) for _ in range(more)]
    course.reruns += 2 * len(base) if t >= BURN_IN else 0
    return confirmation(found, night, base, new, rule)
