# SPDX-License-Identifier: Apache-2.0
"""What a night keeps of itself: `sweeps` and `run` of its document in the store; all else there is the judgement's.

run.schema       1
run.state        the step it is at, or `done`
run.why          `scheduled`, `caught up`, `asked`
run.slot         the time that it is for; run.schedule  by which schedule; run.began_at, deadline_at, ended_at
run.chosen       the sweeps of the night: [{"path", "label", "priority"}]
run.sweeps       what became of them: [{"path", "label", "sweep_id", "name", "jobs", "refused", "problem"}]
run.steps        by step: began_at, ended_at, and what it has to remember; `problem` where it failed
run.missing      by job id: what has no result, and why
run.outcomes     by outcome, how many records; run.unsound  by sweep, the outcomes that are not ok
run.missed       nights before this one that never were
run.report       the report's page, below the reports' directory
run.told         what people were last told, by subject; run.deliveries  how each target took it
run.attempts     how often the night was begun or gone on with
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from farm.history.document import NIGHT_SCHEMA, Night, decode, encode
from farm.store import BadRecord
from farm.store.documents import DocumentStore
from scheduler.nightly.due import Known

RUN_SCHEMA = 1
DONE = "done"


class Book:
    """One night's document while the night goes on. Each change is in the store before anything follows from it."""

    def __init__(self, nights: DocumentStore, name: str) -> None:
        self._nights = nights
        self.name = name
        document = nights.read(name)
        self.run: dict[str, Any] = dict(document.get("run") or {})

    @classmethod
    def begin(cls, nights: DocumentStore, name: str, run: Mapping[str, Any]) -> Book:
        """The night's document: the one that is there, or else a new one."""
        nights.write(name, encode(Night(name, run={"schema": RUN_SCHEMA, **run})), replace=False)
        return cls(nights, name)

    def save(self) -> None:
        """Write the night's own facts; whatever else the document holds stays.

        Raises:
            UnavailableError: the store cannot be written.
        """
        sweeps = [row["sweep_id"] for row in self.run.get("sweeps", []) if row.get("sweep_id")]
        document = self._nights.read(self.name) | {"run": self.run, "sweeps": list(dict.fromkeys(sweeps))}
        self._nights.write(self.name, document)

    def judged(self) -> Night:
        """The night as the document tells it.

        Raises:
            IntegrityError: it cannot be used.
        """
        return decode(self._nights.read(self.name), self.name)

    def earlier(self) -> list[tuple[str, dict[str, Any]]]:
        """The nights before this one with their own facts, the oldest first."""
        return [(name, run) for name, run in documents(self._nights) if name < self.name]

    def step(self, name: str) -> dict[str, Any]:
        """What a step remembers; empty for one that was not begun."""
        facts: dict[str, Any] = self.run.setdefault("steps", {}).setdefault(name, {})
        return facts


def documents(nights: DocumentStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every night that has a document of this schema, with its own facts, the oldest first."""
    for found in nights.iterate():
        if not isinstance(found, BadRecord) and found[1].get("schema") == NIGHT_SCHEMA:
            run = found[1].get("run")
            yield found[0], run if isinstance(run, dict) else {}


def known(nights: DocumentStore) -> list[Known]:
    """What the decision on what is due has to know. A night that this program did not run is done."""
    return [_known(name, run) for name, run in documents(nights)]


def _known(name: str, run: Mapping[str, Any]) -> Known:
    slot = moment(run.get("slot")) or datetime.fromisoformat(name).replace(tzinfo=UTC)
    return Known(name, slot, not run or run.get("state") == DONE, str(run.get("schedule", "")))


def moment(text: object) -> datetime | None:
    """A stored time; None for what is none."""
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


def written(at: datetime) -> str:
    """A time as documents have it: UTC, ISO 8601, to the second."""
    return at.astimezone(UTC).isoformat(timespec="seconds")
