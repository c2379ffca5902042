# SPDX-License-Identifier: Apache-2.0
"""What of a job is on record already, and the records of runs that never were: refusals and cancellations."""

from __future__ import annotations

from datetime import UTC, datetime

from farm.contract.job import JobSpec
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import ACCURACY, Record
from farm.errors import IntegrityError
from farm.store import RecordStore
from scheduler.match import Refused

MATCH = "match"


def utc_now() -> str:
    """Now, as records write it: UTC, ISO 8601, with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def recorded(records: RecordStore, job: JobSpec, *, refusals: bool) -> bool:
    """Whether a job has its results: its accuracy, and every point of its ladder or those up to where the ladder ended.

    With `refusals`, a refusal counts as a result; without, it does not: what was refused may be possible by now.
    """
    whole = _read(records, job.run_id(None))
    if whole is not None and (refusals or whole.failure is None or whole.failure.stage != MATCH):
        return True
    if job.accuracy and not records.exists(job.accuracy_run_id):
        return False
    done = [size for size in job.batches.sizes if records.exists(job.run_id(size))]
    if len(done) == len(job.batches.sizes):
        return True
    last = _read(records, job.run_id(done[-1])) if done else None
    return last is not None and last.ladder_stop is not None


def _read(records: RecordStore, run_id: str) -> Record | None:
    """A record, or None if there is none or it is damaged: then the run is made again."""
    try:
        return records.read(run_id) if records.exists(run_id) else None
    except IntegrityError:
        return None


def refusal_record(refused: Refused, now: str) -> Record:
    """The record of a case that could not be matched: it never ran, and this says why."""
    refusal = refused.refusal
    failure = Failure(stage=MATCH, reference=refusal.reference, message=refusal.reason, hint=refusal.hint)
    job = refused.job
    return Record(job.run_id(None), Outcome.UNSUPPORTED, job, None, 0, now, now, failure, ladder_stop="unsupported")


def cancelled_records(job: JobSpec, attempt: int, now: str) -> list[Record]:
    """The records of a job that was cancelled while it waited: one for each point, so that no cell is just empty."""
    failure = Failure(
        "start", "cancelled", "the job was cancelled before it started", "`farm retry` runs it after all."
    )
    last = job.batches.sizes[-1]
    found = [
        Record(
            job.run_id(size), Outcome.CANCELLED, job, size, attempt, now, now, failure,
            ladder_stop="cancelled" if size == last else None, point=job.ladder_point,
        )
        for size in job.batches.sizes
    ]  # fmt: skip
    if job.accuracy:
        record = Record(job.accuracy_run_id, Outcome.CANCELLED, job, None, attempt, now, now, failure, point=ACCURACY)
        found.append(record)
    return found
