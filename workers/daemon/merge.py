# SPDX-License-Identifier: Apache-2.0
"""From the processes of one point, each collected as a run of its own, to the point's one record. Pure.

All ok: the metrics are over the processes, with intervals between them. One that is not ends the point with its
outcome, and its numbers stay the record's own; what the earlier ones measured is kept under `processes`, as evidence.
What is no number (stages, host, environment, provenance) is the last process's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from farm.contract.outcome import Failure, Outcome
from farm.contract.record import BlobRef, Flag, ProcessFacts, Record
from farm.contract.run import Mismatch
from farm.processes import disagreement, intervals, joint_flags, over
from farm.thresholds import DEFAULTS, Limits
from workers.daemon.collect import Collected
from workers.daemon.replicate import Ended, Replication
from workers.daemon.spool import BlobFile

#: Artifacts that each process leaves one of; all others are what they share.
_OWN = ("log", "telemetry")


@dataclass(frozen=True)
class Made:
    """One process of a point: its last try, and what is told of the doubtful ones before it."""

    collected: Collected
    earlier_tries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def record(self) -> Record:
        """What it would be as a run of its own."""
        return self.collected.record


def merge(wanted: Replication, made: Sequence[Made], ended: Ended, limits: Limits = DEFAULTS) -> Collected:
    """The record of a point and the files it names. `made` has at least one process, in order.

    A point that asks for one process is recorded as that process alone.
    """
    last = made[-1]
    if not wanted.several:
        return _alone(last)
    records = [process.record for process in made]
    how = last.record.effective | {"processes": len(made), "processes_ended_by": str(ended)}
    record = replace(
        last.record,
        started_at=records[0].started_at,
        flags=joint_flags([of.flags for of in records]),
        samples=[replace(ref, process=i) for i, of in enumerate(records, 1) for ref in of.samples],
        artifacts=_artifacts(records),
        effective=how,
        processes=[_facts(i, process) for i, process in enumerate(made, 1)],
    )
    if last.record.outcome is not Outcome.OK:
        record = _failed(record, wanted)
    elif ended is Ended.CANCELLED:
        record = _cancelled(record, wanted)
    else:
        record = _estimated(record, records, limits)
    return Collected(record, _files(process.collected.files for process in made))


def _alone(process: Made) -> Collected:
    if not process.earlier_tries:
        return process.collected
    record = process.record
    provenance = record.provenance | {"earlier_tries": process.earlier_tries}
    return replace(process.collected, record=replace(record, provenance=provenance))


def _estimated(record: Record, records: Sequence[Record], limits: Limits) -> Record:
    if len(records) == 1:  # of one process alone, its target or budget met at once: there is nothing to be between
        return record
    metrics, withheld = over([of.metrics for of in records], [of.withheld for of in records])
    between = intervals([of.metrics for of in records], withheld)
    medians = [median for of in records if (median := of.metrics.get("latency_ms")) is not None]
    own = [of.intervals.get("latency_ms") for of in records if of.metrics.get("latency_ms") is not None]
    doubt = disagreement(medians, own, limits)
    flags: list[Flag] = [*record.flags, doubt] if doubt else record.flags
    return replace(record, metrics=metrics, withheld=withheld, intervals=between, flags=flags, mismatch=_worst(records))


def _failed(record: Record, wanted: Replication) -> Record:
    failure = record.failure
    if failure is None:
        return record
    where = wanted.label(len(record.processes))
    return replace(record, failure=replace(failure, message=f"{where}: {failure.message}"))


def _cancelled(record: Record, wanted: Replication) -> Record:
    """Ended between two processes: fewer than asked for are no measurement of the point."""
    message = f"the job was cancelled before {wanted.label(len(record.processes) + 1)} of this point"
    failure = Failure("start", "cancelled", message)
    return replace(record, outcome=Outcome.CANCELLED, failure=failure, metrics={}, intervals={}, withheld={})


def _facts(index: int, process: Made) -> ProcessFacts:
    record = process.record
    return ProcessFacts(
        index=index,
        outcome=record.outcome,
        started_at=record.started_at,
        finished_at=record.finished_at,
        failure=record.failure,
        metrics=record.metrics,
        intervals=record.intervals,
        withheld=record.withheld,
        flags=record.flags,
        stages=record.stages,
        effective=record.effective,
        earlier_tries=process.earlier_tries,
    )


def _artifacts(records: Sequence[Record]) -> list[BlobRef]:
    """What the processes share once, each one's own with its index."""
    found: list[BlobRef] = []
    for index, record in enumerate(records, 1):
        for ref in record.artifacts:
            shared = ref.kind not in _OWN and all(ref in of.artifacts for of in records)
            if not shared:
                found.append(replace(ref, process=index))
            elif ref not in found:
                found.append(ref)
    return found


def _worst(records: Sequence[Record]) -> list[Mismatch]:
    """The outputs of the process that is farthest from the reference."""

    def distance(record: Record) -> float:
        return max((of.relative_l2_error for of in record.mismatch), default=-1.0)

    return max(reversed(records), key=distance).mismatch


def _files(of: Iterable[Sequence[BlobFile]]) -> list[BlobFile]:
    found = {file.sha256: file for files in of for file in files}
    return list(found.values())
