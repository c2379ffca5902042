# SPDX-License-Identifier: Apache-2.0
"""What watchers are told of one job: which of its runs it is at, at which stage, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from farm.contract.job import JobSpec
from workers.daemon import lock
from workers.daemon.clock import unix_time
from workers.daemon.ladder import PREPARE, Run
from workers.daemon.replicate import replication
from workers.daemon.reporter import Reporter
from workers.daemon.stages import StageClock


class Teller:
    """Words the progress of `job` for `reporter`; `outcomes` counts the runs that have ended."""

    def __init__(self, job: JobSpec, reporter: Reporter, outcomes: Callable[[], Mapping[str, int]]) -> None:
        self._job = job
        self._reporter = reporter
        self._outcomes = outcomes
        self._wanted = replication(job.protocol)

    def at_stage(self, what: Run, clock: StageClock) -> None:
        """A runner is at work."""
        self._say(clock.stage, what, unix_time(clock.since_ns), fraction=clock.fraction)

    def waits_for_host(self, what: Run, note: str) -> None:
        """Other work has to end, or the device to cool down."""
        self._say("wait_idle", what, time.time(), note=note)

    def waits_for_device(self, holder: lock.Holder | None, waited_s: float) -> None:
        """Somebody else has the device."""
        note = f"waiting for the device, held by {holder or 'an unknown process'}"
        self._say("wait_device", PREPARE, time.time() - waited_s, note=note)

    def _say(self, stage: str, what: Run, since: float, **more: Any) -> None:
        runs, own = self._job.run_ids(), what.run_id(self._job)
        one_of_several = what.mode == "measure" and self._wanted.several
        self._reporter.tell(
            {
                "stage": stage,
                "batch_size": what.batch_size,
                "point": runs.index(own) + 1 if own in runs else 0,
                "points": len(runs),
                "process": self._wanted.label(what.process) if one_of_several else None,
                "fraction": None,
                "since": since,
                "outcomes": self._outcomes(),
                **more,
            }
        )
