# SPDX-License-Identifier: Apache-2.0
"""Jobs that are tried again, and what is recorded of those that were cancelled."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from farm.broker.jobs import JobState, JobStore, JobView
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.errors import UnavailableError
from farm.store import Store

#: Outcomes that `retry` runs again unless told otherwise: refusals would only be refused again.
RETRY_OUTCOMES = (
    Outcome.FAILED,
    Outcome.CRASHED,
    Outcome.TIMED_OUT,
    Outcome.LOST,
    Outcome.CONTAMINATED,
    Outcome.CANCELLED,
    Outcome.OUT_OF_MEMORY,
)


def retry(store: Store, jobs: JobStore, view: JobView, outcomes: Sequence[Outcome]) -> bool:
    """Queue again those runs of an ended job that ended with one of `outcomes`; whether there were any.

    Only those points are measured again, under a new generation.
    """
    spec = view.spec
    wanted = {size for size in spec.batches.sizes if _outcome(store, spec, spec.run_id(size)) in outcomes}
    accuracy = spec.accuracy if _outcome(store, spec, spec.accuracy_run_id) in outcomes else None
    if accuracy is not None:
        # It is taken with a point that is ok, so the one that it was taken with is measured again beside it.
        wanted.add(_accuracy_batch(store, spec) or spec.batches.sizes[0])
    if not wanted:
        return False
    ladder = dataclasses.replace(spec.batches, sizes=tuple(sorted(wanted)))
    again = dataclasses.replace(spec, generation=spec.generation + 1, batches=ladder, accuracy=accuracy)
    return jobs.retry(again) == JobState.QUEUED


def record_cancelled(store: Store, jobs: JobStore, view: JobView) -> None:
    """Record a job that was cancelled while it waited: else a Redis that lost its data would queue it again."""
    from scheduler.records import cancelled_records, utc_now

    # Where the store is away the scheduler writes them later: the job is owed its records.
    with contextlib.suppress(UnavailableError):
        for record in cancelled_records(view.spec, view.attempt, utc_now()):
            store.records.write(record)
        jobs.settled(view.job_id)


def _accuracy_batch(store: Store, spec: JobSpec) -> int | None:
    """The batch size at which a job's accuracy was taken, if it was."""
    known = store.records.exists(spec.accuracy_run_id)
    return store.records.read(spec.accuracy_run_id).batch_size if known else None


def _outcome(store: Store, spec: JobSpec, run_id: str) -> Outcome | None:
    """How a run ended; a job that was given up has one record for all of its runs."""
    for known in (run_id, spec.run_id(None)):
        if store.records.exists(known):
            return store.records.read(known).outcome
    return None
