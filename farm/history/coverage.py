# SPDX-License-Identifier: Apache-2.0
"""What ran on earlier nights and does not tonight: refused, failed, or not there at all. From the index.

A cell is one batch size of one case on one device. Its outcome on a night is the best of its runs then, `ok` before
`refused` before `failed`; a job that ended without a point stands for all its batch sizes. `missing` is a cell without
any run on a night on which its sweep ran. What people cancelled says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from farm.contract.canonical import short_digest
from farm.history.calendar import Calendar
from farm.history.load import RUNS, Window
from farm.history.model import Event, State
from farm.store import Store

KIND = "coverage"
METRIC = "outcome"
OK, REFUSED, FAILED, MISSING = "ok", "refused", "failed", "missing"
_RANK = {OK: 0, REFUSED: 1, FAILED: 2, MISSING: 3}
_NAMES = {rank: name for name, rank in _RANK.items()}

#: What tells cells apart; a run that reached no device may know the class alone.
_CELL = ("device_id", "model", "workflow", "precision", "options", "calibration", "scenario", "protocol", "point")
_CELLS = ", ".join(_CELL)
_PEERS = ", ".join(_CELL[1:])
_SQL = f"""{RUNS}, ranked AS (
    SELECT *, CASE WHEN outcome = 'ok' THEN 0 WHEN outcome = 'unsupported' THEN 1 ELSE 2 END AS rank
    FROM runs WHERE outcome <> 'cancelled'
), by_night AS (
    SELECT {_CELLS}, batch_size, night, min(rank) AS rank, arg_min(run_id, rank) AS run,
        arg_min(coalesce(failure_message, ''), rank) AS why, arg_min(series_id, rank) AS series_id,
        max(sweep) AS sweep, max(device_class) AS device_class,
        bool_or(coalesce(ladder_stop = 'saturated', false)) AS saturated
    FROM ranked GROUP BY {_CELLS}, batch_size, night
), peers AS (
    SELECT *, count(*) FILTER (rank = 0) OVER (
        PARTITION BY {_PEERS}, device_class, batch_size, night
    ) AS peers FROM by_night
)"""  # noqa: S608 - our own columns
_SEEN = ("rank", "run", "why", "series_id", "sweep", "device_class", "peers", "night", "saturated")
_TONIGHT = f"{_SQL} SELECT {_CELLS}, batch_size, {', '.join(_SEEN)} FROM peers WHERE night = $last"  # noqa: S608
_LAST_SEEN = ", ".join(f"max_by({name}, night)" for name in _SEEN)
_BEFORE = f"""{_SQL} SELECT {_CELLS}, batch_size, {_LAST_SEEN}
    FROM peers WHERE night < $last AND device_id IS NOT NULL GROUP BY {_CELLS}, batch_size"""  # noqa: S608
_SWEEPS = f"""{RUNS} SELECT sweep, max(night) FILTER (night < $last), bool_or(night = $last)
    FROM runs GROUP BY sweep"""  # noqa: S608 - our own columns

Case = tuple[str | None, ...]

#: How an event's notes begin: what they tell of has no field of its own, and the next night reads them.
_CASE, _BATCHES, RUN = "case: ", "batch sizes: ", "run: "


@dataclass(frozen=True)
class Change:
    """A case whose outcome is another than before: `batches` are those concerned.

    `event_id` is that of the open event it goes on with, empty for a new one. `runs` are the ids before and now.
    """

    case: tuple[str, ...]
    batches: tuple[str, ...]
    before: str
    now: str
    why: str
    keys: tuple[str, ...]
    runs: tuple[str, ...]
    event_id: str = ""

    @property
    def device(self) -> str:
        """The device's id."""
        return self.case[0]

    @property
    def name(self) -> str:
        """`resnet18/tensorrt/int8`, and what else tells the case from others; empty of a whole device."""
        return " ".join(["/".join(self.case[1:4]), *filter(None, self.case[4:6])])


@dataclass(frozen=True)
class _Seen:
    rank: int
    run: str
    why: str
    series_id: str
    sweep: str
    device_class: str
    peers: int
    night: str
    saturated: bool
    reached: bool


_Cells = Mapping[tuple[Case, str], _Seen]


@dataclass(frozen=True)
class _Tonight:
    """`swept`: by sweep that ran tonight, the night on which it ran before. `elsewhere`: runs by class and case."""

    cells: _Cells
    swept: Mapping[str, str]
    elsewhere: Mapping[tuple[str, Case, str], list[_Seen]]
    devices: frozenset[str]

    def rank(self, case: Case, batch: str, before: _Seen, *, told: bool) -> int | None:
        """A cell's rank; None where the night says nothing of it. `told`: an open event speaks of it already."""
        seen = self.seen(case, batch)
        if seen is not None:
            return seen.rank
        own = [found for (other, _), found in self.cells.items() if other == case]
        if own and (batch == "" or any(found.saturated for found in own)):
            return min(found.rank for found in own) if batch == "" else None
        others = self._others(case, batch, before)
        # A job for any device of a class may have run on another one; each of them counts once.
        if others and others[0].rank == 0 and others[0].peers >= before.peers:
            return None
        nowhere = [found.rank for found in others if not found.reached]
        return nowhere[0] if nowhere else self._missing(before, told)

    def seen(self, case: Case, batch: str) -> _Seen | None:
        """The run that speaks of a cell."""
        return self.cells.get((case, batch)) or self.cells.get((case, ""))

    def _others(self, case: Case, batch: str, before: _Seen) -> list[_Seen]:
        keys = [(before.device_class, case[1:], size) for size in (batch, "")]
        return sorted((seen for key in keys for seen in self.elsewhere.get(key, ())), key=lambda seen: seen.rank)

    def _missing(self, before: _Seen, told: bool) -> int | None:
        """New only on the first night without: once it is accepted, it is not told again."""
        known = before.sweep in self.swept if told else self.swept.get(before.sweep) == before.night
        return _RANK[MISSING] if known else None


def changes(store: Store, calendar: Calendar, over: Window, night: str, open_events: Iterable[Event]) -> list[Change]:
    """Every case that got worse since it was last seen, and what became of those that had: as events go on."""
    asked = over.parameters(calendar)
    tonight = _tonight(store, asked)
    if not tonight.cells:
        return []
    known = {_noted(event, _CASE): event for event in open_events if event.kind == KIND}
    cases: dict[Case, dict[str, tuple[_Seen, int]]] = {}
    away: dict[str, tuple[_Seen, int]] = {}
    for (case, batch), seen in _read(store, _BEFORE, asked).items():
        told = _told(tuple(value or "" for value in case)) in known or str(case[0]) in known
        now = tonight.rank(case, batch, seen, told=told)
        if now == _RANK[MISSING] and str(case[0]) not in tonight.devices:
            away[str(case[0])] = (seen, now)
        elif now is not None:
            cases.setdefault(case, {})[batch] = (seen, now)
    cases |= {(device, *[None] * (len(_CELL) - 1)): {"": pair} for device, pair in away.items()}
    cases |= _returned(known, tonight)
    found = []
    for case, batches in cases.items():
        words = tuple(value or "" for value in case)
        event = known.get(_told(words))
        found += [_ongoing(words, batches, event, tonight)] if event else _worse(words, batches, tonight)
    return sorted(found, key=lambda change: change.case)


def _tonight(store: Store, asked: Mapping[str, Any]) -> _Tonight:
    cells = _read(store, _TONIGHT, asked)
    elsewhere: dict[tuple[str, Case, str], list[_Seen]] = {}
    for (case, batch), seen in cells.items():
        elsewhere.setdefault((seen.device_class, case[1:], batch), []).append(seen)
    swept = {str(name): str(last) for name, last, now in store.index.stream(_SWEEPS, asked) if now and last}
    return _Tonight(cells, swept, elsewhere, frozenset(str(case[0]) for case, _ in cells))


def _returned(known: Mapping[str, Event], tonight: _Tonight) -> dict[Case, dict[str, tuple[_Seen, int]]]:
    """Devices that were away and ran something tonight."""
    found: dict[Case, dict[str, tuple[_Seen, int]]] = {}
    for event in known.values():
        if of_device(event) and event.device in tonight.devices:
            ran = next(seen for (case, _), seen in tonight.cells.items() if case[0] == event.device)
            found[event.device, *[None] * (len(_CELL) - 1)] = {"": (ran, _RANK[OK])}
    return found


def _read(store: Store, sql: str, asked: Mapping[str, Any]) -> dict[tuple[Case, str], _Seen]:
    found = {}
    width = len(_CELL)
    for row in store.index.stream(sql, asked):
        batch = "" if row[width] is None else str(row[width])
        rank, *texts, peers, night, saturated = row[width + 1 :]
        run, why, series_id, sweep, device_class = (str(text or "") for text in texts)
        found[tuple(row[:width]), batch] = _Seen(
            int(rank),
            run,
            why,
            series_id,
            sweep,
            device_class,
            int(peers),
            str(night),
            bool(saturated),
            row[0] is not None,
        )
    return found


def _worse(case: tuple[str, ...], batches: Mapping[str, tuple[_Seen, int]], tonight: _Tonight) -> list[Change]:
    worse = {batch: pair for batch, pair in batches.items() if pair[1] > pair[0].rank and pair[0].rank < 2}
    return [_change(case, worse, tonight)] if worse else []


def _ongoing(
    case: tuple[str, ...],
    batches: Mapping[str, tuple[_Seen, int]],
    event: Event,
    tonight: _Tonight,
) -> Change:
    """A case with an open event: judged by the batch sizes that the event names."""
    named = set(_noted(event, _BATCHES).split(", "))
    held = {batch: pair for batch, pair in batches.items() if batch in named} or dict(batches)
    made = _change(case, held, tonight)
    return Change(**{**vars(made), "event_id": event.event_id})


def _change(case: tuple[str, ...], batches: Mapping[str, tuple[_Seen, int]], tonight: _Tonight) -> Change:
    # A ladder that ended early leaves larger batch sizes missing: what ended it is what there is to say.
    ran = [batch for batch, pair in batches.items() if pair[1] != _RANK[MISSING]]
    worst = max(ran or batches, key=lambda batch: (batches[batch][1], batch))
    before, now = batches[worst]
    key = tuple(value or None for value in case)
    seen = tonight.seen(key, worst)
    ids = sorted({f"{pair[0].series_id}:{METRIC}" for pair in batches.values() if pair[0].series_id})
    return Change(
        case=case,
        batches=tuple(sorted(batches, key=lambda text: (len(text), text))),
        before=_NAMES[before.rank],
        now=_NAMES[now],
        why=seen.why if seen else "",
        keys=tuple(ids),
        runs=tuple(filter(None, (before.run, seen.run if seen else ""))),
    )


def of_device(event: Event) -> bool:
    """Whether the event says that nothing at all ran on its device."""
    return event.kind == KIND and _noted(event, _CASE) == event.device


def runs_of(event: Event) -> list[str]:
    """The ids of an event's runs: before and now, as far as there are any."""
    return [note.removeprefix(RUN) for note in event.notes if note.startswith(RUN)]


def subject_of(event: Event) -> str:
    """The case that an event is about, in words, for where the index does not know its series."""
    case, batches = _noted(event, _CASE), _noted(event, _BATCHES)
    return f"{case or event.device}, batch {batches}" if batches else case or event.device


def _noted(event: Event, beginning: str) -> str:
    """What the note with this beginning says; empty without one."""
    return next((note.removeprefix(beginning) for note in event.notes if note.startswith(beginning)), "")


def _told(case: tuple[str, ...]) -> str:
    return " | ".join(filter(None, case))


def events(found: Iterable[Change], past: Iterable[Event], night: str) -> list[Event]:
    """The events of a night's changes: new ones, and those before as they are now.

    The first night a change is NEW, since a lost connection looks the same; seen again it is CONFIRMED. Once a case is
    as good as it was before, it is FIXED.
    """
    known = {event.event_id: event for event in past if event.kind == KIND}
    made = [_event(change, known.get(change.event_id), night) for change in found]
    named = {event.event_id for event in made}
    return made + [event for event in known.values() if event.event_id not in named]


def _event(change: Change, before: Event | None, night: str) -> Event:
    if before is not None:
        good = before.cause[0].partition(" -> ")[0] if before.cause else OK
        back = _RANK[change.now] <= _RANK.get(good, 0)
        state = State.FIXED if back else State.CONFIRMED
        return Event(**{**vars(before), "night": night, "state": state})
    batches = ", ".join(change.batches)
    return Event(
        event_id=short_digest([KIND, change.case, night], 10),
        kind=KIND,
        metric=METRIC,
        device=change.device,
        keys=change.keys,
        since=night,
        night=night,
        state=State.NEW,
        change=0.0,
        worse=True,
        cause=(f"{change.before} -> {change.now}", *filter(None, (change.why,))),
        notes=(
            _CASE + _told(change.case),
            *([_BATCHES + batches] if batches else []),
            *(RUN + run for run in change.runs),
        ),
    )
