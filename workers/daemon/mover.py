# SPDX-License-Identifier: Apache-2.0
"""What a job leaves is moved to the store beside the next job: the spool has it, so nothing waits for the store.

A job whose records are in the spool gives its device free at once (`JobStore.settle`). It is done when the store has
them, which a thread sees to that keeps its lease meanwhile. What measures the processor waits in between: see
docs/decisions.md, "Between two jobs".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from farm.broker.jobs import Claim, JobState, JobStore
from farm.canary import is_canary
from farm.store.kept import WorkerStore
from workers.daemon.clock import boottime
from workers.daemon.lease import Lease
from workers.daemon.spool import Spool

log = logging.getLogger(__name__)

#: How long another process may be at the spool before a pass gives up.
_FLUSH_WAIT_S = 60.0
_LOOK_AGAIN_S = 0.2
#: Jobs that may wait for the store at once. Behind a line that is slower than the device, jobs wait for it after all.
MOST_SETTLING = 4


class Mover:
    """Moves a spool's entries to the store in a thread of its own, which is started when there is something to move."""

    def __init__(self, spool: Spool, store: WorkerStore) -> None:
        self._spool = spool
        self._store = store
        self._changed = threading.Condition()
        self._asked = 0
        self._done = 0
        self._thread: threading.Thread | None = None

    def poke(self) -> int:
        """Something is there to be moved. Returns a ticket for `wait`."""
        with self._changed:
            self._asked += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mover", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._asked

    def wait(self, ticket: int, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until all that was there at that `poke` is moved, or turned out not to be movable now."""
        with self._changed:
            while self._done < ticket:
                if give_up():
                    return False
                self._changed.wait(_LOOK_AGAIN_S)
        return True

    def quiet(self, stop: threading.Event) -> None:
        """Wait until nothing is being moved, or `stop` is set."""
        with self._changed:
            ticket = self._asked
        self.wait(ticket, stop.is_set)

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._asked == self._done:
                    self._changed.wait()
                ticket = self._asked
            try:
                self._spool.flush(self._store, wait_s=_FLUSH_WAIT_S)
            except Exception:
                # Whatever it is, the entries stay, and the next pass or the next worker tries again.
                log.exception("the spool %s could not be moved", self._spool.root)
            with self._changed:
                self._done = ticket
                self._changed.notify_all()


class PokingSpool(Spool):
    """A spool whose `flush` leaves the work to a mover."""

    def __init__(self, spool: Spool, mover: Mover) -> None:
        super().__init__(spool.root)
        self._mover = mover

    def flush(self, store: WorkerStore, *, wait_s: float = 0.0) -> int:
        """Ask for a pass, and do not wait for it; nothing is counted."""
        del store, wait_s
        self._mover.poke()
        return 0


class SettlingJobs(JobStore):
    """Job states whose `finish` lets the device go at once, and ends the job when its records are in the store."""

    def __init__(self, client: redis.Redis, mover: Mover, lease_s: float) -> None:
        super().__init__(client)
        self._mover = mover
        self._lease_s = lease_s
        self._threads: list[threading.Thread] = []

    def finish(self, claim: Claim, state: JobState, summary: dict[str, Any], *, owed: bool = False) -> bool:
        """End the job, sooner or later; False when fenced.

        What decides on the device's next job is not put off: a failure, and a canary.
        """
        if state is not JobState.DONE or is_canary(claim.job):
            self._mover.wait(self._mover.poke())
            return super().finish(claim, state, summary, owed=owed)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= MOST_SETTLING:
            self._threads[0].join()
        if not self.settle(claim, summary.get("outcomes", {})):
            # Fenced, or ended before by this very claim: `finish` tells the two apart.
            return super().finish(claim, state, summary, owed=owed)
        thread = threading.Thread(
            target=self._end, args=(claim, state, summary, owed), name=f"settle-{claim.job.job_id}", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        return True

    def join(self) -> None:
        """Wait for all jobs that are not done yet."""
        for thread in self._threads:
            thread.join()

    def _end(self, claim: Claim, state: JobState, summary: dict[str, Any], owed: bool) -> None:
        ticket = self._mover.poke()
        # Renewed just now by the job's own lease, and cut off as early as if that had been a whole period ago.
        with Lease(self, claim, self._lease_s, boottime() - self._lease_s / 6) as lease:
            self._mover.wait(ticket, lambda: lease.lost)
            while not lease.lost:
                try:
                    kept = super().finish(claim, state, summary, owed=owed)
                except redis.RedisError as error:
                    log.warning("job %s could not be finished yet: %s", claim.job.job_id, error)
                    if boottime() >= lease.deadline:
                        return
                    time.sleep(1.0)
                    continue
                log.info("job %s: %s", claim.job.job_id, state if kept else "lost")
                return
        log.warning("job %s lost its claim while its records were moved; they stay", claim.job.job_id)
