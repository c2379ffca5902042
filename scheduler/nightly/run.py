# SPDX-License-Identifier: Apache-2.0
"""Run what is due: go on with a night that was begun, then begin the one whose time has come."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from farm.errors import UsageError
from farm.nightly_settings import NightlySettings
from farm.store import Store
from scheduler.nightly.book import DONE, Book, known, written
from scheduler.nightly.due import Due, decide, night_name, tonight
from scheduler.nightly.measure import begin_run
from scheduler.nightly.night import NightRun
from scheduler.nightly.world import World

log = logging.getLogger("inferfarm.nightly")


@dataclass(frozen=True)
class Asked:
    """What a person asked for: a night at once, one of a date, only sweeps with these labels. Nothing: what is due."""

    at_once: bool = False
    night: str | None = None
    labels: tuple[str, ...] = ()


def look(store: Store, settings: NightlySettings, now: datetime) -> Due:
    """What is due now."""
    return decide(settings.times, now, known(store.nights), timedelta(hours=settings.catch_up_h))


def run_nights(store: Store, world: World, settings: NightlySettings, asked: Asked, base: Path) -> list[str]:
    """Run what is due or asked for; return the names of the nights that were gone through, the oldest first.

    `base` is where relative paths of sweeps begin.

    Raises:
        UsageError: what is asked for cannot be had, or no sweeps are set.
        UnavailableError: the store cannot be written.
        InterruptedNightError: the process was told to end.
    """
    if asked.night is not None:
        return [_of_date(store, world, settings, asked.night)]
    gone = []
    due = look(store, settings, world.now())
    if due.resume is not None:
        log.info("going on with night %s", due.resume)
        NightRun(Book(store.nights, due.resume), world, settings).go()
        gone.append(due.resume)
        due = look(store, settings, world.now())
    slot = _slot(store, due, world.now(), asked)
    if slot is not None and night_name(slot) not in gone:
        why = "asked" if asked.at_once else "caught up" if due.late else "scheduled"
        missed = [name for name in due.missed if name != night_name(slot)]  # asked for, it takes that night's place
        book = _begin(store, world, settings, slot, why, asked.labels, missed, base)
        NightRun(book, world, settings).go()
        gone.append(book.name)
    return gone


def _slot(store: Store, due: Due, now: datetime, asked: Asked) -> datetime | None:
    if not asked.at_once:
        return due.begin
    if store.nights.exists(night_name(now)):
        raise UsageError(
            f"there is a night {night_name(now)} already, and there is one a day",
            hint="`farm submit SWEEP --again` measures a sweep once more; `farm nightly run --night` writes the report "
            "again.",
        )
    return now


def _begin(
    store: Store,
    world: World,
    settings: NightlySettings,
    slot: datetime,
    why: str,
    labels: Sequence[str],
    missed: Sequence[str],
    base: Path,
) -> Book:
    now = world.now()
    chosen = _chosen(settings, slot, labels, base)
    deadline = max(slot, now if why == "caught up" else slot) + timedelta(hours=settings.deadline_h)
    run = begin_run(now=now, slot=slot, deadline=deadline, schedule=settings.times.text, why=why, chosen=chosen) | {
        "missed": list(missed)
    }
    log.info("night %s begins, %s: %d entries of sweeps", night_name(slot), why, len(chosen))
    return Book.begin(store.nights, night_name(slot), run)


def _chosen(settings: NightlySettings, slot: datetime, labels: Sequence[str], base: Path) -> list[dict[str, Any]]:
    if not settings.sweeps:
        raise UsageError("no sweeps are set for the nightly", hint="Name some under [[nightly.sweeps]] in farm.toml.")
    weekday = settings.times.local_date(slot).weekday()
    found = tonight(settings.sweeps, weekday, labels)
    if labels and not found:
        known_labels = ", ".join(sorted({sweep.label for sweep in settings.sweeps} - {""})) or "none"
        raise UsageError(f"no sweep has the label {', '.join(labels)}", hint=f"Labels: {known_labels}.")
    return [
        {"path": str(base / sweep.path.expanduser()), "label": sweep.label, "priority": sweep.priority}
        for sweep in found
    ]


def _of_date(store: Store, world: World, settings: NightlySettings, name: str) -> str:
    """Go on with the night of a date; one that is done gets its report and the index of nights again."""
    try:
        date.fromisoformat(name)
    except ValueError as error:
        raise UsageError(f"{name!r} is no date", hint="Nights are named like 2026-11-21.") from error
    if not store.nights.exists(name):
        hint = "`farm nightly status` lists nights. One that was missed cannot be measured afterwards."
        raise UsageError(f"there is no night {name}", hint=hint)
    book = Book(store.nights, name)
    run = NightRun(book, world, settings)
    if book.run and book.run.get("state") != DONE:
        run.go()
        return name
    # A night that something else than this program ran becomes one that has a report.
    book.run.setdefault("slot", written(datetime.fromisoformat(name).replace(tzinfo=UTC)))
    run.report_again()
    book.save()
    return name
