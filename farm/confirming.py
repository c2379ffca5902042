# SPDX-License-Identifier: Apache-2.0
"""Settle what a night saw: measure before and now alternately through a farm that runs, within a budget. Resumable.

What is recorded of a session is not measured again: the same triggers give the same sweeps, and turns that have their
results are passed over. One session that fails stops no other.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import redis

from farm.broker.jobs import JobView
from farm.broker.register import DeviceEntry
from farm.comparing import turn_records, unmeasured
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.errors import FarmError, UnavailableError, UsageError
from farm.history import settle
from farm.history.document import Missed
from farm.history.judging import base_runs
from farm.history.model import Confirmation, Trigger
from farm.history.session import NEW, Member, Session, group_key, make_session, sizes_of
from farm.history.sides import choose_sides
from farm.progress import Progress
from farm.regressions import Explained
from farm.settings import Settings
from farm.store import Store
from farm.store.schema import utc_time
from farm.sweep import SweepSpec
from farm.thresholds import DEFAULTS, limits_for
from scheduler.expand import jobs_at
from scheduler.predict import predicted_s

log = logging.getLogger(__name__)

#: The wall clock that a turn may take for each second of device time expected of it: it waits its turn among others.
_PATIENCE = 10.0
_LEAST_WAIT_S = 120.0


class Wanted(Protocol):
    """A trigger to settle: `base` are runs that may stand for before, the best first; `new` are tonight's."""

    @property
    def trigger(self) -> Trigger:
        """What was seen."""

    @property
    def base(self) -> tuple[str, ...]:
        """Run ids of before."""

    @property
    def new(self) -> tuple[str, ...]:
        """Run ids of tonight."""

    @property
    def predicted_s(self) -> float:
        """Device seconds of `history_processes` processes a side; 0 where that is not known."""


class Verbs(Protocol):
    """What is asked of a farm: `farm.api.Farm` has it."""

    @property
    def settings(self) -> Settings:
        """Its settings."""

    @property
    def store(self) -> Store:
        """Its store."""

    def devices(self) -> list[DeviceEntry]:
        """All devices that ever announced themselves."""

    def submit(self, sweep: SweepSpec) -> Any:
        """Submit a sweep."""

    def watch(self, sweep: str, *, interval_s: float = ..., limit_s: float | None = ...) -> Iterator[Progress]:
        """Yield progress until it ends."""

    def status(self, sweep: str) -> list[JobView]:
        """The jobs of a sweep."""

    def cancel(self, name: str) -> Any:
        """Cancel a sweep."""


@dataclass(frozen=True)
class Terms:
    """How to settle.

    Args:
        budget_s: device seconds for all of it.
        until_s: Unix time from which on no turn begins.
        rebuild: engines are built anew for each process, where both sides build their own.
        accept: suspect flags that are taken as sound.
        resumed: turns that are on record count as spent: this goes on with what was killed.
    """

    budget_s: float
    until_s: float | None = None
    rebuild: bool = False
    accept: tuple[str, ...] = ()
    resumed: bool = False


@dataclass
class Settlement:
    """What came of it: an answer for each that was wanted, in that order; `spent_s` are device seconds."""

    confirmations: list[Confirmation] = field(default_factory=list)
    spent_s: float = 0.0

    @property
    def answers(self) -> tuple[Confirmation, ...]:
        """Those that say something."""
        return tuple(made for made in self.confirmations if made.verdict)

    @property
    def missed(self) -> tuple[Missed, ...]:
        """Those that could not be settled."""
        return tuple(Missed(made.key, made.reason) for made in self.confirmations if not made.verdict)


@dataclass(frozen=True)
class Asked:
    """A trigger of an event that a person wants to have settled, as a `Wanted`."""

    trigger: Trigger
    base: tuple[str, ...]
    new: tuple[str, ...]
    predicted_s: float = 0.0


def asked_of(found: Explained) -> list[Asked]:
    """What to settle of an event that `Regressions.explain` tells.

    Raises:
        UsageError: there is nothing of it that a measurement could settle.
    """
    key = found.series.key if found.series else ""
    triggers = [trigger for trigger in found.event.triggers if trigger.key == key]
    base = _base(found, triggers[-1]) if triggers else ()
    if not base or not found.new:
        raise UsageError(
            f"event {found.event.event_id} has no series whose change could be measured",
            hint="`farm regressions explain` tells what it is made of.",
        )
    return [Asked(triggers[-1], base, found.new)]


def _base(found: Explained, trigger: Trigger) -> tuple[str, ...]:
    """As `nights.assess` chooses them, from the history that the trigger had."""
    since = min(trigger.since, found.event.since)
    history = [point for point in found.points if point.night < since][-trigger.count :]
    return base_runs(history, replace(trigger, since=since))


def confirm(
    farm: Verbs,
    wanted: Sequence[Wanted],
    budget_s: float,
    on_progress: Callable[[str], None] = lambda _text: None,
    **terms: Any,
) -> list[Confirmation]:
    """Settle triggers by measuring; see `settle_all`. One that cannot be settled has the verdict "" and a reason."""
    return settle_all(farm, wanted, Terms(budget_s, **terms), on_progress).confirmations


def settle_all(
    farm: Verbs,
    wanted: Sequence[Wanted],
    terms: Terms,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Settlement:
    """Settle triggers in their order, those of one job together, until the budget of device time is spent.

    Raises:
        redis.RedisError, UnavailableError: the broker or the store is away: asked again later, it goes on from there.
    """
    done, settlement = dict[str, Confirmation](), Settlement()
    groups: dict[tuple[str, ...], list[Member]] = {}
    for each in wanted:
        member = _member(farm.store, each)
        if isinstance(member, Confirmation):
            done[member.key] = member
        else:
            groups.setdefault(group_key(member), []).append(member)
    for members in groups.values():
        for made in _settle(farm, members, terms, settlement, on_progress):
            done[made.key] = made
    settlement.confirmations = [done[each.trigger.key] for each in wanted]
    return settlement


def _settle(
    farm: Verbs, members: list[Member], terms: Terms, spent: Settlement, on_progress: Callable[[str], None]
) -> list[Confirmation]:
    """One session. What is wrong with it is its answer; what is away is not."""
    session = None
    try:
        session = _session(farm, members, terms)
        return _Course(farm, session, terms, spent, on_progress).run()
    except (UnavailableError, redis.RedisError):
        raise
    except Exception as error:  # the boundary: one session's trouble must not stop the others
        log.exception("a session to settle %s failed", members[0].trigger.key)
        told = error.message if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
        return [settle.without(member, session, f"it could not be measured: {told}") for member in members]


def _member(store: Store, wanted: Wanted) -> Member | Confirmation:
    """A trigger with its records: of before the best, of tonight the newest; or why there is none."""
    base, now = ([r for r in _read(store, runs) if r.outcome is Outcome.OK] for runs in (wanted.base, wanted.new))
    if not base or not now:
        of, trigger = "before" if now else "tonight", wanted.trigger
        reason = f"no run of {of} is on record"
        return Confirmation(trigger.key, trigger.night, "ab", "", reason=reason)
    nights: dict[str, list[Record]] = {}
    for record in base:
        nights.setdefault(record.job.sweep_id, []).append(record)
    each_s = wanted.predicted_s / DEFAULTS["history_processes"]
    return Member(wanted.trigger, base[0], now[-1], tuple(map(tuple, nights.values())), each_s)


def _read(store: Store, runs: Sequence[str]) -> list[Record]:
    found = []
    for run in runs:
        try:
            found.append(store.records.read(run))
        except UnavailableError:
            raise
        except FarmError as error:
            log.warning("run %s cannot be used: %s", run, error.message)
    return found


def _session(farm: Verbs, members: list[Member], terms: Terms) -> Session:
    first = members[0]
    sizes = set(sizes_of(members))
    points = [(m.base, m.now) for m in members]
    base, now = ([pair[side] for pair in points] + _rest(farm.store, points, side, sizes) for side in (0, 1))
    device = first.now.device.device_id if first.now.device else None
    stacks = [s for entry in farm.devices() if entry.device_id == device for s in entry.announcement.stacks]
    return make_session(members, choose_sides(base, now, stacks), rebuild=terms.rebuild)


def _rest(store: Store, points: list[tuple[Record, Record]], side: int, sizes: set[int]) -> list[Record]:
    """The records of the batch sizes that are measured though no trigger is on them."""
    job = points[0][side].job
    left = sizes - {pair[side].batch_size for pair in points}
    found = _read(store, [job.run_id(size) for size in sorted(left) if store.records.exists(job.run_id(size))])
    return [record for record in found if record.outcome is Outcome.OK]


class _Course:
    """The turns of one session."""

    def __init__(
        self, farm: Verbs, session: Session, terms: Terms, spent: Settlement, on_progress: Callable[[str], None]
    ) -> None:
        self._farm, self._session, self._terms, self._spent = farm, session, terms, spent
        self._say = on_progress
        self._costs: list[float] = []
        self._ended = ""
        self._counted: set[str] = set()
        device = session.members[0].now.device
        self._limits = limits_for(farm.settings.thresholds, device) if device else DEFAULTS

    def run(self) -> list[Confirmation]:
        """Measure until every member has its answer or no more may be measured; then say what is known."""
        limits, session = self._limits, self._session
        processes, most = int(limits["history_processes"]), int(limits["history_most_processes"])
        while True:
            self._measure(processes)
            base, new = turn_records(session.turns(processes), self._farm.store)
            wanted = settle.more(session, base, new, limits, self._terms.accept)
            if self._ended or not wanted or processes >= most:
                return [self._answer(member, base, new, processes) for member in session.members]
            processes = min(processes + wanted, most)

    def _answer(self, member: Member, base: list[Record], new: list[Record], processes: int) -> Confirmation:
        made = settle.conclude(self._session, member, base, new, self._limits, self._terms.accept)
        fewest = int(self._limits["history_processes"])
        sides = (new,) if self._session.base is None else (base, new)
        have = min(len(settle.records_of_point(member, side)) for side in sides)
        if self._ended and (not made.verdict or have < fewest):
            # Fewer processes than were asked for say nothing; after the first five, what is known counts.
            made = settle.without(member, self._session, self._ended)
        told = self._farm.store
        sweeps = [t.spec.sweep_id for t in self._session.turns(processes) if told.sweeps.exists(t.spec.sweep_id)]
        return replace(made, sweeps=tuple(sweeps))

    def _measure(self, processes: int) -> None:
        """Make the turns that are left, in their order, until something ends the session."""
        turns = self._session.turns(processes)
        left = unmeasured(turns, self._farm.store)
        if self._terms.resumed:
            for turn in turns:
                if turn not in left:
                    self._count(turn.spec)
        failed = [why for turn in turns if turn not in left for why in [self._outcome(turn.spec)] if why]
        if failed and settle.ends_session([outcome for outcome, _ in failed]):
            self._ended = failed[-1][1]
        for i, turn in enumerate(left):
            # The whole must fit before its first turn; after it, half a session would be worth less than a little more.
            self._ended = self._ended or self._spent_up(turn.spec, len(left) if i == 0 else 0)
            if self._ended:
                return
            side = "now" if turn.side == NEW else "before"
            self._say(f"{self._session.name}: {side}, process {turn.number} of {processes}")
            self._turn(turn.spec)
            why = self._outcome(turn.spec)
            failed += [why] if why else []
            if why and settle.ends_session([outcome for outcome, _ in failed]):
                self._ended = self._ended or f"{side}, process {turn.number}: {why[1]}"

    def _spent_up(self, spec: SweepSpec, turns: int) -> str:
        """Why so many turns may not be made, or, with 0, why the session may not go on; "" if they may."""
        if self._terms.until_s is not None and time.time() >= self._terms.until_s:
            return "the time for settling changes is over"
        needed, left = turns * self._cost(spec), self._terms.budget_s - self._spent.spent_s
        if left > 0 and needed <= left:
            return ""
        return f"about {needed:.0f} s of device time are needed, and {max(left, 0.0):.0f} s of the budget are left"

    def _cost(self, spec: SweepSpec) -> float:
        """Device seconds of a turn, by those made so far, by the nights' runs, by the protocol."""
        if self._costs:
            return statistics.mean(self._costs)
        known = self._session.predicted_s / (2 if self._session.base is not None else 1)
        return known or sum(predicted_s(job) for job in _jobs(spec))

    def _turn(self, spec: SweepSpec) -> None:
        wait_s = max(_LEAST_WAIT_S, _PATIENCE * self._cost(spec))
        if not self._farm.submit(spec).total:
            return  # refused: the record says why
        try:
            for _ in self._farm.watch(spec.sweep_id, interval_s=0.1, limit_s=wait_s):
                pass
        except UnavailableError:
            self._farm.cancel(spec.sweep_id)
            self._ended = f"a turn did not end within {wait_s:.0f} s"
        self._count(spec)

    def _count(self, spec: SweepSpec) -> None:
        """Add what a turn took, once."""
        if spec.sweep_id in self._counted:
            return
        self._counted.add(spec.sweep_id)
        cost = sum(_device_s(view) for view in self._views(spec)) or self._recorded_s(spec)
        self._costs.append(cost)
        self._spent.spent_s += cost

    def _views(self, spec: SweepSpec) -> list[JobView]:
        try:
            return self._farm.status(spec.sweep_id)
        except UsageError:
            return []  # the broker no longer knows it

    def _recorded_s(self, spec: SweepSpec) -> float:
        """What a turn took by its records."""
        store = self._farm.store
        runs = [run for job in _jobs(spec) for run in job.run_ids() if store.records.exists(run)]
        return sum((utc_time(r.finished_at) - utc_time(r.started_at)).total_seconds() for r in _read(store, runs))

    def _outcome(self, spec: SweepSpec) -> tuple[Outcome, str] | None:
        """How a turn failed, and why in words; None: every point that is wanted was measured."""
        store = self._farm.store
        runs = [run for job in _jobs(spec) for run in (*job.run_ids(), job.run_id(None))]
        records = _read(store, [run for run in runs if store.records.exists(run)])
        found = [r for r in records if r.outcome is Outcome.OK]
        if records and all(settle.records_of_point(member, found) for member in self._session.members):
            return None
        bad = next((r for r in records if r.outcome is not Outcome.OK), None)
        if bad is None:
            return Outcome.LOST, "it left no record"
        return bad.outcome, bad.failure.message if bad.failure else f"it ended {bad.outcome}"


def _jobs(spec: SweepSpec) -> list[JobSpec]:
    """The one job of a turn."""
    return list(jobs_at(spec, [f"dev:{selector.device_id}" for selector in spec.devices or ()], {}))


def _device_s(view: JobView) -> float:
    """How long a job held its device."""
    begun = view.times.get("claimed") or view.times.get("running")
    ends = [view.times[state] for state in ("done", "failed", "cancelled", "quarantined") if state in view.times]
    return max(0.0, max(ends) - begun) if begun and ends else 0.0
