# SPDX-License-Identifier: Apache-2.0
"""What people decided on events: `accept`, and `reopen`, which takes an acceptance back. Each is a document.

An event's newest decision holds. One that was taken back is as if it had never been: a night that is judged again does
not follow it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from farm.contract.canonical import short_digest
from farm.contract.codec import DecodeError, from_json, to_json
from farm.history.model import Decision
from farm.store import BadRecord, Store
from farm.store.schema import RecordError, utc_time

DECISION_SCHEMA = 1
ACCEPT, REOPEN = "accept", "reopen"


@dataclass(frozen=True)
class Decisions:
    """All decisions, by event, the oldest first."""

    by_event: Mapping[str, tuple[Decision, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def accepted(self, event_id: str, at: str | None = None) -> Decision | None:
        """The acceptance that holds for an event; with `at`, only if it had been given by then."""
        made = self.by_event.get(event_id, ())
        if not made or made[-1].action != ACCEPT:
            return None
        return made[-1] if at is None or moment(made[-1].decided_at) <= moment(at) else None

    def taken_back(self, since: str) -> list[Decision]:
        """The acceptances that a later decision took back after `since`."""
        return [
            earlier
            for made in self.by_event.values()
            for earlier, later in itertools.pairwise(made)
            if (earlier.action, later.action) == (ACCEPT, REOPEN) and moment(later.decided_at) > moment(since)
        ]


def moment(text: str) -> datetime:
    """A time of a document. Raises RecordError where it is none."""
    return utc_time(text)


def write_decision(store: Store, decision: Decision) -> bool:
    """Store a decision. False: the same one is there."""
    document = {"schema": DECISION_SCHEMA, **to_json(decision)}
    return store.decisions.write(f"{decision.event_id}-{short_digest(document, 12)}", document, replace=False)


def read_decisions(store: Store) -> Decisions:
    """Every decision. One that cannot be read is a problem and no reason to stop."""
    found, problems = [], []
    for each in store.decisions.iterate():
        if isinstance(each, BadRecord):
            problems.append(f"{each.path}: {each.problem}")
            continue
        name, document = each
        try:
            found.append(_decoded(document))
        except (DecodeError, RecordError) as error:
            problems.append(f"{store.decisions.path(name)}: {error}")
    return Decisions(_by_event(found), tuple(problems))


def _decoded(document: Mapping[str, object]) -> Decision:
    rest = dict(document)
    schema = rest.pop("schema", None)
    if schema != DECISION_SCHEMA:
        raise RecordError(f"its schema is {schema!r}, this farm reads {DECISION_SCHEMA}")
    decision = from_json(Decision, rest)
    moment(decision.decided_at)
    return decision


def _by_event(decisions: Iterable[Decision]) -> dict[str, tuple[Decision, ...]]:
    found: dict[str, list[Decision]] = {}
    for decision in sorted(decisions, key=lambda each: (moment(each.decided_at), each.action)):
        found.setdefault(decision.event_id, []).append(decision)
    return {event_id: tuple(made) for event_id, made in found.items()}
