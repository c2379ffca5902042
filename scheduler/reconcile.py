# SPDX-License-Identifier: Apache-2.0
"""Bring what Redis says back in line with the world: dead leases, lost messages, absent devices, an emptied Redis."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from farm.broker.jobs import WORKERS_KILLED, JobState, JobStore, JobView
from farm.broker.register import DeviceEntry
from farm.canary import is_canary_sweep
from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import JobSpec
from farm.contract.names import check_sha256, device_queue
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import BlobRef, Record
from farm.errors import FarmError, IntegrityError, UnavailableError
from farm.store import Store
from farm.sweep import SweepSpec
from scheduler.choose import Slot
from scheduler.dispatch import Send, recall_all
from scheduler.expand import jobs_at
from scheduler.learn import learn
from scheduler.learned import Predictor
from scheduler.match import working
from scheduler.records import cancelled_records, recorded, utc_now

log = logging.getLogger("inferfarm.scheduler")

#: A message is taken within milliseconds by a worker that is free.
RESEND_AFTER_S = 10.0
#: What workers may name of a lost attempt; see `workers.daemon.attempts`.
_LOG_KIND = re.compile(r"(log|failure):attempt-\d{1,6}")
#: How long the record of a job that was given up waits for logs of its attempts. A worker that is told that it lost its
#: claim, or that starts anew, brings them within seconds; a host that stays away must not keep a job without a record.
LOGS_WAIT_S = 30.0
#: How long records are written before devices that wait are looked after: a sweep of 100,000 jobs may be cancelled.
SETTLE_S = 0.1
#: A worker that takes no messages is not helped by more of them.
RESEND_AT_MOST_S = 600.0


@dataclass(frozen=True)
class Outstanding:
    """What is left to do of a stored sweep."""

    spec: SweepSpec
    jobs: tuple[JobSpec, ...]


def outstanding(store: Store, before_s: float = math.inf) -> Iterator[Outstanding]:
    """Every stored sweep with jobs that have no results: what must be queued again when Redis lost everything.

    A stored sweep knows the places it was submitted to, so this needs no device to be there yet, and a device that
    joined later gets no old work. Sweeps that cannot be read are logged and passed over, as are those submitted at
    `before_s` (Unix seconds) or later: whoever submits them queues them. A canary is not made up for either.
    """
    for document in store.sweeps.list():
        if document.get("submitted_at", 0.0) >= before_s or is_canary_sweep(document):
            continue
        try:
            spec = SweepSpec.from_document(document)
            jobs = jobs_at(spec, document.get("places", ()), document.get("narrowed", {}))
            left = tuple(job for job in jobs if not recorded(store.records, job, refusals=True))
        except (IntegrityError, ValueError) as error:
            log.error("stored sweep passed over: %s", error)
            continue
        if left:
            yield Outstanding(spec, left)


def rebuild(store: Store, jobs: JobStore, before_s: float = math.inf) -> int:
    """Queue all outstanding work again; harmless where it is queued. Returns how many jobs were added."""
    added = 0
    predict: Predictor | None = None
    for left in outstanding(store, before_s):
        predict = predict or learn(store, WORKFLOWS)
        predicted = [predict.predicted_s(job) for job in left.jobs]
        new = jobs.submit(left.spec.sweep_id, left.spec.name, left.spec.priority, left.jobs, predicted)
        if new:
            log.warning("queued again sweep=%s jobs=%d", left.spec.sweep_id, new)
        added += new
    return added


def recall_from_absent(jobs: JobStore, entries: Iterable[DeviceEntry]) -> list[str]:
    """Take dispatched jobs back from devices that are offline, drained or quarantined, for others of their class."""
    absent = jobs.windows([entry.device_id for entry in entries if not working(entry)])
    waiting = [view.job_id for window in absent.values() for view in window if view.state is JobState.DISPATCHED]
    return recall_all(jobs, waiting)


def end_leases(jobs: JobStore, max_attempts: int) -> list[tuple[str, JobState]]:
    """Deal with leases that ended."""
    ended = jobs.reap(max_attempts)
    for job_id, state in ended:
        log.warning("lease ended job=%s now=%s", job_id, state)
    return ended


def settle(jobs: JobStore, store: Store, now_s: float = math.inf) -> int:
    """Write the records of jobs that ended outside of any worker; return how many of those looked at still wait.

    No cell of a table is just empty. `now_s`: Redis's clock, Unix seconds; the record of a job that is given up waits a
    little for its attempts' logs.

    What is owed stays in Redis until it is written: a store that is away, or a scheduler that dies, costs only time.
    """
    owed, until = jobs.owed(), time.monotonic() + SETTLE_S
    for done, view in enumerate(owed):
        if done and time.monotonic() > until:
            return len(owed) - done
        if awaits_logs(view, now_s):
            continue
        try:
            if not recorded(store.records, view.spec, refusals=True):
                for record in owed_records(view, utc_now(), stored_logs(view, store)):
                    store.records.write(record)
        except UnavailableError as error:
            log.warning("%d job(s) wait for their records, the store is away: %s", len(owed) - done, error.message)
            return len(owed) - done
        except FarmError as error:
            log.error("no record of job=%s: %s", view.job_id, error)
        jobs.settled(view.job_id)
    return 0


def stored_logs(view: JobView, store: Store) -> list[BlobRef]:
    """What the lost attempts left and the store has. Workers wrote it, so all but what it should be is left out."""
    found = []
    for told in view.logs:
        kind, sha256, size = (told.get(name) for name in ("kind", "sha256", "size_bytes"))
        if isinstance(kind, str) and _LOG_KIND.fullmatch(kind) and isinstance(size, int) and 0 <= size < 2**53:
            with contextlib.suppress(ValueError):
                # A record must not name a blob that is not there.
                if store.blobs.exists(check_sha256(str(sha256))):
                    found.append(BlobRef(kind, str(sha256), size))
    return sorted(found, key=lambda ref: (ref.kind, ref.sha256))


def awaits_logs(view: JobView, now_s: float) -> bool:
    """Whether the record of a job that was given up should wait: a worker that was cut off may bring a log. Pure."""
    if view.state is not JobState.QUARANTINED:
        return False
    kept = {str(ref.get("kind")) for ref in view.logs}
    # A worker that died has another one in its place, which brought what there was before it ended the lease.
    cut_off = [lost for lost in view.lost if lost.get("how") != "worker died"]
    missing = any(f"log:attempt-{lost.get('attempt')}" not in kept for lost in cut_off)
    return missing and now_s - view.times.get(view.state, 0.0) < LOGS_WAIT_S


def owed_records(view: JobView, now: str, logs: Sequence[BlobRef] = ()) -> list[Record]:
    """What to record of a job that no worker recorded; nothing if it has been queued again since. Pure.

    `logs` are what its lost attempts left.
    """
    if view.state is JobState.CANCELLED:
        return cancelled_records(view.spec, view.attempt, now)
    if view.state is JobState.QUARANTINED:
        return [replace(lost_record(view, now), artifacts=list(logs))]
    if view.state is JobState.FAILED:
        message = f"the farm itself failed: {view.summary.get('error', 'without a word')}"
        hint = "Look at the worker's log and its disk; then `farm retry` the job."
        failure = Failure("start", "farm-error", message, hint)
        return [Record(view.spec.run_id(None), Outcome.FAILED, view.spec, None, view.attempt, now, now, failure)]
    return []


def lost_record(view: JobView, now: str) -> Record:
    """The record of a job that was given up: it killed its workers, or every attempt vanished with its worker."""
    job, attempts = view.spec, view.attempt
    if view.kills >= WORKERS_KILLED:
        reference = "killed-its-worker"
        message = f"job {job.job_id} ({job.name}) was running each of the {view.kills} times its worker died"
        hint = "Run it by itself on a machine that may fail, and look at `dmesg` there; then `farm retry` the job."
    else:
        reference = "attempts-exhausted"
        message = f"{attempts} attempts ended without a word: each time the worker or its machine died or was cut off"
        hint = "See the worker's log and the machine's for that time; then `farm retry` the job."
    failure = Failure("start", reference, message, hint, "\n".join(map(_told, view.lost)) or None)
    return Record(job.run_id(None), Outcome.LOST, job, None, attempts, now, now, failure, ladder_stop="lost")


def _told(lost: Mapping[str, Any]) -> str:
    how = "its worker died" if lost.get("how") == "worker died" else "its lease ended"
    try:
        at = datetime.fromtimestamp(float(lost.get("at", 0)) / 1000, UTC).isoformat(timespec="seconds")
    except (TypeError, ValueError, OverflowError, OSError):
        at = "at a time that was not kept"
    return f"attempt {str(lost.get('attempt'))[:20]} on {str(lost.get('device'))[:200]}: {how}, {at}"


class Resender:
    """Sends messages again that were lost on the way. Remembers when it did, and waits longer each time."""

    def __init__(self, after_s: float = RESEND_AFTER_S) -> None:
        self._after_s = after_s
        self._waits: dict[str, tuple[float, float]] = {}
        self._busy_s: dict[str, float] = {}

    def resend(self, slots: Sequence[Slot], send: Send, now_s: float) -> list[str]:
        """Send again what `lost` names and was not just sent; return the job ids. `now_s` is Redis's time."""
        for slot in slots:
            if len(slot.window) > len(slot.dispatched):
                self._busy_s[slot.device_id] = now_s
        found = {
            job_id: (slot, name)
            for slot in slots
            for job_id, name in lost(slot, now_s, self._after_s, self._busy_s.get(slot.device_id, 0.0))
        }
        self._waits = {job_id: wait for job_id, wait in self._waits.items() if job_id in found}
        done = []
        for job_id, (slot, name) in found.items():
            last_s, wait_s = self._waits.get(job_id, (0.0, 0.0))
            if now_s - last_s < wait_s:
                continue
            send(job_id, device_queue(slot.device_id), name)
            log.warning("sent again job=%s name=%s device=%s", job_id, name, slot.device_id)
            self._waits[job_id] = (now_s, min(max(2 * wait_s, self._after_s), RESEND_AT_MOST_S))
            done.append(job_id)
        return done


def lost(slot: Slot, now_s: float, after_s: float, busy_s: float = 0.0) -> list[tuple[str, str]]:
    """Dispatched jobs whose message must be lost, as (id, name). `busy_s`: when the device was last seen at work.

    Messages of one queue arrive in order. So one is lost if the device has been idle for `after_s`, since it was sent
    and since its last job, or if a job that was sent later has been claimed.
    """
    claimed = [view for view in slot.window if view.state is not JobState.DISPATCHED]
    latest_claimed_s = max((view.times.get("dispatched", 0.0) for view in claimed), default=0.0)
    found = []
    for view in slot.dispatched:
        sent_s = view.times.get("dispatched", 0.0)
        idle = not claimed and now_s - max(sent_s, busy_s) > after_s
        if idle or (sent_s < latest_claimed_s and now_s - sent_s > after_s):
            found.append((view.job_id, view.name))
    return found
