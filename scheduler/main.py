# SPDX-License-Identifier: Apache-2.0
"""The scheduler's loop: sleep until something changed, put things in order, hand out work."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, cast

import redis
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from farm.broker.canaries import CanaryBook
from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url, connect
from farm.broker.jobs import JobStore, Message
from farm.broker.register import Register
from farm.contract.names import TASK_RUN_JOB
from farm.errors import FarmError
from farm.settings import Settings
from farm.store import Store
from scheduler.canary import Canaries
from scheduler.dispatch import Send, one_pass, quick_pass, read_slots, standing
from scheduler.failing import quarantine_failing
from scheduler.leader import Leader
from scheduler.maintenance import see_to_maintenance
from scheduler.match import working
from scheduler.reconcile import SETTLE_S, Resender, end_leases, rebuild, recall_from_absent, settle

log = logging.getLogger("inferfarm.scheduler")

WAKE_KEY = "farm:wake"
#: Written once the stored sweeps have been queued. A Redis without it is new, or lost what it had.
REBUILT_KEY = "farm:rebuilt"

_WAIT_S = 1.0
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)


class Scheduler:
    """One farm's scheduler. `tick` does all there is to do now; `wait` sleeps until there may be more."""

    def __init__(
        self, settings: Settings, client: redis.Redis, store: Store, send: Send, message: Message | None = None
    ) -> None:
        self._settings = settings
        self._redis = client
        self._store = store
        self._send = send
        self._jobs = JobStore(client, message)
        self._register = Register(client)
        self._resender = Resender()
        self._canaries = Canaries(settings, store, self._jobs, self._register, CanaryBook(client))
        self._emptied_s: float | None = None
        self._fit: dict[str, tuple[object, ...]] = {}
        self._unsettled = False

    def wait(self) -> bool:
        """Sleep until something changed, for a second at most: leases end and devices go offline without a word.

        Whether something changed.
        """
        # The client's own timeout (a tenth of the lease) must not cut the wait short.
        timeout_s = max(min(_WAIT_S, self._settings.lease_s / 20), 0.01)
        if self._unsettled:
            timeout_s = 0.01
        return self._redis.blpop([WAKE_KEY], timeout=timeout_s) is not None

    def hurry(self) -> None:
        """Something changed: give idle devices work before all else is put in order. Raises as `tick`."""
        if self._fit:
            quick_pass(self._jobs, self._register.devices(self._fit), self._fit, self._send, self._settings.window)

    def tick(self) -> None:
        """Reconcile, then dispatch.

        Raises:
            redis.RedisError, kombu.exceptions.OperationalError: Redis went away; the next tick goes on from there.
        """
        self._rebuild_if_emptied()
        now_s = self._register.now_s()
        end_leases(self._jobs, self._settings.max_attempts)
        entries = self._register.devices()
        if quarantine_failing(self._jobs, self._register, entries, self._settings.device_failures_quarantine):
            entries = self._register.devices()
        if see_to_maintenance(self._register, self._jobs, entries, now_s, canary=self._settings.canary):
            entries = self._register.devices()
        recall_from_absent(self._jobs, entries)
        slots = read_slots(self._jobs, entries)
        self._resender.resend(slots, self._send, now_s)
        self._canaries.tick(entries, now_s)
        windows = {slot.device_id: slot.window for slot in slots}
        one_pass(self._jobs, self._register, self._send, self._settings.window, windows)
        self._fit = {entry.device_id: standing(entry) for entry in entries if working(entry)}
        # Last, and a bit at a time: a store is slow, and devices wait for nothing that is done here.
        began = time.monotonic()
        left = settle(self._jobs, self._store, now_s)
        self._unsettled = left > 0 and time.monotonic() - began >= SETTLE_S

    def _rebuild_if_emptied(self) -> None:
        if self._redis.exists(REBUILT_KEY):
            return
        if self._emptied_s is None:
            self._emptied_s = time.time()
            log.info("this Redis is new or lost its data: reading the stored sweeps")
        if not self._store.sweeps.root.is_dir():
            return  # Not there yet, or its mount is away: then it must not pass for empty.
        try:
            added = rebuild(self._store, self._jobs, self._emptied_s)
        except FarmError as error:
            log.error("stored sweeps cannot be read, will try again: %s", error)
            return
        log.info("read the stored sweeps: jobs queued again=%d", added)
        self._redis.set(REBUILT_KEY, int(time.time()))
        self._emptied_s = None


def sender(app: Celery) -> Send:
    """Send messages that name a job. `shadow` gives Flower and `celery inspect` the job's name."""
    retry = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.3}

    def send(job_id: str, queue: str, name: str) -> None:
        app.send_task(
            TASK_RUN_JOB, args=[job_id], queue=queue, shadow=name, ignore_result=True, retry=True, retry_policy=retry
        )

    return send


def writer(app: Celery) -> Message:
    """Write messages that name a job, as `sender` would send them, for the script that hands the job out."""
    # A line that ends in this process: what Celery and kombu make of a message is taken out again at once.
    line = Connection("memory://")

    def write(job_id: str, queue: str, name: str) -> str:
        app.send_task(
            TASK_RUN_JOB, args=[job_id], queue=queue, shadow=name, ignore_result=True, connection=line, retry=False
        )
        return json.dumps(line.default_channel._get(queue))

    return write


def serve(settings: Settings, stop: threading.Event | None = None) -> None:
    """Schedule until SIGTERM or SIGINT, or until `stop` is set.

    Raises:
        UnavailableError: the broker does not answer at the start, or another scheduler is at work.
    """
    _log_to_stderr()
    stop = stop or _stop_on_signals()
    url = broker_url(settings)
    client = connect(settings, url=url)
    leader = Leader(client)
    leader.hold()
    app = make_app(settings, url)
    log.info("scheduler at work, window=%d store=%s", settings.window, settings.store_dir)
    try:
        _loop(Scheduler(settings, client, Store(settings.store_dir), sender(app), writer(app)), leader, stop)
    finally:
        _leave(leader, client)
        app.close()
    log.info("scheduler stopped")


def _loop(scheduler: Scheduler, leader: Leader, stop: threading.Event) -> None:
    failures = 0
    while not stop.is_set():
        try:
            leader.keep(sure=not failures)
            scheduler.tick()
            if failures:
                log.info("the broker is back")
            failures = 0
            if scheduler.wait():
                scheduler.hurry()
        except (redis.RedisError, OperationalError) as error:
            pause_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
            log.warning("the broker is away or refuses, next try in %.1f s: %s", pause_s, error)
            failures += 1
            stop.wait(pause_s)


def _leave(leader: Leader, client: redis.Redis) -> None:
    try:
        leader.free()
    except redis.RedisError as error:
        log.info("the lock was not given back, it ends by itself: %s", error)
    client.close()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, cast(Any, handle))
    return stop


def _log_to_stderr() -> None:
    """Log to stderr, unless whoever called has set logging up already."""
    if not log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
