# SPDX-License-Identifier: Apache-2.0
"""The runs of one job: those that earlier attempts recorded, those recorded now, and what comes next."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from farm.contract.job import JobSpec
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import ACCURACY, Record
from farm.errors import FarmError
from farm.store.kept import WorkerStore
from workers.daemon.clock import utc_now
from workers.daemon.collect import Collected, JobFacts, RunFacts, not_run
from workers.daemon.ladder import AccuracyStep, Point, Stop, accuracy_step, next_step
from workers.daemon.spool import Spool

log = logging.getLogger(__name__)

_FLUSH_WAIT_S = 60.0


class Ledger:
    """Keeps each run in the spool, then in the store, and counts it."""

    def __init__(self, job: JobSpec, spool: Spool, store: WorkerStore) -> None:
        self._job = job
        self._spool = spool
        self._store = store
        self._points: list[Point] = []
        self._accuracy: Outcome | None = None
        self.runs: list[str] = []

    @property
    def outcomes(self) -> dict[str, int]:
        """How many runs ended how."""
        found = [point.outcome for point in self._points] + ([self._accuracy] if self._accuracy else [])
        return dict(sorted(Counter(map(str, found)).items()))

    @property
    def left(self) -> Sequence[int]:
        """The batch sizes without a record."""
        done = {point.batch_size for point in self._points}
        return [size for size in self._job.batches.sizes if size not in done]

    def resume(self) -> None:
        """Take over the runs that have a record already."""
        for run_id in self._job.run_ids():
            record = self._recorded(run_id)
            if record is not None:
                self._count(record)

    def next(self) -> int | AccuracyStep | Stop:
        """The batch size to measure next, then the accuracy, or why there is nothing left."""
        step = next_step(self._job.batches, self._points)
        return accuracy_step(self._points) if isinstance(step, Stop) and self._owes_accuracy else step

    def is_stored(self, sha256: str) -> bool:
        """Whether the store has that blob; False where it cannot be asked."""
        try:
            return self._store.blobs.exists(sha256)
        except (FarmError, OSError):
            return False

    def record(self, collected: Collected) -> None:
        """Keep a run. The ladder's last one says why it is the last.

        Raises:
            OSError, ValueError: this host's disk does not take it, or the record does not fit its schema.
        """
        record = collected.record
        if record.point != ACCURACY:
            points = [*self._points, point_of(record)]
            step = next_step(self._job.batches, points)
            if isinstance(step, Stop):
                record = _ended(record, step, points)
        self._spool.put(record, collected.files)
        # Only now: a run that the disk did not take is still owed.
        self._count(record)
        self._spool.flush(self._store, wait_s=_FLUSH_WAIT_S)

    def record_rest(
        self, facts: JobFacts, outcome: Outcome, failure: Failure, stop: Stop, run: RunFacts | None = None
    ) -> None:
        """Give every run that is left this outcome: no cell of a sweep may be absent without a reason."""
        left = self.left
        for size in left:
            collected = not_run(facts, size, outcome, failure, utc_now(), run)
            record = _ended(collected.record, stop, self._points) if size == left[-1] else collected.record
            self._spool.put(record, collected.files)
            self._count(record)
        if self._owes_accuracy:
            self._not_evaluated(facts, outcome, failure, run)
        self._spool.flush(self._store, wait_s=_FLUSH_WAIT_S)

    def record_no_accuracy(self, facts: JobFacts) -> None:
        """Say that there is no accuracy because no point of the ladder was ok; it ends as the ladder's last did."""
        last = self._points[-1].outcome
        message = f"no point of the ladder was ok (the last: {last}), so there was nothing to take the accuracy with"
        hint = "See the ladder's own failures; `farm retry` takes both again."
        self._not_evaluated(facts, last, Failure("start", "accuracy-not-run", message, hint))
        self._spool.flush(self._store, wait_s=_FLUSH_WAIT_S)

    def keep_late(self, collected: Collected) -> None:
        """Keep what was measured after the claim was lost: as a blob, for people to look at, not as the record."""
        self._spool.put(collected.record, collected.files, late=True)

    @property
    def _owes_accuracy(self) -> bool:
        return self._job.accuracy is not None and self._accuracy is None

    def _not_evaluated(self, facts: JobFacts, outcome: Outcome, failure: Failure, run: RunFacts | None = None) -> None:
        collected = not_run(facts, None, outcome, failure, utc_now(), run, point=ACCURACY)
        self._spool.put(collected.record, collected.files)
        self._count(collected.record)

    def _recorded(self, run_id: str) -> Record | None:
        waiting = self._spool.waiting(run_id)
        if waiting is not None:
            return waiting
        try:
            return self._store.records.read(run_id) if self._store.records.exists(run_id) else None
        except FarmError as error:
            log.warning("cannot tell whether run %s has its record: %s", run_id, error.message)
            return None

    def _count(self, record: Record) -> None:
        self.runs.append(record.run_id)
        if record.point == ACCURACY:
            self._accuracy = record.outcome
            return
        self._points.append(point_of(record))


#: What a ladder saturates by, the first that a point has: a study of the pipeline times no inference by itself.
_THROUGHPUTS = ("throughput_per_s", "pipeline_overlapped_per_s", "pipeline_serial_per_s")


def point_of(record: Record) -> Point:
    """What the ladder goes by: its size, how it ended, and its throughput where it is ok."""
    known = [record.metrics[name] for name in _THROUGHPUTS if name in record.metrics]
    throughput = known[0] if known and record.outcome is Outcome.OK else None
    return Point(record.batch_size or 0, record.outcome, throughput)


def _ended(record: Record, stop: Stop, points: Sequence[Point]) -> Record:
    """The ladder's last record: why it ended, and how far it got."""
    ran = [point.batch_size for point in points if point.outcome is Outcome.OK]
    largest = float(max(ran)) if ran else None
    return replace(record, ladder_stop=str(stop), metrics=record.metrics | {"largest_batch_ok": largest})
