# SPDX-License-Identifier: Apache-2.0
"""The jobs of one sweep, looked at again and again: what cannot have changed is not read again.

The first look reads all jobs. A later one reads those that were at a device, or are now; the sweep's counts by state
say whether that was all. Where it was not (a job that came and went between two looks, a cancellation) it reads the
states of those that had not ended, and where jobs were added or tried again, all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from farm.broker.jobs import JobStore
from farm.broker.views import JobState, JobView


class Follower:
    """Follows one sweep. Raises as `JobStore` does."""

    def __init__(self, jobs: JobStore, sweep_id: str) -> None:
        self._jobs = jobs
        self._sweep_id = sweep_id
        self._known: dict[str, JobView] = {}

    def look(self) -> list[JobView]:
        """The jobs as they are now, in their order."""
        if not self._known or not self._caught_up():
            self._known = {view.job_id: view for view in self._jobs.sweep_jobs(self._sweep_id)}
        return list(self._known.values())

    def _caught_up(self) -> bool:
        """Read what may have changed; False where that means everything."""
        at_work = [job_id for job_id, view in self._known.items() if not view.state.ended and not _waits(view)]
        self._read({*at_work, *(job_id for job_id in self._jobs.at_devices() if job_id in self._known)})
        # Asked after the jobs: what ends in between is in the counts and not yet known, never the other way round.
        counts = self._jobs.counts(self._sweep_id)
        if self._agrees(counts):
            return True
        if self._is_stale(counts):
            return False
        states = self._jobs.states([job_id for job_id, view in self._known.items() if not view.state.ended])
        self._read(job_id for job_id, state in states.items() if state != self._known[job_id].state)
        return True

    def _read(self, job_ids: Iterable[str]) -> None:
        for view in self._jobs.views(job_ids):
            self._known[view.job_id] = view

    def _agrees(self, counts: Mapping[str, int]) -> bool:
        return Counter(str(view.state) for view in self._known.values()) == Counter(counts)

    def _is_stale(self, counts: Mapping[str, int]) -> bool:
        """Whether jobs came to the sweep, or ended ones were tried again."""
        ended = sum(count for state, count in counts.items() if JobState(state).ended)
        return sum(counts.values()) != len(self._known) or ended < sum(v.state.ended for v in self._known.values())


def _waits(view: JobView) -> bool:
    return view.state is JobState.QUEUED
