# SPDX-License-Identifier: Apache-2.0
"""From the store's records to a device's canaries, in order of time: what the judgement is made from."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from farm.canary import NAME, Point, is_canary, pooled
from farm.canary.judge import HISTORY
from farm.contract.device import DeviceInfo
from farm.contract.outcome import Outcome
from farm.contract.record import Flag, Record
from farm.errors import IntegrityError
from farm.identity import conditions, device_settings, identity, software
from farm.store import Store
from farm.thresholds import Limits

#: How many canaries of a device are read: months of them, and a fraction of a second.
_MOST = 100

#: Doubts that speak of what else went on, and not of the device: such a canary says nothing.
NOT_THE_DEVICE = frozenset({"foreign_process", "host_busy", "stolen_time", "on_battery", "low_memory"})

#: The clock of each kind of device. A CPU's is the mean over its cores.
_CLOCKS = ("gpu_clock_sm_mhz", "cpu_frequency_mhz")
_COLUMNS = ("run_id", "job_id", "device_id", "device_class", "model", "workflow", "runner_digest", "latency_ms")


def read_canaries(store: Store, device: DeviceInfo, limits: Limits) -> tuple[list[Point], float]:
    """A device's canaries, the oldest first, and the spread that those of the others of its class have.

    Raises:
        UnavailableError: the store or its index cannot be read.
    """
    if not store.records.by_run.is_dir():
        return [], pooled([], limits)  # a new store
    store.index.refresh()
    table = store.index.query(
        NAME, "protocol = 'canary' AND point = 'latency'", _COLUMNS, ("finished_at", "run_id"), latest=True
    )
    rows = table.objects()
    jobs: dict[str, list[str]] = {}
    for row in rows:
        if row["device_id"] == device.device_id:
            jobs.setdefault(str(row["job_id"]), []).append(str(row["run_id"]))
    points = [point for runs in list(jobs.values())[-_MOST:] if (point := point_of(_read(store, runs))) is not None]
    return sorted(points, key=lambda point: (point.at, point.run_id)), pooled(_others(rows, device), limits)


def point_of(records: Sequence[Record]) -> Point | None:
    """One canary from the records of its job: the median of the medians of those that speak of the device."""
    own = [record for record in records if is_canary(record.job)]
    if not own:
        return None
    sound = [record for record in own if _problem(record) is None and record.metrics.get("latency_ms")]
    last = max(sound or own, key=lambda record: (record.finished_at, record.run_id))
    times = [record.metrics["latency_ms"] or 0.0 for record in sound]
    return Point(
        at=last.finished_at,
        run_id=last.run_id,
        latency_ms=statistics.median(times) if times else None,
        software=series_fields(last),
        problem="" if sound else _problem(last) or "it has no time",
        clock_mhz=_clock(sound),
        settings=device_settings(last),
        number=last.job.seed,
    )


def series_fields(record: Record) -> dict[str, str]:
    """What must be the same for two canaries of a device to be compared: the case, the conditions, all software."""
    fields = identity(record) | conditions(record) | software(record)
    del fields["seed"]  # the number of the series, which a point says by itself
    fields["runner"] = str(record.provenance.get("runner_digest") or "")[:12]
    fields["engine"] = str(record.effective.get("engine_sha256") or "")[:12]
    return {name: value for name, value in fields.items() if value}


def _problem(record: Record) -> str | None:
    """Why a record's time says nothing about the device."""
    if record.outcome is not Outcome.OK:
        reason = record.failure.message if record.failure else "no reason given"
        return f"{record.outcome}: {reason}"
    found = [flag for flag in record.flags if _disturbs(flag)]
    return f"disturbed: {found[0].evidence}" if found else None


def _disturbs(flag: Flag) -> bool:
    if flag.level == "info":
        return False
    return flag.name in NOT_THE_DEVICE or (flag.level == "invalid" and flag.name != "throttled")


def _clock(records: Iterable[Record]) -> float | None:
    for name in _CLOCKS:
        found = [clock for record in records if (clock := record.metrics.get(name))]
        if found:
            return statistics.median(found)
    return None


def _others(rows: Sequence[Mapping[str, Any]], device: DeviceInfo) -> list[list[float]]:
    """The latest times of each other device of the class, each in one series as far as the index can tell."""
    times: dict[tuple[str, ...], list[float]] = {}
    latest: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if row["device_class"] == device.device_class and row["device_id"] != device.device_id and row["latency_ms"]:
            key = tuple(str(row[name]) for name in ("device_id", "model", "workflow", "runner_digest"))
            times.setdefault(key, []).append(float(row["latency_ms"]))
            latest[key[0]] = key
    return [times[key][-HISTORY:] for key in latest.values()]


def _read(store: Store, runs: Iterable[str]) -> list[Record]:
    found = []
    for run_id in runs:
        try:
            found.append(store.records.read(run_id))
        except IntegrityError:
            continue  # `farm artifacts verify` names it
    return found
