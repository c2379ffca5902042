# SPDX-License-Identifier: Apache-2.0
"""From the store's records to a device's canaries, in order of time: what the judgement is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from farm.canary import NAME, is_canary
from farm.canary.judge import HISTORY, pooled
from farm.canary.series import Point
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
    # A canary has one batch size, so one record; of a job that was given up after it the later one speaks.
    jobs = {str(row["job_id"]): str(row["run_id"]) for row in rows if row["device_id"] == device.device_id}
    records = [_read(store, run_id) for run_id in list(jobs.values())[-_MOST:]]
    points = [point for record in records if record is not None and (point := point_of(record)) is not None]
    return sorted(points, key=lambda point: (point.at, point.run_id)), pooled(_others(rows, device), limits)


def point_of(record: Record) -> Point | None:
    """One canary from its record, whose time is the median over its processes; None if it is no canary's."""
    if not is_canary(record.job):
        return None
    latency_ms, problem = record.metrics.get("latency_ms"), _problem(record)
    if problem is None and not latency_ms:
        problem = "it has no time"
    return Point(
        at=record.finished_at,
        run_id=record.run_id,
        latency_ms=latency_ms if problem is None else None,
        software=series_fields(record),
        problem=problem or "",
        clock_mhz=_clock(record) if problem is None else None,
        settings=device_settings(record),
        number=record.job.seed,
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


def _clock(record: Record) -> float | None:
    return next((clock for name in _CLOCKS if (clock := record.metrics.get(name))), None)


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


def _read(store: Store, run_id: str) -> Record | None:
    try:
        return store.records.read(run_id)
    except IntegrityError:
        return None  # `farm artifacts verify` names it
