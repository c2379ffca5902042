# SPDX-License-Identifier: Apache-2.0
"""What the numbers of one night say: every series against its own history, then all together. Reads the index alone."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from farm.canary import CanaryState
from farm.history.calendar import Calendar
from farm.history.coverage import Change, changes
from farm.history.detect import base_nights, pooled
from farm.history.document import CanaryShift
from farm.history.fold import carry, look_at
from farm.history.load import NIGHTS, Loader, left_out, window
from farm.history.memory import Look, Memory, recall
from farm.history.model import Event, NightPoint, Series, Trigger
from farm.history.night import Candidate, DeviceMove, Plan, plan_night
from farm.history.tracked import TRACKED, Rule, rule_for
from farm.store import Store
from farm.thresholds import DEFAULTS, Limits

#: Base runs that a confirmation may choose from, of the newest nights that may stand for before.
_BASE_NIGHTS = 5


@dataclass(frozen=True)
class Wanted:
    """A trigger that only a measurement can settle, the most telling first in a list.

    `base` are ids of runs that may stand for before, the best first; `new` are tonight's. `predicted_s` is device time
    of `history_processes` processes a side. `witness`: it stands for a device whose series moved together.
    """

    key: str
    trigger: Trigger
    predicted_s: float
    base: tuple[str, ...]
    new: tuple[str, ...]
    device: str = ""
    witness: bool = False


@dataclass(frozen=True)
class Past:
    """What the night before left: memory by series key as JSON, events that are open, canaries of that night."""

    memory: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    canaries: Mapping[str, CanaryShift] = field(default_factory=dict)


@dataclass(frozen=True)
class Assessment:
    """A night as its records tell it. `series` are those that something is to be said of, with their runs.

    `triggers` are all of tonight's; `wanted` those to be settled by measuring, `plan.left` says why the others are not.
    `limits` are by device. `carried`: what series without a value tonight remember of a common move of their device.
    """

    night: str
    sweeps: tuple[str, ...]
    series: Mapping[str, Series]
    triggers: tuple[Trigger, ...]
    wanted: tuple[Wanted, ...]
    plan: Plan
    looks: Mapping[str, Look]
    rules: Mapping[str, Rule]
    limits: Mapping[str, Limits]
    carried: Mapping[str, Memory]
    coverage: tuple[Change, ...]
    past: Past
    canaries: Mapping[str, CanaryShift]
    left_out: Mapping[str, int]
    problems: tuple[str, ...] = ()

    @property
    def moves(self) -> tuple[DeviceMove, ...]:
        """Series of a device that moved together."""
        return self.plan.moves


@dataclass(frozen=True)
class Terms:
    """How a night is judged. `budgets`: device -> seconds for settling. `thresholds`: as in the settings."""

    budgets: Mapping[str, float] | None = None
    thresholds: Mapping[str, Limits] = field(default_factory=dict)
    nights: int = NIGHTS

    @property
    def common(self) -> Limits:
        """The limits of what is decided over all devices."""
        return {**DEFAULTS, **self.thresholds.get("all", {})}

    def limits(self, series: Series) -> Limits:
        """The limits of a series' device."""
        found = dict(DEFAULTS)
        for key in ("all", series.fields.get("kind", ""), series.device_class, series.device):
            found |= self.thresholds.get(key, {})
        return found


def told_by(canaries: Mapping[str, CanaryState]) -> dict[str, CanaryShift]:
    """What a night keeps of what canaries say."""
    return {name: CanaryShift(c.verdict, c.change, c.since, c.evidence) for name, c in canaries.items()}


def newly_shifted(canaries: Mapping[str, CanaryShift], before: Mapping[str, CanaryShift]) -> set[str]:
    """Devices whose canary has shifted since the night before."""
    return {
        name
        for name, now in canaries.items()
        if now.shifted and not (name in before and before[name].shifted and before[name].since == now.since)
    }


def judge_night(
    store: Store,
    calendar: Calendar,
    night: str,
    past: Past,
    canaries: Mapping[str, CanaryShift],
    terms: Terms,
) -> Assessment:
    """Judge a night, given what the one before left. The index must be fresh."""
    with store.index.session():
        return _judged(store, calendar, night, past, canaries, terms)


def _judged(
    store: Store,
    calendar: Calendar,
    night: str,
    past: Past,
    canaries: Mapping[str, CanaryShift],
    terms: Terms,
) -> Assessment:
    over = window(store, calendar, night, terms.nights)
    loader = Loader(store, calendar, over)
    looks, rules, candidates = _looks(loader, night, past, terms)
    candidates = _with_costs(candidates, loader)
    plan = plan_night(candidates, terms.budgets, newly_shifted(canaries, past.canaries), terms.common)
    concerned = {one.look.key for one in candidates if one.look.trigger}
    concerned |= {key for move in plan.moves for key in move.keys} | (looks.keys() & past.memory.keys())
    series = _with_runs(loader, concerned)
    known = calendar.nights.get(night)
    return Assessment(
        night=night,
        sweeps=known.sweeps if known else (),
        series=series,
        triggers=tuple(one.look.trigger for one in candidates if one.look.trigger and not one.look.recheck),
        wanted=_wanted(plan, candidates, series, past),
        plan=plan,
        looks={key: looks[key] for key in series},
        rules={key: rules[key] for key in series},
        limits={each.device: terms.limits(each) for each in series.values()},
        carried=_carried(loader, plan, night, past, terms),
        coverage=tuple(changes(store, calendar, over, night, past.events)),
        past=past,
        canaries=canaries,
        left_out=left_out(store, calendar, night, over.since),
        problems=calendar.problems,
    )


def _looks(
    loader: Loader, night: str, past: Past, terms: Terms
) -> tuple[dict[str, Look], dict[str, Rule], list[Candidate]]:
    looks, rules, candidates = {}, {}, []
    for metrics in loader.batches(tuple(TRACKED)):
        held = [_usable(each) for each in loader.series(metrics)]
        pools = _pools(held, night, terms)
        for each in held:
            if not each.points or each.points[-1].night != night:
                continue
            limits = terms.limits(each)
            rule = _rule(each, limits)
            memory = recall_or_new(past.memory.get(each.key))
            pool = pools[each.device_class, each.metric]
            look = look_at(memory, each.key, each.points[:-1], each.points[-1], rule, pool, limits)
            looks[each.key], rules[each.key] = look, rule
            candidates.append(Candidate(each.device, each.metric, look))
    return looks, rules, candidates


def recall_or_new(data: Any) -> Memory:
    """The memory of a series; a new one where there is none, or none that can be read."""
    if data is None:
        return Memory()
    try:
        return recall(data)
    except ValueError:
        return Memory()


def _rule(series: Series, limits: Limits) -> Rule:
    images = series.fields.get("images", "")
    return rule_for(series.metric, limits, float(images) if images else None)


def _usable(series: Series) -> Series:
    """Without the nights whose value has no place on the metric's scale, such as a time of 0."""
    rule = rule_for(series.metric)
    if all(_fits(rule, point) for point in series.points):
        return series
    return dataclasses.replace(series, points=tuple(point for point in series.points if _fits(rule, point)))


def _fits(rule: Rule, point: NightPoint) -> bool:
    try:
        rule.place(point.value)
    except ValueError:
        return False
    return True


def _pools(held: Sequence[Series], night: str, terms: Terms) -> dict[tuple[str, str], float]:
    """The usual spread of the series of each device class and metric."""
    groups: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for each in held:
        groups[each.device_class, each.metric].append(each)
    found = {}
    for key, group in groups.items():
        limits = terms.limits(group[0])
        histories = ([point for point in each.points if point.night < night] for each in group)
        found[key] = pooled(histories, _rule(group[0], limits), limits)
    return found


def _with_costs(candidates: Sequence[Candidate], loader: Loader) -> list[Candidate]:
    """What settling each trigger would take: the processes of both sides."""
    ids = {_series_id(one.look.key) for one in candidates if one.look.trigger}
    seconds = loader.run_seconds(ids) if ids else {}
    sides = 2 * DEFAULTS["history_processes"]
    return [
        dataclasses.replace(one, seconds=sides * seconds.get(_series_id(one.look.key), 0.0))
        if one.look.trigger
        else one
        for one in candidates
    ]


def _with_runs(loader: Loader, keys: Collection[str]) -> dict[str, Series]:
    if not keys:
        return {}
    ids = {_series_id(key) for key in keys}
    metrics = [name for name in TRACKED if name in {key.partition(":")[2] for key in keys}]
    found = (_usable(each) for each in loader.series(metrics, ids, runs=True))
    return {each.key: each for each in found if each.key in keys}


def _carried(loader: Loader, plan: Plan, night: str, past: Past, terms: Terms) -> dict[str, Memory]:
    """Series of a device that moved as a whole, without a value tonight: their next one is of the new level, too."""
    found = {}
    for move in plan.moves:
        if not move.shift:
            continue
        for each in map(_usable, loader.series([move.metric])):
            if each.device != move.device or not each.points or each.points[-1].night == night:
                continue
            limits = terms.limits(each)
            memory = recall_or_new(past.memory.get(each.key))
            found[each.key] = carry(memory, each.points, night, move.shift, _rule(each, limits), limits)
    return found


def _wanted(
    plan: Plan, candidates: Iterable[Candidate], series: Mapping[str, Series], past: Past
) -> tuple[Wanted, ...]:
    """The queue, after the witnesses of devices that moved: a measurement there speaks for many series."""
    by_key = {one.look.key: one for one in candidates}
    witnesses = [by_key[key] for move in plan.moves if not move.canary for key in move.witnesses]
    asked = [(one, True) for one in witnesses] + [(one, False) for one in plan.ask]
    return tuple(made for one, witness in asked if (made := _want(one, witness, series, past)))


def _want(one: Candidate, witness: bool, series: Mapping[str, Series], past: Past) -> Wanted | None:
    found, each = one.look.trigger, series.get(one.look.key)
    if found is None or each is None:
        return None
    begin = recall_or_new(past.memory.get(each.key)).since
    history = [point for point in each.points[:-1] if point.night >= begin]
    base = base_runs(history, found)
    return Wanted(each.key, found, one.seconds, base, each.points[-1].runs, each.device, witness)


def base_runs(points: Sequence[NightPoint], found: Trigger) -> tuple[str, ...]:
    """Ids of runs that may stand for before, the best first; `points` as for `base_nights`, with their runs."""
    return tuple(run for point in base_nights(points, found)[:_BASE_NIGHTS] for run in reversed(point.runs))


def _series_id(key: str) -> str:
    return key.partition(":")[0]
