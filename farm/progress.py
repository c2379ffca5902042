# SPDX-License-Identifier: Apache-2.0
"""How far a sweep is: pure, from the views of its jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from farm.broker.jobs import JobState, JobView
from farm.contract.outcome import Outcome


@dataclass(frozen=True)
class Running:
    """A job at work. `point` of `points` is being measured; `fraction` is how far its stage is, where it tells.

    `process` is `process 3 of 5`, where the point is measured in several.
    """

    job_id: str
    name: str
    device_id: str
    stage: str
    batch_size: int | None
    point: int
    points: int
    note: str | None
    fraction: float | None = None
    process: str | None = None


@dataclass(frozen=True)
class Progress:
    """Counts of runs (measured points), not of jobs. `eta_s` is None until something has been measured."""

    total: int
    done: int
    ok: int
    not_ok: int
    cancelled: int
    waiting: int
    running: tuple[Running, ...]
    outcomes: dict[str, int]
    finished: bool
    elapsed_s: float
    eta_s: float | None


def sweep_progress(jobs: Sequence[JobView], now_s: float) -> Progress:
    """Add up a sweep's jobs. Times are Unix seconds."""
    outcomes: Counter[str] = Counter()
    for job in jobs:
        outcomes.update(_outcomes(job))
    total = sum(_points(job) for job in jobs)
    running = tuple(_running(job) for job in jobs if job.state in (JobState.CLAIMED, JobState.RUNNING))
    cancelled = outcomes[Outcome.CANCELLED]
    done = sum(outcomes.values())
    ok = outcomes[Outcome.OK]
    started = [job.times["claimed"] for job in jobs if "claimed" in job.times]
    ends = [job.times[job.state] for job in jobs if job.state.ended and job.state in job.times]
    finished = all(job.state.ended for job in jobs)
    until = max(ends, default=now_s) if finished else now_s
    return Progress(
        total=total,
        done=done,
        ok=ok,
        not_ok=done - ok - cancelled,
        cancelled=cancelled,
        waiting=max(total - done - len(running), 0),
        running=running,
        outcomes=dict(sorted(outcomes.items())),
        finished=finished,
        elapsed_s=max(until - min(started, default=now_s), 0.0),
        eta_s=None if finished else _eta_s(jobs, now_s),
    )


def _points(job: JobView) -> int:
    """Points of the ladder; of an ended one only those that were run: a ladder may stop early."""
    ended = sum(_outcomes(job).values())
    return ended if job.state.ended and ended else len(job.spec.run_ids())


def _outcomes(job: JobView) -> dict[str, int]:
    if job.state.ended:
        counts = job.summary.get("outcomes", {})
        if not counts and job.state is JobState.CANCELLED:
            return {Outcome.CANCELLED.value: len(job.spec.run_ids())}
        if not counts:
            return {Outcome.LOST.value: len(job.spec.run_ids())}
        return {str(k): int(v) for k, v in counts.items()}
    if job.state in (JobState.CLAIMED, JobState.RUNNING):
        return {str(k): int(v) for k, v in job.progress.get("outcomes", {}).items()}
    return {}


def _running(job: JobView) -> Running:
    at = job.progress
    return Running(
        job_id=job.job_id,
        name=job.name,
        device_id=job.device_id or "?",
        stage=str(at.get("stage", "start")),
        batch_size=at.get("batch_size"),
        point=int(at.get("point", 0)),
        points=int(at.get("points", len(job.spec.run_ids()))),
        note=at.get("note"),
        fraction=at.get("fraction"),
        process=at.get("process"),
    )


def _eta_s(jobs: Sequence[JobView], now_s: float) -> float | None:
    """Device-seconds left over devices at work, scaled by how the finished jobs compared with their prediction."""
    ended = [job for job in jobs if job.state in (JobState.DONE, JobState.FAILED) and "claimed" in job.times]
    spent = sum(job.times[job.state] - job.times["claimed"] for job in ended)
    predicted = sum(job.predicted_s for job in ended)
    if not ended or predicted <= 0:
        return None
    scale = spent / predicted
    left = 0.0
    for job in jobs:
        if job.state in (JobState.CLAIMED, JobState.RUNNING):
            left += max(job.predicted_s * scale - (now_s - job.times.get("claimed", now_s)), 0.0)
        elif not job.state.ended:
            left += job.predicted_s * scale
    devices = {job.device_id for job in jobs if job.device_id}
    return left / max(len(devices), 1)
