# SPDX-License-Identifier: Apache-2.0
"""Jobs, sweeps and waiting lines as people and the scheduler see them, read from what Redis keeps."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from farm.broker.content import Reader
from farm.contract.job import JobSpec

log = logging.getLogger(__name__)


class JobState(StrEnum):
    """queued -> dispatched -> claimed -> running -> done | failed | cancelled | quarantined."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    CLAIMED = "claimed"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"

    @property
    def ended(self) -> bool:
        """Nothing moves a job out of such a state but a deliberate retry."""
        return self in ENDED


ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED})


class RenewAnswer(Enum):
    """What Redis says to a worker that renews its lease."""

    HELD = 1
    CANCEL = 0
    HAND_BACK = 2
    FENCED = -1


@dataclass(frozen=True)
class Claim:
    """The right to run a job once. Every write carries the token; a claim that was fenced changes nothing."""

    job: JobSpec
    attempt: int
    token: str
    device_id: str


@dataclass(frozen=True)
class Head:
    """The first waiting job of one sweep at one target. `served_s`: device-seconds handed to the sweep so far.

    `order` is its rank; `submitted_s`: when the sweep was submitted, Unix seconds.
    """

    sweep_id: str
    target_key: str
    job_id: str
    priority: int
    served_s: float
    order: int
    predicted_s: float
    submitted_s: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class Dispatched:
    """What a dispatch did: whether the job was bound, its name, what its sweep was served, its line's first job now.

    `sent`: its message is in the device's queue.
    """

    done: bool
    name: str
    served_s: float
    behind: Head | None
    sent: bool = False


@dataclass(frozen=True)
class JobView:
    """A job as people and the scheduler see it. `times` maps each state to when it was entered (Unix seconds)."""

    job_id: str
    name: str
    sweep_id: str
    state: JobState
    target_key: str
    device_id: str | None
    attempt: int
    priority: int
    predicted_s: float
    order: int
    progress: dict[str, Any]
    summary: dict[str, Any]
    times: dict[str, float]
    reason: str | None
    spec: JobSpec
    #: Workers that died while they ran this job.
    kills: int = 0
    #: Attempts that ended without a word: `attempt`, `device`, `at` (ms), `how` (`worker died` or `lease ended`).
    lost: tuple[dict[str, Any], ...] = ()
    #: What lost attempts left in the store: `BlobRef`s as JSON.
    logs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class SweepView:
    """A sweep in one line. `counts` maps a state to its number of jobs; states without jobs are absent."""

    sweep_id: str
    name: str
    priority: int
    submitted_at: float
    counts: dict[str, int]


def rank(target_key: str, order: int, predicted_s: float) -> float:
    """Where a job stands in its line; the scripts' `enqueue` has the same. Pure.

    What several devices share goes by length, each step twice the next, so that no long job is left for the end; jobs
    of one step, and those of one device, where it makes no difference, go as the sweep lists them.
    """
    if not target_key.startswith("cls:"):
        return float(order)
    return order - 1e6 * math.floor(math.log(max(predicted_s, 1.0)) / math.log(2.0) + 1e-9)


def read_heads(flat: list[str]) -> list[Head]:
    """What the script `heads` answers."""
    return [_read_head(flat[i : i + 8]) for i in range(0, len(flat), 8)]


def _read_head(row: list[str]) -> Head:
    sweep_id, _, target_key = row[0].partition("|")
    order, submitted_s = int(float(row[2])), float(row[6]) / 1000
    return Head(sweep_id, target_key, row[1], int(row[4]), float(row[5]), order, float(row[3]), submitted_s, row[7])


def read_sweep(sweep_id: str, head: list[str | None], counts: dict[str, str]) -> SweepView:
    numbers = {state: int(n) for state, n in counts.items() if int(n)}
    return SweepView(sweep_id, head[0] or sweep_id, int(head[1] or 5), float(head[2] or 0) / 1000, numbers)


def readable(job_id: str, h: dict[str, str], spec: str, priorities: dict[str, int], reader: Reader) -> JobView | None:
    """A view; None for a job that cannot be read, as a broken worker could make it: one must not hide the others."""
    try:
        return _view(job_id, h, reader.read(job_id, spec), priorities)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        log.warning("job %s in Redis cannot be read and is passed over: %.300s", job_id, error)
        return None


def _objects(text: str | None) -> tuple[dict[str, Any], ...]:
    """The objects of a JSON list. A worker can write states, so what is none is left out."""
    found = json.loads(text or "[]")
    return tuple(one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def _view(job_id: str, h: dict[str, str], spec: JobSpec, priorities: dict[str, int]) -> JobView:
    return JobView(
        job_id=job_id,
        name=h["name"],
        sweep_id=h["sweep"],
        state=JobState(h["state"]),
        target_key=h["target"],
        device_id=h.get("device") or None,
        attempt=int(h["attempt"]),
        priority=priorities[h["sweep"]],
        predicted_s=float(h["predicted"]),
        order=int(float(h["order"])),
        progress=json.loads(h.get("progress") or "{}"),
        summary=json.loads(h.get("summary") or "{}"),
        times={k[2:]: float(v) / 1000 for k, v in h.items() if k.startswith("t_")},
        reason=h.get("reason"),
        spec=spec,
        kills=int(h.get("kills") or 0),
        lost=_objects(h.get("lost")),
        logs=_objects(h.get("logs")),
    )
