# SPDX-License-Identifier: Apache-2.0
"""Which jobs of a sweep a person is shown first: a sweep may have a hundred thousand. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from farm.broker.views import JobState

#: What is at work, then what went wrong, then what waits, then what is over.
_ORDER = (
    JobState.RUNNING,
    JobState.CLAIMED,
    JobState.FAILED,
    JobState.QUARANTINED,
    JobState.DISPATCHED,
    JobState.QUEUED,
    JobState.DONE,
    JobState.CANCELLED,
)


def shown_first(
    states: Mapping[str, JobState], wanted: Collection[JobState] = (), limit: int | None = None
) -> list[str]:
    """The ids of the jobs in one of the `wanted` states (none named: in any), `limit` of them at most.

    `states` is in the sweep's order, and so are those of one state.
    """
    chosen = [job_id for job_id, state in states.items() if not wanted or state in wanted]
    if limit is None or len(chosen) <= limit:
        return chosen
    return sorted(chosen, key=lambda job_id: _ORDER.index(states[job_id]))[:limit]
