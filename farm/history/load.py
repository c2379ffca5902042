# SPDX-License-Identifier: Apache-2.0
"""From the store's index to series: one value per night, the median over the night's valid runs.

The index does the grouping, a part of the series at a time, so that a million records need neither much time nor much
memory. `calendar` says which night a record is of, and which sweeps are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
}

#: Runs with their night; canaries and what was measured to settle something are left out.
RUNS = """
WITH named AS (SELECT unnest($sweeps::VARCHAR[]) AS sweep_id, unnest($nights::VARCHAR[]) AS named_night),
apart AS (SELECT unnest($apart::VARCHAR[]) AS sweep_id),
dated AS (
    SELECT r.*, coalesce(named_night, strftime(started_at, '%Y-%m-%d')) AS night
    FROM records r LEFT JOIN named USING (sweep_id) ANTI JOIN apart USING (sweep_id)
    WHERE NOT (sweep = 'canary' AND protocol = 'canary')
),
runs AS (SELECT * FROM dated WHERE night BETWEEN $first AND $last)
"""
_SOUND = "outcome = 'ok' AND validity = 'valid'"


@dataclass(frozen=True)
class Window:
    """The nights from `first` to `last`, both included, that have records."""

    first: str
    last: str

    def parameters(self, calendar: Calendar) -> dict[str, Any]:
        """What `RUNS` asks for."""
        return _all(calendar) | {"first": self.first, "last": self.last}


def window(store: Store, calendar: Calendar, night: str | None = None, nights: int = NIGHTS) -> Window:
    """The last `nights` nights with records up to `night`; with None, up to the newest.

    Raises:
        UnavailableError: the index cannot be read.
    """
    asked = _all(calendar) | {"first": "", "last": night or "9999-12-31"}
    sql = f"{RUNS} SELECT DISTINCT night FROM runs ORDER BY night DESC LIMIT {int(nights)}"  # noqa: S608 - a number
    found = [str(row[0]) for row in store.index.stream(sql, asked)]
    return Window(found[-1], night or found[0]) if found else Window(night or "", night or "")


def load_series(
    store: Store,
    calendar: Calendar,
    over: Window,
    metrics: Sequence[str],
    series_ids: Collection[str] | None = None,
    *,
    runs: bool = False,
) -> Iterator[Series]:
    """Yield every series of these metrics, those of one `series_id` together, in the order of their keys.

    Args:
        over: the nights wanted.
        metrics: names of `farm.contract.metrics`, of those that have a better side.
        series_ids: only these; None means all.
        runs: also name the runs behind each point.

    Raises:
        UnavailableError: the index cannot be read.
    """
    facts = _facts(store, calendar, over, series_ids)
    parts = max(1, -(-sum(count for _, count in facts.values()) // _GROUPS))
    for part in range(parts):
        asked = over.parameters(calendar) | {"part": part, "parts": parts}
        rows = store.index.stream(_medians(metrics, series_ids, runs), asked | _wanted(series_ids))
        for series_id, points in itertools.groupby(rows, key=lambda row: row[0]):
            yield from _series(series_id, list(points), facts[series_id][0], metrics)


def left_out(store: Store, calendar: Calendar, night: str) -> dict[str, int]:
    """How many ok runs of a night no series is made of, by their validity: `suspect`, `invalid`."""
    sql = f"{RUNS} SELECT validity, count(*) FROM runs WHERE outcome = 'ok' AND validity <> 'valid' GROUP BY validity"
    return {str(name): int(count) for name, count in store.index.stream(sql, Window(night, night).parameters(calendar))}


def _all(calendar: Calendar) -> dict[str, Any]:
    return {
        "sweeps": list(calendar.night_of.keys()),
        "nights": list(calendar.night_of.values()),
        "apart": sorted(calendar.apart),
    }


def _wanted(series_ids: Collection[str] | None) -> dict[str, Any]:
    return {} if series_ids is None else {"wanted": sorted(series_ids)}


def _among(series_ids: Collection[str] | None) -> str:
    return "" if series_ids is None else "AND series_id IN (SELECT unnest($wanted::VARCHAR[]))"


def _facts(
    store: Store, calendar: Calendar, over: Window, series_ids: Collection[str] | None
) -> dict[str, tuple[dict[str, str], int]]:
    """What each series is, in words, and how many nights it may have."""
    columns = ["device_id", "device_class", *FIELDS.values()]
    newest = ", ".join(f"arg_max({column}, started_at)" for column in columns)
    sql = f"""{RUNS} SELECT series_id, count(*), {newest} FROM runs
        WHERE {_SOUND} {_among(series_ids)} GROUP BY series_id"""  # noqa: S608 - our own columns
    found = {}
    for series_id, count, *values in store.index.stream(sql, over.parameters(calendar) | _wanted(series_ids)):
        names = ["device", "device_class", *FIELDS]
        told = {name: "" if value is None else str(value) for name, value in zip(names, values, strict=True)}
        found[str(series_id)] = (told, int(count))
    return found


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
