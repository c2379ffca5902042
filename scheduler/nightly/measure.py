# SPDX-License-Identifier: Apache-2.0
"""The steps of a night that measure: canaries, sweeps, waiting for them until the deadline."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm.errors import UsageError
from scheduler.nightly.book import moment, written
from scheduler.nightly.due import again_of
from scheduler.nightly.world import OpenJob

if TYPE_CHECKING:
    from scheduler.nightly.night import NightRun

#: What runs at the deadline may go on for so long, then it is asked to stop, and is waited for as long as that takes.
GRACE, STOPPING = timedelta(minutes=15), timedelta(minutes=2)
#: A worker whose store is away keeps records for later; the night does not wait for them for ever.
RECORD_WAIT = timedelta(minutes=2)
POLL_S = 1.0
#: How often progress is written down, at most.
_TOLD_EVERY = timedelta(seconds=30)


def canaries(night: NightRun, facts: dict[str, Any]) -> None:
    """Make a canary on every device that takes jobs, and wait until all are judged or their time is over."""
    world = night.world
    began = moment(facts["began_at"]) or world.now()
    until = began + timedelta(minutes=night.settings.canary_limit_min)
    if "devices" not in facts:
        # A night that is gone on with a day later has nothing to learn from canaries of now.
        if world.now() > night.deadline + GRACE + timedelta(hours=night.settings.catch_up_h):
            facts["problem"] = "too late: the night's deadline is long over"
            return
        facts["devices"] = world.ask_canaries()
        night.book.save()
    while True:
        said = world.canaries(facts["devices"])
        if not any(word.busy for word in said.values()) or world.now() >= until:
            break
        world.pause(POLL_S)
    facts["said"] = {device: {"shifted": w.shifted, "summary": w.summary} for device, w in said.items()}
    late = sorted(device for device, word in said.items() if word.busy)
    if late:
        facts["problem"] = f"no canary in time on {', '.join(late)}"


def submit(night: NightRun, facts: dict[str, Any]) -> None:
    """Submit each sweep of the night once. One that cannot be submitted is entered with the reason."""
    run, world = night.book.run, night.world
    rows: list[dict[str, Any]] = run.setdefault("sweeps", [])
    for chosen in run.get("chosen", []):
        for path in _files(night, chosen, rows):
            if any(row["path"] == str(path) for row in rows):
                continue
            row = {"path": str(path), "label": chosen["label"]}
            try:
                done = world.submit(path, again_of(night.book.name), chosen["priority"])
                row |= {"sweep_id": done.sweep_id, "name": done.name, "jobs": done.jobs, "refused": done.refused}
            except UsageError as error:
                row["problem"] = "; ".join([error.message, *error.problems])
            rows.append(row)
            night.book.save()


def _files(night: NightRun, chosen: dict[str, Any], rows: list[dict[str, Any]]) -> list[Path]:
    try:
        return night.world.sweep_files(Path(chosen["path"]))
    except UsageError as error:
        if not any(row["path"] == chosen["path"] for row in rows):
            rows.append({"path": chosen["path"], "label": chosen["label"], "problem": error.message})
            night.book.save()
        return []


def wait(night: NightRun, facts: dict[str, Any]) -> None:
    """Wait until the night's sweeps have ended or the deadline is over; then cancel, and say what is missing."""
    world, run = night.world, night.book.run
    ended_since: datetime | None = None
    told_at: datetime | None = None
    while True:
        still, now = world.open_jobs(night.sweep_ids), world.now()
        working = [job for job in still if not job.ended]
        ended_since = None if working else ended_since or now
        if not still or (ended_since and now - ended_since > RECORD_WAIT) or _given_up(night, working, now):
            break
        if now >= night.deadline:
            _stop(night, working, now)
        if told_at is None or now - told_at >= _TOLD_EVERY:
            facts["open"], told_at = len(still), now
            night.book.save()
        world.pause(POLL_S)
    for job in still:
        reason = "its record has not come" if job.ended else "it had not stopped when the night went on"
        run.setdefault("missing", {}).setdefault(job.job_id, _missing(job, reason))
    counted = world.count(night.sweep_ids)
    facts["open"] = len(still)
    run["outcomes"] = dict(counted.outcomes)
    run["unsound"] = {sweep: list(outcomes) for sweep, outcomes in counted.unsound.items()}


def _given_up(night: NightRun, working: list[OpenJob], now: datetime) -> bool:
    return bool(working) and now >= night.deadline + GRACE + STOPPING


def _stop(night: NightRun, working: list[OpenJob], now: datetime) -> None:
    """At the deadline cancel what waits; after the time of grace what runs, too."""
    missing = night.book.run.setdefault("missing", {})
    over = now >= night.deadline + GRACE
    chosen = [job for job in working if job.waiting or over]
    for job in chosen:
        reason = "it had not begun at the deadline" if job.waiting else "it ran for too long after the deadline"
        missing.setdefault(job.job_id, _missing(job, reason))
    if chosen:
        # Written before it is done: whoever goes on after a death cancels again, which is harmless.
        night.book.save()
        night.world.cancel([job.job_id for job in chosen])


def _missing(job: OpenJob, reason: str) -> dict[str, str]:
    return {"sweep_id": job.sweep_id, "job": job.name, "reason": reason}


def begin_run(
    *, now: datetime, slot: datetime, deadline: datetime, schedule: str, why: str, chosen: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a night that begins knows of itself."""
    times = {"slot": written(slot), "began_at": written(now), "deadline_at": written(deadline)}
    return {"state": "begun", "why": why, "schedule": schedule, "chosen": chosen, **times}
