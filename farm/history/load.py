# SPDX-License-Identifier: Apache-2.0
"""From the store's index to series: one value per night, the median over the night's valid runs.

The index does the grouping, a part of the series at a time, so that a million records need neither much time nor much
memory. `calendar` says which night a record is of, and which sweeps are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from farm.contract.metrics import METRICS
from farm.history.calendar import Calendar
from farm.history.model import NightPoint, Series
from farm.store import Store
from farm.store.columns import column_name

#: How many nights are looked at to judge one: more than any rule needs, so that missing nights cost nothing.
NIGHTS = 60

#: Grouped at once: bounds the memory of the medians.
_GROUPS = 100_000
#: Values held at once by who asks for `batches`.
_POINTS = 400_000

#: The identity of a series for people, by the index's column.
FIELDS = {
    "model": "model",
    "workflow": "workflow",
    "precision": "precision",
    "options": "options",
    "calibration": "calibration",
    "batch": "batch_size",
    "stack": "stack",
    "scenario": "scenario",
    "point": "point",
    "sweep": "sweep",
    "kind": "device_kind",
    "images": "accuracy_samples",
}

#: Runs with their night; canaries, pipelines and what was measured to settle something are left out.
RUNS = """
WITH named AS (SELECT unnest($sweeps::VARCHAR[]) AS sweep_id, unnest($nights::VARCHAR[]) AS named_night),
apart AS (SELECT unnest($apart::VARCHAR[]) AS sweep_id),
dated AS (
    SELECT r.*, coalesce(named_night, strftime(started_at, '%Y-%m-%d')) AS night
    FROM records r LEFT JOIN named USING (sweep_id) ANTI JOIN apart USING (sweep_id)
    WHERE NOT (sweep = 'canary' AND protocol = 'canary') AND point <> 'pipeline'
        AND finished_at >= $since
),
runs AS (SELECT * FROM dated WHERE night BETWEEN $first AND $last)
"""
_SOUND = "outcome = 'ok' AND validity = 'valid'"
_FACTS = ("device", "device_class", *FIELDS)
_NEWEST = ", ".join(f"arg_max({column}, started_at)" for column in ("device_id", "device_class", *FIELDS.values()))
_FACTS_SQL = f"{RUNS} SELECT series_id, count(*), {_NEWEST} FROM runs WHERE {_SOUND} GROUP BY series_id"  # noqa: S608


@dataclass(frozen=True)
class Window:
    """The nights from `first` to `last`, both included, that have records; none of those finished before `since`.

    The index's files hold records in about the order in which they finished: by that time most need not be read.
    """

    first: str
    last: str
    since: datetime = datetime.min

    def parameters(self, calendar: Calendar) -> dict[str, Any]:
        """What `RUNS` asks for."""
        return {
            "sweeps": list(calendar.night_of.keys()),
            "nights": list(calendar.night_of.values()),
            "apart": sorted(calendar.apart),
            "first": self.first,
            "last": self.last,
            "since": self.since,
        }


def window(store: Store, calendar: Calendar, night: str | None = None, nights: int = NIGHTS) -> Window:
    """The last `nights` nights with records up to `night`; with None, up to the newest.

    Raises:
        UnavailableError: the index cannot be read.
    """
    asked = Window("", night or "9999-12-31").parameters(calendar)
    sql = f"""{RUNS} SELECT night, min(finished_at) FROM runs
        GROUP BY night ORDER BY night DESC LIMIT {int(nights)}"""  # noqa: S608 - a number
    found = list(store.index.stream(sql, asked))
    if not found:
        return Window(night or "", night or "")
    return Window(str(found[-1][0]), night or str(found[0][0]), min(since for _, since in found))


class Loader:
    """The series of some nights. What they are is read once, their values as often as asked for.

    Raises:
        UnavailableError: from any method: the index cannot be read.
    """

    def __init__(self, store: Store, calendar: Calendar, over: Window) -> None:
        self._store = store
        self._asked = over.parameters(calendar)
        self._facts: dict[str, tuple[dict[str, str], int]] = {}
        for series_id, count, *values in store.index.stream(_FACTS_SQL, self._asked):
            told = {name: "" if value is None else str(value) for name, value in zip(_FACTS, values, strict=True)}
            self._facts[str(series_id)] = (told, int(count))

    def batches(self, metrics: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The metrics in groups: of each, all series fit into memory together."""
        size = max(1, _POINTS // max(1, self._groups(None)))
        for start in range(0, len(metrics), size):
            yield tuple(metrics[start : start + size])

    def series(
        self, metrics: Sequence[str], series_ids: Collection[str] | None = None, *, runs: bool = False
    ) -> Iterator[Series]:
        """Yield every series of these metrics, in the order of their ids.

        Args:
            metrics: names of `farm.contract.metrics`, of those that have a better side.
            series_ids: only these; None means all.
            runs: also name the runs behind each point.
        """
        parts = max(1, -(-self._groups(series_ids) // _GROUPS))
        sql, wanted = _medians(metrics, series_ids, runs), _wanted(series_ids)
        for part in range(parts):
            rows = self._store.index.stream(sql, self._asked | wanted | {"part": part, "parts": parts})
            for series_id, points in itertools.groupby(rows, key=lambda row: str(row[0])):
                yield from _series(series_id, list(points), self._facts[series_id][0], metrics)

    def run_seconds(self, series_ids: Collection[str]) -> dict[str, float]:
        """How long one process of a run of each series takes, in seconds: the median."""
        sql = f"""{RUNS} SELECT series_id, median(epoch(finished_at - started_at) / greatest(coalesce(processes, 1), 1))
            FROM runs WHERE {_SOUND} {_among(series_ids)} GROUP BY series_id"""  # noqa: S608 - our own columns
        rows = self._store.index.stream(sql, self._asked | _wanted(series_ids))
        return {str(series_id): float(seconds or 0.0) for series_id, seconds in rows}

    def _groups(self, series_ids: Collection[str] | None) -> int:
        if series_ids is None:
            return sum(count for _, count in self._facts.values())
        return sum(self._facts[name][1] for name in series_ids if name in self._facts)


def left_out(store: Store, calendar: Calendar, night: str, since: datetime = datetime.min) -> dict[str, int]:
    """How many ok runs of a night no series is made of, by their validity: `suspect`, `invalid`."""
    sql = f"""{RUNS} SELECT validity, count(*) FROM runs
        WHERE outcome = 'ok' AND validity <> 'valid' GROUP BY validity"""  # noqa: S608 - our own columns
    asked = Window(night, night, since).parameters(calendar)
    return {str(name): int(count) for name, count in store.index.stream(sql, asked)}


def _wanted(series_ids: Collection[str] | None) -> dict[str, Any]:
    return {} if series_ids is None else {"wanted": sorted(series_ids)}


def _among(series_ids: Collection[str] | None) -> str:
    return "" if series_ids is None else "AND series_id IN (SELECT unnest($wanted::VARCHAR[]))"


def _medians(metrics: Sequence[str], series_ids: Collection[str] | None, runs: bool) -> str:
    values = ", ".join(f"median({column_name(name)})" for name in metrics)
    named = "list(run_id ORDER BY started_at, run_id)" if runs else "NULL"
    return f"""{RUNS} SELECT series_id, night, {named}, {values} FROM runs
        WHERE {_SOUND} AND hash(series_id) % $parts::BIGINT = $part::BIGINT {_among(series_ids)}
        GROUP BY series_id, night ORDER BY series_id, night"""  # noqa: S608 - our own columns


def _series(
    series_id: str, rows: Sequence[tuple[Any, ...]], facts: Mapping[str, str], metrics: Sequence[str]
) -> Iterator[Series]:
    fields = {name: facts[name] for name in FIELDS}
    for place, metric in enumerate(metrics, start=3):
        points = tuple(NightPoint(row[1], row[place], tuple(row[2] or ())) for row in rows if row[place] is not None)
        if points:
            better = METRICS[metric].better or "lower"
            yield Series(series_id, metric, facts["device"], facts["device_class"], better, fields, points)
