# SPDX-License-Identifier: Apache-2.0
"""One point: its processes one after the other, each again where its doubts may pass, until no other is needed.

Nothing of it is kept until it is complete: if the worker dies, the processes of this point, and no others, are made
again by the next attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from farm.contract.outcome import Outcome
from farm.thresholds import DEFAULTS, Limits
from workers.daemon.collect import Collected
from workers.daemon.ladder import Run
from workers.daemon.merge import Made, merge
from workers.daemon.replicate import Ended, Replication, ended
from workers.daemon.retry import Retries, try_facts


class Point:
    """The processes of one point.

    Args:
        wanted: how many are asked for.
        make: starts one, stays with it to its end and says what came of it.
        retries: the second tries of the job.
        stopped: whether the job was cancelled or lost.
        limits: where doubts begin.
        clock: seconds, for the budget of the processes.
    """

    def __init__(
        self,
        wanted: Replication,
        make: Callable[[Run], Collected],
        retries: Retries,
        stopped: Callable[[], bool],
        limits: Limits = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = wanted
        self._make = make
        self._retries = retries
        self._stopped = stopped
        self._limits = limits
        self._clock = clock
        self._second_tries = 0

    def measure(self, what: Run) -> Collected:
        """Make the processes that the point needs, and its record."""
        began, made = self._clock(), list[Made]()
        while True:
            made.append(self._process(replace(what, process=len(made) + 1)))
            why = self._ended(made, self._clock() - began)
            if why is not None:
                return merge(self._wanted, made, why, self._limits)

    def _ended(self, made: list[Made], spent_s: float) -> Ended | None:
        if made[-1].record.outcome is not Outcome.OK:
            return Ended.NOT_OK
        medians = [process.record.metrics.get("latency_ms") for process in made]
        why = ended(self._wanted, medians, spent_s)
        # What was complete when the job was cancelled is a result.
        return Ended.CANCELLED if why is None and self._stopped() else why

    def _process(self, what: Run) -> Made:
        """One process; the last try counts, whatever it says."""
        earlier: list[dict[str, Any]] = []
        while True:
            collected = self._make(what)
            again = self._retries.again(collected.record, len(earlier) + 1, self._second_tries)
            if self._stopped() or not again:
                self._second_tries += len(earlier)
                return Made(collected, earlier)
            earlier.append(try_facts(collected.record))
