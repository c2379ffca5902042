# SPDX-License-Identifier: Apache-2.0
"""All jobs of a farm in numbers, looked at again and again: only sweeps that moved are read anew.

Asks for nothing that a reader's user may not. A sweep that has ended costs two answers; one at work, its jobs' hashes,
without their specifications.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from farm.broker.jobs import JobState
from farm.contract.outcome import Outcome

_FIELDS = ("state", "target", "device", "summary", "t_claimed", "t_done", "t_failed", "t_cancelled", "t_quarantined")
#: What a job that never ran to a summary counts as, once.
_WITHOUT_SUMMARY = {JobState.CANCELLED: Outcome.CANCELLED.value}
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)


@dataclass(frozen=True)
class Ended:
    """A job that ended since the last look. `seconds` from claim to end; None if it was never claimed."""

    device_id: str
    state: str
    seconds: float | None
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class Lease:
    """A job that a worker holds: for how long it has, and for how long it may without renewal, in seconds."""

    device_id: str
    held_s: float
    left_s: float


@dataclass(frozen=True)
class Look:
    """`waiting` is by target, `at_device` by (device, state); `outcomes` counts runs, the rest jobs."""

    now_s: float
    sweeps: int
    open_sweeps: int
    states: Counter[str]
    outcomes: Counter[str]
    waiting: Counter[str]
    at_device: Counter[tuple[str, str]]
    leases: tuple[Lease, ...]
    ended: tuple[Ended, ...]


@dataclass
class _Sweep:
    """What is remembered of a sweep. `ends` is by job when it ended, so that a job tried again counts again."""

    mark: object
    open: bool = False
    states: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    at_device: Counter[tuple[str, str]] = field(default_factory=Counter)
    claimed: dict[str, tuple[str, float]] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)


class Watcher:
    """Looks at all jobs. The first look finds nothing `ended`: what ended before it was there to be counted."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._known: dict[str, _Sweep] = {}
        self._looked = False

    def look(self) -> Look:
        """How things are now.

        Raises:
            redis.RedisError: Redis is away, or does not let this user look.
        """
        ids = cast(list[str], self._redis.zrange("farm:sweeps", 0, -1))
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        pipe.zrange("farm:leases", 0, -1, withscores=True)
        for sweep_id in ids:
            pipe.hgetall(f"farm:counts:{sweep_id}")
            pipe.hget(f"farm:sweep:{sweep_id}", "served")
        (seconds, micros), leases, *marks = pipe.execute()
        now_s = seconds + micros / 1e6
        ended: list[Ended] = []
        known: dict[str, _Sweep] = {}
        for sweep_id, mark in zip(ids, zip(marks[::2], marks[1::2], strict=True), strict=True):
            known[sweep_id] = self._sweep(sweep_id, mark, ended)
        self._known, counted = known, self._looked
        self._looked = True
        return _sum(list(known.values()), leases, now_s, ended if counted else [])

    def _sweep(self, sweep_id: str, mark: object, ended: list[Ended]) -> _Sweep:
        before = self._known.get(sweep_id)
        if before is not None and before.mark == mark and not before.open:
            return before
        now = _Sweep(mark)
        job_ids = cast(list[str], self._redis.zrange(f"farm:sweep-jobs:{sweep_id}", 0, -1))
        pipe = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hmget(f"farm:job:{job_id}", *_FIELDS)
        for job_id, answer in zip(job_ids, pipe.execute(), strict=True):
            job = dict(zip(_FIELDS, answer, strict=True))
            if job["state"] in set(JobState):
                _enter(now, job_id, job, before.ends if before else {}, ended)
        return now


def _enter(sweep: _Sweep, job_id: str, job: Mapping[str, Any], before: Mapping[str, float], ended: list[Ended]) -> None:
    state, device = JobState(job["state"]), job["device"] or ""
    sweep.states[state.value] += 1
    if not state.ended:
        sweep.open = True
        if state is JobState.QUEUED:
            sweep.waiting[job["target"] or "?"] += 1
        else:
            sweep.at_device[device, state.value] += 1
        if state in (JobState.CLAIMED, JobState.RUNNING):
            sweep.claimed[job_id] = device, _seconds(job["t_claimed"])
        return
    outcomes = outcomes_of(state, job["summary"])
    sweep.outcomes.update(outcomes)
    end = sweep.ends[job_id] = _seconds(job[f"t_{state.value}"])
    if before.get(job_id) != end:
        begun = _seconds(job["t_claimed"])
        ended.append(Ended(device, state.value, end - begun if 0 < begun <= end else None, outcomes))


def _sum(sweeps: Sequence[_Sweep], leases: Sequence[tuple[str, float]], now_s: float, ended: Sequence[Ended]) -> Look:
    claimed = {job: at for sweep in sweeps for job, at in sweep.claimed.items()}
    held = [
        Lease(claimed[job][0], max(now_s - claimed[job][1], 0.0), end_ms / 1000 - now_s)
        for job, end_ms in leases
        if job in claimed
    ]
    return Look(
        now_s=now_s,
        sweeps=len(sweeps),
        open_sweeps=sum(sweep.open for sweep in sweeps),
        states=sum((sweep.states for sweep in sweeps), Counter()),
        outcomes=sum((sweep.outcomes for sweep in sweeps), Counter()),
        waiting=sum((sweep.waiting for sweep in sweeps), Counter()),
        at_device=sum((sweep.at_device for sweep in sweeps), Counter()),
        leases=tuple(held),
        ended=tuple(ended),
    )


def outcomes_of(state: JobState, summary: str | None) -> dict[str, int]:
    """Runs of an ended job by outcome. What a worker wrote and is none is left out: it must not make a label."""
    try:
        told = json.loads(summary or "{}")
        found = {str(k): int(v) for k, v in told.get("outcomes", {}).items() if k in _OUTCOMES}
    except (ValueError, TypeError, AttributeError, RecursionError):
        found = {}
    return found or {_WITHOUT_SUMMARY.get(state, Outcome.LOST.value): 1}


def _seconds(text: str | None) -> float:
    try:
        return float(text or 0) / 1000
    except ValueError:
        return 0.0
