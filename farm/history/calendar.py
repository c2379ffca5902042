# SPDX-License-Identifier: Apache-2.0
"""Which records belong to which night, and which to none. Reads documents of the store, no records.

A record is of the night whose document names its sweep; of none that does, of the UTC date on which it began. Canaries
are of no series, nor are re-runs made to settle a trigger: their sweep's stored document says
`"purpose": "confirmation"` (`purpose`), and the night's document names them among its
confirmations; either is enough.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from farm.errors import FarmError, UsageError
from farm.history.document import Night, decode
from farm.history.purpose import is_confirmation
from farm.store import BadRecord, Store


@dataclass(frozen=True)
class Calendar:
    """`nights` by name, the oldest first; `night_of` by sweep id; `apart` are sweeps that no series is made of."""

    nights: Mapping[str, Night] = field(default_factory=dict)
    night_of: Mapping[str, str] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()

    def before(self, night: str) -> Night | None:
        """The last night before this one that was judged."""
        judged = [found for name, found in self.nights.items() if name < night and found.assessed_at]
        return judged[-1] if judged else None


def check_night(name: str) -> str:
    """Return `name` if it names a night. Raises UsageError if not."""
    try:
        if datetime.date.fromisoformat(name).isoformat() == name:
            return name
    except ValueError:
        pass
    raise UsageError(f"{name!r} is not a night", hint="Nights are named by the UTC date they began on: 2026-11-21.")


def read_calendar(store: Store) -> Calendar:
    """Every night's document, and what follows from them. One that cannot be read is named and stops nothing."""
    nights, problems = _nights(store)
    night_of = {sweep: name for name, night in nights.items() for sweep in night.sweeps}
    told = {sweep for night in nights.values() for made in night.confirmations for sweep in made.sweeps}
    return Calendar(nights, night_of, frozenset(told | _confirmations(store, night_of.keys() | told)), tuple(problems))


def _nights(store: Store) -> tuple[dict[str, Night], list[str]]:
    nights, problems = {}, []
    for found in store.nights.iterate():
        if isinstance(found, BadRecord):
            problems.append(f"{found.path}: {found.problem}")
            continue
        name, document = found
        try:
            nights[check_night(name)] = decode(document, name)
        except FarmError as error:
            problems.append(f"{store.nights.path(name)}: {error.message}")
    return nights, problems


def _confirmations(store: Store, known: set[str]) -> set[str]:
    """Sweeps made to settle a trigger, as far as no night's document says of a sweep what it is."""
    found = set()
    for sweep_id in store.sweeps.names():
        if sweep_id in known:
            continue
        try:
            document = store.sweeps.read(sweep_id)
        except FarmError:
            continue  # `farm artifacts verify` names it
        if is_confirmation(document):
            found.add(sweep_id)
    return found
