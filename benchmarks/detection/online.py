# SPDX-License-Identifier: Apache-2.0
"""The farm's own detector, driven night by night over simulated series; re-runs are simulated processes of both sides.

Nothing here decides: looks, common moves, the queue, the answers of measurements and the states are `farm.history`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from detection.nights import BURN_IN, PROCESSES, Farm, Simulated

from farm.history.confirm import confirmation, more_processes
from farm.history.detect import base_nights, pooled
from farm.history.fold import carry, look_at, step
from farm.history.memory import Memory, Said, Tonight
from farm.history.model import Confirmation, NightPoint, State, Trigger
from farm.history.night import Candidate, Plan, plan_night
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
    watcher = _Watcher(farm, budget, limits)
    for t in range(len(farm.names)):
        watcher.night(t)
    return watcher.course


class _Watcher:
    """What is known of all series by tonight."""

    def __init__(self, farm: Farm, budget: float, limits: Limits) -> None:
        self._farm = farm
        self._budget = budget
        self._limits = limits
        self._rule = rule_for(METRIC, limits)
        self._memories = {one.key: Memory() for one in farm.series}
        self._points: dict[str, list[NightPoint]] = {one.key: [] for one in farm.series}
        self._index = {name: t for t, name in enumerate(farm.names)}
        self.course = Course()

    def night(self, t: int) -> None:
        """Look, plan, measure, fold."""
        name = self._farm.names[t]
        seen = {one.key: NightPoint(name, value) for one in self._farm.series if (value := one.values[t]) is not None}
        candidates = self._candidates(seen)
        plan = plan_night(candidates, self._budgets(), (), self._limits)
        self.course.moves += [(move.device, t) for move in plan.moves]
        measured = self._measured(plan, t)
        self._carry(plan, seen, name)
        shifts = plan.shifts()
        for candidate in candidates:
            key = candidate.look.key
            shift, left = shifts.get(key, 0.0), plan.left.get(key, "")
            tonight = Tonight(seen[key], candidate.look, measured.get(key), (), shift, left)
            self._memories[key], said = step(
                self._memories[key], self._points[key], tonight, self._rule, self._limits
            )  # fmt: skip
            self._points[key].append(seen[key])
            self._note(said, t)

    def _candidates(self, seen: Mapping[str, NightPoint]) -> list[Candidate]:
        pools, cost, found = self._pools(), 2.0 * self._limits["history_processes"], []
        for one in self._farm.series:
            if one.key in seen:
                history = (self._memories[one.key], one.key, self._points[one.key], seen[one.key])
                look = look_at(*history, self._rule, pools[one.noise.name], self._limits)
                found.append(Candidate(one.noise.name, METRIC, look, cost))
        return found

    def _pools(self) -> dict[str, float]:
        groups: dict[str, list[list[NightPoint]]] = {}
        for one in self._farm.series:
            groups.setdefault(one.noise.name, []).append(self._points[one.key])
        return {name: pooled(group, self._rule, self._limits) for name, group in groups.items()}

    def _budgets(self) -> dict[str, float]:
        """In processes, as the candidates' costs are."""
        counts = Counter(one.noise.name for one in self._farm.series)
        return {name: self._budget * PROCESSES * count for name, count in counts.items()}

    def _measured(self, plan: Plan, t: int) -> dict[str, Confirmation]:
        by_key, found = {one.key: one for one in self._farm.series}, {}
        for ask in plan.ask:
            key, trigger = ask.look.key, ask.look.trigger
            assert trigger is not None
            since = self._memories[key].since
            base = base_nights([point for point in self._points[key] if point.night >= since], trigger, self._limits)
            if base:
                found[key] = self._measure(by_key[key], self._index[base[0].night], t, trigger)
        return found

    def _measure(self, one: Simulated, before: int, t: int, trigger: Trigger) -> Confirmation:
        base: list[float] = []
        new: list[float] = []
        while more := more_processes(trigger, base, new, self._rule, self._limits):
            base += [one.rerun(before, t) for _ in range(more)]
            new += [one.rerun(t, t) for _ in range(more)]
        self.course.reruns += 2 * len(base) if t >= BURN_IN else 0
        return confirmation(trigger, self._farm.names[t], base, new, self._rule)

    def _carry(self, plan: Plan, seen: Mapping[str, NightPoint], night: str) -> None:
        for move in plan.moves:
            for one in self._farm.series:
                if one.noise.name == move.device and one.key not in seen:
                    known = self._memories[one.key], self._points[one.key]
                    self._memories[one.key] = carry(*known, night, move.shift, self._rule, self._limits)

    def _note(self, said: tuple[Said, ...], t: int) -> None:
        for one in said:
            if one.state is State.CONFIRMED and one.confirmation is not None:
                self.course.alerts.append(Alert(one.key, t, self._index[one.located], one.worse))
            elif one.state is State.FIXED:
                self.course.fixed.append((one.key, t))
