# SPDX-License-Identifier: Apache-2.0
"""Keep a claim alive while its job runs, and end the run when the claim is lost or the job is cancelled.

The run's supervisor holds the same deadline by itself: if this process hangs or dies, the tree still ends in time.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Protocol, Self

import redis

from farm.broker.jobs import Claim, JobStore, RenewAnswer
from workers.daemon.clock import boottime

log = logging.getLogger(__name__)

#: A run ends by itself when this share of its lease has passed since the last good renewal.
FENCE_SHARE = 0.8

CANCELLED = "cancelled"
FENCED = "fenced"
EXPIRED = "lease-expired"
#: The worker has to end, or the device to stand still for maintenance: the job goes back to the line unharmed.
HANDED_BACK = "handed-back"

#: However long the lease: a person who cancels waits for the next renewal, then for the runner's grace of 2 s, and
#: the device is to be free within 5 s.
_LONGEST_PERIOD_S = 1.5


class Run(Protocol):
    """What a lease can do to a run."""

    def renew(self, deadline: float) -> None:
        """Let it go on until then (CLOCK_BOOTTIME seconds)."""

    def kill(self, reason: str) -> None:
        """End it."""


class Lease:
    """Renews from entry to exit of its `with` block. `ended` is set once the job must stop; `reason` says why."""

    def __init__(
        self, jobs: JobStore, claim: Claim, lease_s: float, claimed_at: float, drain_limit_s: float | None = None
    ) -> None:
        self._jobs = jobs
        self._claim = claim
        self._lease_s = lease_s
        self._drain_limit_s = drain_limit_s
        self._period_s = min(lease_s / 6, _LONGEST_PERIOD_S)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.deadline = claimed_at + FENCE_SHARE * lease_s
        self.ended = threading.Event()
        self.reason: str | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    @property
    def lost(self) -> bool:
        """Whether somebody else holds the job now or soon: nothing may be recorded in its name any more."""
        return self.reason in (FENCED, EXPIRED, HANDED_BACK)

    def bind(self, run: Run) -> None:
        """Let this run live and die with the lease."""
        with self._lock:
            self._run = run
            run.renew(self.deadline)
            if self.reason is not None:
                run.kill(self.reason)

    def unbind(self) -> None:
        """The run has ended."""
        with self._lock:
            self._run = None

    def end(self, reason: str) -> None:
        """Stop the job: `cancelled`, `fenced`, `lease-expired` or `handed-back`. A loss outweighs a cancellation."""
        with self._lock:
            if self.lost or self.reason == reason:
                return
            self.reason = reason
            self.ended.set()
            if self._run is not None:
                self._run.kill(reason)
        log.warning("job %s: %s", self._claim.job.job_id, reason)

    def _keep(self) -> None:
        pause_s = self._period_s
        while not self._stop.wait(pause_s) and not self.lost:
            pause_s = self._renew()

    def _renew(self) -> float:
        """Renew once; return when to try again, in seconds."""
        asked_at = boottime()
        try:
            answer = self._jobs.renew(self._claim, self._lease_s, self._drain_limit_s)
        except redis.RedisError as error:
            log.warning("job %s: the lease could not be renewed: %s", self._claim.job.job_id, error)
            if boottime() >= self.deadline:
                self.end(EXPIRED)
            return min(self._period_s, max(self._lease_s / 30, 0.05))
        if answer is RenewAnswer.FENCED:
            self.end(FENCED)
            return self._period_s
        with self._lock:
            self.deadline = asked_at + FENCE_SHARE * self._lease_s
            if self._run is not None:
                self._run.renew(self.deadline)
        if answer is RenewAnswer.CANCEL:
            self.end(CANCELLED)
        elif answer is RenewAnswer.HAND_BACK:
            self.end(HANDED_BACK)
        return self._period_s
