# SPDX-License-Identifier: Apache-2.0
"""Celery beat and the worker that hears it, in one process: `farm nightly run --serve`.

A tick says only: look what is due. What is due comes from the nights' documents, so a tick that is lost, late or sent
twice does no harm. Beat keeps no schedule file, which could be damaged or shared; what it does not remember, the
documents tell. It runs as a thread: as a process it would outlive this one's sudden death, and tick beside the next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from celery import Celery
from celery import signals as celery_signals
from celery.beat import EmbeddedService, Scheduler
from celery.schedules import BaseSchedule
from celery.worker import state as worker_state

from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url, connect
from farm.contract.names import NIGHTLY_QUEUE, TASK_NIGHTLY
from farm.errors import FarmError
from farm.settings import Settings
from farm.times import Times
from scheduler.nightly.lock import BEAT_KEY, Holding

log = logging.getLogger("inferfarm.nightly")

#: A tick that was lost with the broker is made up for after so long.
AT_LEAST_EVERY = timedelta(minutes=10)
_LOOK_S = 1.0


class NightTimes(BaseSchedule):  # type: ignore[misc]
    """The schedule of beat's only entry: the nights' times, and a tick now and then between, unless a night runs."""

    def __init__(self, times: Times, busy: Callable[[], bool] = lambda: False, **given: Any) -> None:
        super().__init__(**given)
        self.times = times
        self.busy = busy

    def next_after(self, last: datetime) -> datetime:
        """When the next tick is, `last` being when the last one was."""
        following = self.times.following(last)
        again = last + AT_LEAST_EVERY
        return min(following, again) if following else again

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Beat's question: is a tick due, and in how many seconds is the next one?"""
        now = datetime.now(UTC)
        left = (self.next_after(self.maybe_make_aware(last_run_at).astimezone(UTC)) - now).total_seconds()
        if left > 0 or self.busy():
            return False, max(left, _LOOK_S)
        return True, max((self.next_after(now) - now).total_seconds(), _LOOK_S)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NightTimes) and other.times == self.times

    def __hash__(self) -> int:
        return hash(self.times)


def build(settings: Settings, url: str, run: Callable[[], None], busy: threading.Event) -> Celery:
    """The application with its one task and one entry of beat."""
    app = make_app(settings, url)
    app.conf.update(
        worker_pool="solo",
        # Nobody needs to ask this worker anything: `farm nightly status` reads the documents.
        worker_enable_remote_control=False,
        timezone="UTC",
        enable_utc=True,
        beat_schedule={
            "nightly": {
                "task": TASK_NIGHTLY,
                "schedule": NightTimes(settings.nightly.times, busy.is_set, app=app),
                "options": {"queue": NIGHTLY_QUEUE},
            }
        },
    )
    app.conf.broker_transport_options |= {"unacked_key": f"unacked.{NIGHTLY_QUEUE}"}
    for part in ("index", "mutex"):
        app.conf.broker_transport_options[f"unacked_{part}_key"] = f"unacked_{part}.{NIGHTLY_QUEUE}"

    @app.task(name=TASK_NIGHTLY, ignore_result=True)  # type: ignore[untyped-decorator]
    def nightly() -> None:
        busy.set()
        try:
            run()
        except (FarmError, redis.RedisError) as error:
            log.error("the nightly could not work, the next tick tries again: %s", error)
        finally:
            busy.clear()

    return app


def told_to_end() -> bool:
    """Whether Celery's worker of this process was told to end; its signal handlers only enter that."""
    return worker_state.should_stop is not None or worker_state.should_terminate is not None


def serve(settings: Settings, run: Callable[[], None]) -> None:
    """Tick and listen until SIGTERM; `run` does what is due, and is only called in this thread.

    Raises:
        UnavailableError: the broker is away, or another process has the beat.
    """
    url = broker_url(settings)
    client = connect(settings, url=url)
    busy = threading.Event()
    with Holding(client, BEAT_KEY) as held:
        app = build(settings, url, run, busy)
        beat = EmbeddedService(app, thread=True, scheduler_cls=Scheduler)

        def begin(**_given: Any) -> None:
            beat.start()
            threading.Thread(target=_guard, args=(beat, held), name="guard", daemon=True).start()
            # What was due while nothing ran is due now.
            app.send_task(TASK_NIGHTLY, queue=NIGHTLY_QUEUE, ignore_result=True)

        celery_signals.worker_ready.connect(begin, weak=False)
        log.info("nightly at work: %s, reports in %s", settings.nightly.times.text, settings.nightly_report_dir)
        try:
            app.worker_main(_WORDS)
        finally:
            celery_signals.worker_ready.disconnect(begin)
            beat.stop()
            app.close()


_WORDS = [
    "worker",
    "--pool=solo",
    "--concurrency=1",
    "--without-gossip",
    "--without-mingle",
    "--loglevel=INFO",
    "--hostname=nightly@%h",
    f"--queues={NIGHTLY_QUEUE}",
]


def _guard(beat: threading.Thread, held: Holding) -> None:
    """End this process where its beat has ended or another one has it: a supervisor starts it again."""
    while beat.is_alive() and not held.lost.wait(_LOOK_S):
        pass
    if not told_to_end():
        log.error("the beat has ended; ending this process")
        worker_state.should_stop = 1
