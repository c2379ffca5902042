# SPDX-License-Identifier: Apache-2.0
"""Canaries in time: one when a device is first seen, one a day, one when asked; what each said is judged and entered.

Devices of one host take turns, since a canary beside another one would measure both. At most one waits or runs for a
device: the register's field is set before the sweep is submitted, and only if it is empty. So a scheduler that dies in
between leaves nothing twice, and a canary that came to nothing is not made up for.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from farm.broker.canaries import CONFIRM, OUT_OF_TURN, CanaryBook
from farm.broker.jobs import JobState, JobStore, JobView
from farm.broker.register import DeviceEntry, Register
from farm.canary import UNCONFIRMED, CanaryState
from farm.canary.series import assess
from farm.devices import Refusal
from farm.errors import FarmError
from farm.settings import Settings
from farm.store import Store
from farm.thresholds import limits_for
from scheduler.canary_job import PRIORITY, canary_sweep
from scheduler.canary_points import read_canaries
from scheduler.failing import BY
from scheduler.match import working
from scheduler.records import recorded
from scheduler.submit import submit

log = logging.getLogger("inferfarm.scheduler")

#: After trouble with the store.
_RETRY_S = 60.0
#: How long a canary may take to start before others of its host go first: it waits behind its device's job.
_START_S = 60.0
#: A worker whose store is away keeps the record for later; the judgement does not wait for ever.
_RECORD_WAIT_S = 120.0

START, DUE = "start", "due"


class Canaries:
    """Begins canaries and judges them. One `tick` does all there is to do now."""

    def __init__(self, settings: Settings, store: Store, jobs: JobStore, register: Register, book: CanaryBook) -> None:
        self._settings = settings
        self._store = store
        self._jobs = jobs
        self._register = register
        self._book = book
        self._not_before: dict[str, float] = {}

    def tick(self, entries: Iterable[DeviceEntry], now_s: float) -> None:
        """Go through all devices: judge what has ended, then begin what is due. `now_s` is Unix time by Redis's clock.

        Raises:
            redis.RedisError: Redis went away; the next tick goes on from there.
        """
        seen = list(entries)
        taken: set[str] = set()
        judged = False
        for entry in self._fit(seen, now_s):
            with self._guarded(entry, now_s):
                if entry.canary.sweep_id:
                    ended, at_work = self._follow(entry, now_s)
                    judged |= ended
                    taken |= {entry.announcement.device.host} if at_work else set()
                elif self._is_unknown(entry):
                    self._judge(entry)
                    judged = True
        # What was judged may be asked for once more, or quarantined, before anything else is sent to the device.
        for entry in self._fit(self._register.devices() if judged else seen, now_s):
            with self._guarded(entry, now_s):
                if entry.announcement.device.host not in taken and self._next(entry, now_s):
                    taken.add(entry.announcement.device.host)

    def _fit(self, entries: Iterable[DeviceEntry], now_s: float) -> list[DeviceEntry]:
        return [entry for entry in entries if now_s >= self._not_before.get(entry.device_id, 0.0)]

    @contextlib.contextmanager
    def _guarded(self, entry: DeviceEntry, now_s: float) -> Iterator[None]:
        """Trouble with one device's canary, such as a store that is away, must hold up nothing else."""
        try:
            yield
        except FarmError as error:
            log.error("canary of %s, will try again in %.0f s: %s", entry.device_id, _RETRY_S, error)
            self._not_before[entry.device_id] = now_s + _RETRY_S

    def _is_unknown(self, entry: DeviceEntry) -> bool:
        """Whether a device is seen for the first time, or Redis lost what it had: the records know."""
        wanted = self._settings.canary or bool(entry.canary.asked)
        return entry.canary.state is None and wanted and self._store.sweeps.root.is_dir()

    def _follow(self, entry: DeviceEntry, now_s: float) -> tuple[bool, bool]:
        """See to the canary that waits or runs: whether it is over, and whether its host should have no other one."""
        canary = entry.canary
        views = self._jobs.sweep_jobs(canary.sweep_id)
        if not views:
            self._book.undo(entry.device_id, canary.why)  # whoever entered it died before it was submitted
            return True, False
        if self._over(views, now_s):
            self._judge(entry)
            return True, False
        at_work = any(view.state in (JobState.CLAIMED, JobState.RUNNING) for view in views)
        return False, at_work or now_s - canary.began_s < _START_S

    def _next(self, entry: DeviceEntry, now_s: float) -> bool:
        """Begin a canary if one is due; whether it was begun."""
        why = due(entry, now_s, automatic=self._settings.canary, every_s=self._settings.canary_every_h * 3600)
        return why is not None and entry.canary.state is not None and self._begin(entry, why, now_s)

    def _over(self, views: Sequence[JobView], now_s: float) -> bool:
        """Whether nothing more will come of a canary, and its record is where it can be read."""
        if not all(view.state.ended for view in views):
            return False
        return all(self._is_recorded(view) or now_s - _ended_s(view) > _RECORD_WAIT_S for view in views)

    def _is_recorded(self, view: JobView) -> bool:
        return recorded(self._store.records, view.spec, refusals=True)

    def _begin(self, entry: DeviceEntry, why: str, now_s: float) -> bool:
        spec = canary_sweep(entry, entry.canary.series_number, now_s)
        if isinstance(spec, Refusal):
            return self._give_up(entry, spec.reason, now_s)
        if not self._book.begin(entry.device_id, spec.sweep_id, why, now_s):
            return False
        try:
            made = submit(spec, store=self._store, jobs=self._jobs, register=self._register, priority=PRIORITY)
        except FarmError:
            self._book.undo(entry.device_id, why)
            raise
        log.info("canary of %s begun, %s: %s", entry.device_id, why, spec.sweep_id)
        return bool(made.total) or self._give_up(entry, made.refusals[0].reason, now_s)

    def _give_up(self, entry: DeviceEntry, reason: str, now_s: float) -> bool:
        """The device cannot have one now: say so, and try again when the next one is due. Nothing was begun."""
        log.warning("no canary for %s: %s", entry.device_id, reason)
        state = replace(entry.canary.state or CanaryState(), problem=f"it cannot run here: {reason}")
        self._book.give_up(entry.device_id, state, now_s)
        return False

    def _judge(self, entry: DeviceEntry) -> None:
        """Enter what the records say. A first time out of the band is measured once more, at once, and no oftener."""
        device = entry.announcement.device
        limits = limits_for(self._settings.thresholds, device)
        points, pool = read_canaries(self._store, device, limits)
        state = assess(points, pool, limits)
        unsure = state.verdict == UNCONFIRMED and not state.problem
        again = unsure and bool(entry.canary.sweep_id) and entry.canary.why != CONFIRM
        self._book.judged(entry.device_id, state, ask=CONFIRM if again else "")
        if points:
            log.info("canary of %s: %s %s", entry.device_id, state.summary, state.problem or state.note)
        before = entry.canary.state
        if state.shifted and not (before and before.shifted):
            self._shifted(entry, state)

    def _shifted(self, entry: DeviceEntry, state: CanaryState) -> None:
        log.warning("canary of %s has shifted: %s", entry.device_id, state.evidence)
        if self._settings.canary_quarantine and entry.state == "ready":
            self._register.set_state(entry.device_id, "quarantined", f"its canary has {state.summary}", by=BY)


def due(entry: DeviceEntry, now_s: float, *, automatic: bool, every_s: float) -> str | None:
    """Why a device should have a canary now, or None. Pure.

    Args:
        entry: the device; one that takes no jobs, or has a canary already, gets none.
        now_s: Unix seconds.
        automatic: whether canaries are made unasked.
        every_s: how long the last one is good for, whatever came of it.
    """
    canary = entry.canary
    if not working(entry) or canary.sweep_id:
        return None
    if canary.asked in OUT_OF_TURN:
        return canary.asked
    last_s = max(canary.began_s, _unix(canary.state.last_at if canary.state else None))
    if not automatic:
        return None
    if not last_s:
        return START
    return DUE if now_s - last_s >= every_s else None


def _unix(at: str | None) -> float:
    return datetime.fromisoformat(at).timestamp() if at else 0.0


def _ended_s(view: JobView) -> float:
    return view.times.get(view.state, 0.0)
