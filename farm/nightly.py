# SPDX-License-Identifier: Apache-2.0
"""The nightly on a real farm: gives `scheduler.nightly` the farm, the clock, the judgement and the reports."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import redis

from farm import canaries
from farm.api import Farm
from farm.broker.connection import connect
from farm.broker.jobs import JobState
from farm.canary import CanaryState
from farm.confirming import Terms, settle_all
from farm.contract.record import Record
from farm.errors import FarmError, UsageError
from farm.history import nights
from farm.history.model import Event
from farm.regressions import Regressions
from farm.report.nights_index import remove_old
from farm.reporting import expected_jobs
from farm.settings import config_dir
from farm.store.compact import before_which
from farm.sweep import load_sweep
from scheduler.leader import holder
from scheduler.match import working
from scheduler.nightly import notify
from scheduler.nightly.lock import BEAT_KEY, NIGHT_KEY, Holding
from scheduler.nightly.run import Asked, run_nights
from scheduler.nightly.status import Status, status
from scheduler.nightly.world import (
    CanaryWordOfDevice,
    Counted,
    InterruptedNightError,
    OpenJob,
    Settled,
    Submitted,
)
from scheduler.records import recorded

log = logging.getLogger("inferfarm.nightly")

#: Days that one night compacts: years of records from before there was compaction are caught up with over some nights.
MOST_DAYS = 60

#: Makes the measurements that a judgement asks for: farm, judgement, seconds of device time, until when, what to call
#: before each of them.
Confirm = Callable[[Farm, nights.Assessment, float, datetime, Callable[[str], None]], Settled]


def settle(
    farm: Farm, found: nights.Assessment, budget_s: float, until: datetime, say: Callable[[str], None]
) -> Settled:
    """Measure before and now alternately. What a night that was killed has on record is part of its budget."""
    made = settle_all(farm, found.wanted, Terms(budget_s, until.timestamp(), resumed=True), say)
    return Settled(made.answers, made.missed, made.spent_s)


@dataclass
class RealWorld:
    """`scheduler.nightly.world.World` for a farm. `stop` says whether the night must be left."""

    farm: Farm
    confirmer: Confirm = settle
    stop: Callable[[], bool] = lambda: False
    _wake: threading.Event = field(default_factory=threading.Event)

    @property
    def _reports(self) -> Path:
        return self.farm.settings.nightly_report_dir

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)

    def pause(self, seconds: float) -> None:
        """Wait; raise InterruptedNightError where the night must be left."""
        left = seconds
        while left > 0 and not self.stop():
            # In short steps: a signal must not have to wait for a back-off.
            self._wake.wait(min(left, 0.5))
            left -= 0.5
        if self.stop():
            raise InterruptedNightError("told to end")

    def ask_canaries(self) -> list[str]:
        """Ask for a canary on every device that takes jobs."""
        return canaries.ask(connect(self.farm.settings), self.farm.devices(), (), accept=False)

    def canaries(self, devices: Sequence[str]) -> dict[str, CanaryWordOfDevice]:
        """What their canaries say now."""
        found = {}
        for entry in self.farm.devices():
            if entry.device_id in devices:
                state = entry.canary.state or CanaryState()
                busy = entry.canary.busy and working(entry)
                summary = state.problem or state.summary
                found[entry.device_id] = CanaryWordOfDevice(busy, state.shifted, summary)
        return found

    def sweep_files(self, path: Path) -> list[Path]:
        """A file stands for itself, a directory for the sweeps in it."""
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
            if not found:
                raise UsageError(f"{path} has no sweeps: no *.yaml", hint="Put one there, or mend [[nightly.sweeps]].")
            return found
        return [path]

    def submit(self, path: Path, again: int, priority: int | None) -> Submitted:
        """Submit this repeat of a sweep."""
        spec = load_sweep(path).repeated(again)
        done = self.farm.submit(spec, priority=priority)
        return Submitted(done.sweep_id, done.name, done.total, len(done.refusals))

    def open_jobs(self, sweeps: Sequence[str]) -> list[OpenJob]:
        """Jobs that have not ended or are not recorded. What Redis lost is waited for: the scheduler makes it again."""
        return [job for sweep in sweeps for job in self._open(sweep)]

    def _open(self, sweep: str) -> list[OpenJob]:
        views = {view.job_id: view for view in self.farm.jobs.sweep_jobs(sweep)}
        found = []
        for job in expected_jobs(self.farm.store, sweep):
            view = views.get(job.job_id)
            ended = view is not None and view.state.ended
            if (ended or view is None) and recorded(self.farm.store.records, job, refusals=True):
                continue
            waiting = view is None or view.state in (JobState.QUEUED, JobState.DISPATCHED)
            found.append(OpenJob(job.job_id, sweep, job.name, waiting, ended))
        return found

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs that Redis knows."""
        for job_id in job_ids:
            if self.farm.jobs.get(job_id) is not None:
                self.farm.cancel(job_id)

    def count(self, sweeps: Sequence[str]) -> Counted:
        """What came of these sweeps."""
        outcomes: dict[str, int] = {}
        unsound: dict[str, set[str]] = {}
        for record in self.farm.records(*sweeps) if sweeps else ():
            name = record.outcome.value if isinstance(record, Record) else "unreadable"
            outcomes[name] = outcomes.get(name, 0) + 1
            if isinstance(record, Record) and name not in ("ok", "unsupported"):
                unsound.setdefault(record.job.sweep_name, set()).add(name)
        return Counted(outcomes, {sweep: tuple(sorted(found)) for sweep, found in unsound.items()})

    def assess(self, night: str) -> nights.Assessment:
        """Judge the night by those before it."""
        states = {entry.device_id: entry.canary.state for entry in self.farm.devices() if entry.canary.state}
        terms = nights.Terms(thresholds=self.farm.settings.thresholds)
        return nights.assess(self.farm.store, night, canaries=states, terms=terms)

    def wanted(self, found: Any) -> int:
        """How many measurements a judgement asks for."""
        return len(cast(nights.Assessment, found).wanted)

    def confirm(self, found: Any, budget_s: float, until: datetime) -> Settled:
        """Measure what the judgement asks for."""
        return self.confirmer(self.farm, found, budget_s, until, self._say)

    def _say(self, what: str) -> None:
        """Before each turn of a measurement: what it is, and the chance to leave."""
        log.info("settling %s", what)
        self.pause(0)

    def conclude(self, found: Any, settled: Settled) -> None:
        """Write what is said of the night."""
        store = self.farm.store
        nights.write(store, nights.conclude(store, found, settled.confirmations, settled.missed))

    def names(self, events: Sequence[Event]) -> dict[str, str]:
        """What each event is about, by its id."""
        return Regressions(self.farm.store).names(events)

    def report(self, night: str) -> str:
        """Clear up old reports, write the night's, the series' pages and the index."""
        self._reports.joinpath(night).mkdir(parents=True, exist_ok=True)  # it counts among those kept
        remove_old(self._reports, self.farm.settings.nightly.keep_nights)
        self.farm.publish_nights(self._reports, [night])
        return f"{night}/index.html"

    def tell(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send a message to everybody whom the settings name."""
        figures = sorted((self._reports / str(message["night"]) / "figures").glob("*.png"))
        found = notify.targets(self.farm.settings.nightly.notify, base=config_dir(), pictures=figures)
        return notify.tell(found, message, self.pause)

    def link(self, page: str) -> str:
        """The page's URL where reports have one, else its path."""
        base = self.farm.settings.nightly.base_url
        return f"{base.rstrip('/')}/{page}" if base else str(self._reports / page)


def run(farm: Farm, asked: Asked, *, confirmer: Confirm = settle, stop: Callable[[], bool]) -> list[str]:
    """Run what is due or asked for; return the names of the nights gone through.

    Raises:
        UsageError: what is asked for cannot be had.
        UnavailableError: another process runs the nightly, or broker or store are away.
        InterruptedNightError: `stop` said so; the night goes on with the next call.
    """
    farm.store.create()
    farm.store.check_writable()
    with Holding(connect(farm.settings), NIGHT_KEY) as held:
        world = RealWorld(farm, confirmer, lambda: stop() or held.lost.is_set())
        names = run_nights(farm.store, world, farm.settings.nightly, asked, config_dir())
        compact_old(farm, lambda: world.pause(0))
        return names


def compact_old(farm: Farm, pause: Callable[[], None]) -> None:
    """Put old days into one file each, `pause` after each. What goes wrong is no fault of the night: it is logged."""
    if not farm.settings.compact_after_days:
        return
    try:
        with contextlib.closing(farm.store.compact(before_which(farm.settings.compact_after_days))) as days:
            for done in itertools.islice(days, MOST_DAYS):
                log.info("compacted %s: %d records", done.day, done.records)
                for bad in done.left:
                    log.warning("not compacted: %s: %s", bad.path, bad.problem)
                pause()
    except FarmError as error:
        log.warning("days were not compacted: %s", error.message)


def serve(farm: Farm, *, confirmer: Confirm = settle) -> None:
    """Embed Celery beat and run what is due, until SIGTERM; a night that runs then goes on with the next start."""
    from scheduler.nightly import beat

    def work() -> None:
        try:
            run(Farm(farm.settings), Asked(), confirmer=confirmer, stop=beat.told_to_end)
        except InterruptedNightError:
            beat.log.info("the night goes on when this program runs again")

    farm.store.create()
    beat.serve(farm.settings, work)


def nightly_status(farm: Farm, last: int = 10) -> Status:
    """What the nightly has done, does and will do. Without a broker nobody is known to be at work."""
    try:
        client = connect(farm.settings)
        running, serving = holder(client, NIGHT_KEY) or "", holder(client, BEAT_KEY) or ""
    except (FarmError, redis.RedisError):
        running = serving = ""
    return status(farm.store, farm.settings.nightly, datetime.now(UTC), running=running, serving=serving, last=last)
