# SPDX-License-Identifier: Apache-2.0
"""A night's document: what it measured, what was judged of it, and what the next night has to know. Pure.

The document of a night, `Store.nights`, name = the night's UTC date:

    schema         1
    night          "2026-11-21"
    sweeps         ids of the sweeps whose records are the night's: what series are made of. Confirmations are not here
    run            whatever the one who runs nights keeps of the run itself: state, deadline, notification. Free-form
    assessed_at    UTC, ISO 8601; "" until the night is judged
    canaries       by device id what its canary said: {"verdict", "change", "since", "evidence"}
    triggers       every series that left its history tonight (`Trigger`), also those that no measurement settled
    confirmations  what measurements made to settle triggers found (`Confirmation`), with the ids of their sweeps
    missed         confirmations that were wanted and not made: [{"key", "reason"}]
    events         every event that is open, and those that ended tonight (`Event`)
    series         {"schema": 1, "memory": {key: what the detector remembers of a series}}
    left_out       runs of the night that series are not made of: {"suspect": 3, "invalid": 1}
    problems       what could not be read, in words

`series` is a shortcut: `nights.replay` makes it again from records, confirmations and decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farm.contract.codec import DecodeError, from_json, to_json
from farm.errors import IntegrityError
from farm.history.model import Confirmation, Event, Trigger

NIGHT_SCHEMA = 1

#: Of what is remembered of each series. Another one is not used: it is made again from the records.
MEMORY_SCHEMA = 1


@dataclass(frozen=True)
class CanaryShift:
    """What a device's canary said on a night: `shifted` marks the whole device. `change` is a share."""

    verdict: str
    change: float | None = None
    since: str | None = None
    evidence: str = ""

    @property
    def shifted(self) -> bool:
        """Whether the device is marked."""
        return self.verdict == "shifted"


@dataclass(frozen=True)
class Missed:
    """A confirmation that was wanted and not made."""

    key: str
    reason: str


@dataclass(frozen=True)
class Night:
    """One night, judged or being measured. `memory` is by series key; `run` is free-form."""

    night: str
    sweeps: tuple[str, ...] = ()
    run: dict[str, Any] = field(default_factory=dict)
    assessed_at: str = ""
    canaries: dict[str, CanaryShift] = field(default_factory=dict)
    triggers: tuple[Trigger, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    missed: tuple[Missed, ...] = ()
    events: tuple[Event, ...] = ()
    memory: dict[str, Any] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def encode(night: Night) -> dict[str, Any]:
    """The document of a night."""
    document = to_json(night)
    memory = document.pop("memory")
    series = None if memory is None else {"schema": MEMORY_SCHEMA, "memory": memory}
    return {"schema": NIGHT_SCHEMA, **document, "series": series}


def decode(document: Mapping[str, Any], name: str = "") -> Night:
    """The night that a document tells of.

    Raises:
        IntegrityError: it is no night's document, or one of a newer farm.
    """
    rest = dict(document)
    schema, series = rest.pop("schema", None), rest.pop("series", None)
    if schema != NIGHT_SCHEMA:
        raise _unusable(name, f"its schema is {schema!r}, this farm reads {NIGHT_SCHEMA}")
    if isinstance(series, dict) and series.get("schema") == MEMORY_SCHEMA and isinstance(series.get("memory"), dict):
        rest["memory"] = series["memory"]
    else:
        rest["memory"] = None
    try:
        return from_json(Night, rest)
    except DecodeError as error:
        raise _unusable(name, str(error)) from error


def _unusable(name: str, why: str) -> IntegrityError:
    hint = "Restore the file from a backup, upgrade this farm, or delete it: the night is then judged from its records."
    return IntegrityError(f"the document of night {name or '?'} cannot be used: {why}", hint=hint)
