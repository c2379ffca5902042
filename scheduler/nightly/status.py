# SPDX-License-Identifier: Apache-2.0
"""What the nightly has done, does and will do, as plain values for people and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from farm.nightly_settings import NightlySettings
from farm.store import Store
from scheduler.nightly.book import DONE, documents
from scheduler.nightly.due import Due
from scheduler.nightly.night import STEPS
from scheduler.nightly.run import look


@dataclass(frozen=True)
class NightLine:
    """One night in short. `problems` are its steps' and sweeps'; `events` counts open ones by state."""

    night: str
    state: str
    began_at: str
    ended_at: str
    records: int
    ok: int
    missing: int
    events: Mapping[str, int]
    problems: tuple[str, ...]
    report: str


@dataclass(frozen=True)
class Status:
    """`running` is who runs a night now, `serving` who has the beat, '' for nobody; `step` is of the unfinished night."""

    schedule: str
    next_at: str
    due: str
    missed: tuple[str, ...]
    running: str
    serving: str
    step: str
    steps_done: int
    steps: int
    open_jobs: int
    nights: tuple[NightLine, ...] = field(default_factory=tuple)


def status(
    store: Store, settings: NightlySettings, now: datetime, *, running: str = "", serving: str = "", last: int = 10
) -> Status:
    """The newest `last` nights, newest first, what is due, and where the night stands that is not done."""
    due = look(store, settings, now)
    lines = [(name, run, line(name, run, store.nights.read(name))) for name, run in documents(store.nights)]
    unfinished = next((run for name, run, _ in lines if name == due.resume), {})
    steps = unfinished.get("steps", {})
    return Status(
        schedule=settings.times.text if settings.sweeps else "",
        next_at=due.next_at.isoformat(timespec="minutes") if due.next_at and settings.sweeps else "",
        due=_due_words(due),
        missed=due.missed,
        running=running,
        serving=serving,
        step=str(unfinished.get("state", "")),
        steps_done=sum("ended_at" in steps.get(name, {}) for name in STEPS),
        steps=len(STEPS),
        open_jobs=int(steps.get("wait", {}).get("open", 0)),
        nights=tuple(made for _, _, made in reversed(lines[-last:])),
    )


def line(name: str, run: Mapping[str, Any], document: Mapping[str, Any]) -> NightLine:
    """One night in short."""
    outcomes = run.get("outcomes", {})
    events: dict[str, int] = {}
    for event in document.get("events", []):
        if event.get("state") in ("new", "confirmed", "unconfirmed"):
            events[event["state"]] = events.get(event["state"], 0) + 1
    problems = [
        f"{step.replace('_', ' ')}: {facts['problem']}"
        for step, facts in run.get("steps", {}).items()
        if facts.get("problem")
    ]
    problems += [f"{row['path']}: {row['problem']}" for row in run.get("sweeps", []) if row.get("problem")]
    return NightLine(
        night=name,
        state=str(run.get("state") or DONE),
        began_at=str(run.get("began_at", "")),
        ended_at=str(run.get("ended_at", "")),
        records=sum(outcomes.values()),
        ok=int(outcomes.get("ok", 0)),
        missing=len(run.get("missing", {})),
        events=events,
        problems=tuple(problems),
        report=str(run.get("report", "")),
    )


def _due_words(due: Due) -> str:
    if due.resume:
        return f"go on with {due.resume}"
    if due.begin:
        return f"begin the night of {due.begin.isoformat(timespec='minutes')}{', late' if due.late else ''}"
    return ""
