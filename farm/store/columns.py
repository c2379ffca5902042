# SPDX-License-Identifier: Apache-2.0
"""The index's columns: one flat row per record.

Metrics keep their names, except that characters SQL would need quotes for become `_`: `mismatch_1e-3_pct` is the
column `mismatch_1e_3_pct`. Times are UTC. What a record does not have is NULL, never 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from farm.contract.canonical import short_digest
from farm.contract.job import Calibration, Protocol
from farm.contract.metrics import METRICS
from farm.contract.record import Record
from farm.identity import series_id, switches, telling, threads_text
from farm.store.schema import RecordError, utc_time

#: Longest text kept in the index, in characters. The record has the whole.
TEXT_LIMIT = 4000

_INT64 = 2**63


@dataclass(frozen=True)
class Column:
    """`kind` is DuckDB's type."""

    name: str
    kind: str
    description: str


def column_name(name: str) -> str:
    """The column of a metric."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


_FACTS = (
    ("run_id", "VARCHAR", "the record's name"),
    ("job_id", "VARCHAR", "the job; the same for every batch size, attempt and generation"),
    ("sweep_id", "VARCHAR", "the sweep's id"),
    ("sweep", "VARCHAR", "the sweep's name"),
    ("model", "VARCHAR", "the model's name; of a text encoder with its sequence, `bert-base@128`"),
    ("sequence", "BIGINT", "tokens in a sequence; NULL for models that take none"),
    ("workflow", "VARCHAR", "how the model was run"),
    ("precision", "VARCHAR", "the precision asked for"),
    ("options", "VARCHAR", "the workflow's options that differ from their defaults, with commas between"),
    ("series_id", "VARCHAR", "the same for all runs of a point on a device with the same switches, whatever ran it"),
    ("scenario", "VARCHAR", "single, offline, or how many streams: `streams 4`, `streams 2, contexts 4`"),
    ("threads", "VARCHAR", "what the protocol says of threads: `threads 2, inter-op threads 4`"),
    ("point", "VARCHAR", "latency or accuracy: what the run measured"),
    ("calibration", "VARCHAR", "how int8 ranges were found: method, samples and batch"),
    ("batch_size", "BIGINT", "inputs per inference; NULL where the whole job ended without a point"),
    ("device_id", "VARCHAR", "the device; the one asked for where none was reached"),
    ("device_class", "VARCHAR", "the device's product"),
    ("device_kind", "VARCHAR", "cpu, gpu or soc"),
    ("host", "VARCHAR", "the device's host"),
    ("stack", "VARCHAR", "the stack's name"),
    ("outcome", "VARCHAR", "how the run ended"),
    ("failure_stage", "VARCHAR", "where it failed"),
    ("failure_reference", "VARCHAR", "the failure's stable key"),
    ("failure_message", "VARCHAR", "what went wrong"),
    ("flags", "VARCHAR", "names of the validity flags, with commas between"),
    ("validity", "VARCHAR", "valid, suspect or invalid: the worst level of any flag"),
    ("protocol", "VARCHAR", "the protocol's name"),
    ("protocol_id", "VARCHAR", "the same for all protocols with the same switches, whatever their names"),
    ("prepare_s", "DOUBLE", "stages of the preparation that the run built on, in s; the same for all runs of a job"),
    ("attempt", "BIGINT", "which try of the job this is"),
    ("generation", "BIGINT", "which deliberate repeat of the job this is"),
    ("started_at", "TIMESTAMP", "UTC"),
    ("finished_at", "TIMESTAMP", "UTC"),
    ("processes", "BIGINT", "fresh processes that the point was measured in; NULL where nothing ran"),
    ("ladder_stop", "VARCHAR", "on a job's last point: why the ladder ended there"),
    ("runner_digest", "VARCHAR", "digest of the runner's code"),
    ("git_revision", "VARCHAR", "revision of the farm's code"),
    ("latency_low_ms", "DOUBLE", "lower end of the interval of latency_ms"),
    ("latency_high_ms", "DOUBLE", "upper end of the interval of latency_ms"),
    ("latency_confidence", "DOUBLE", "how often such an interval covers what it speaks of"),
    ("latency_scope", "VARCHAR", "what it covers: within this run, or between so many processes"),
    ("top1_low", "DOUBLE", "lower end of the interval of top1"),
    ("top1_high", "DOUBLE", "upper end of the interval of top1"),
    ("top5_low", "DOUBLE", "lower end of the interval of top5"),
    ("top5_high", "DOUBLE", "upper end of the interval of top5"),
)


#: Metrics whose interval has columns, with the names of both.
_INTERVALS = (
    ("latency_ms", "latency_low_ms", "latency_high_ms"),
    ("top1", "top1_low", "top1_high"),
    ("top5", "top5_low", "top5_high"),
)


def _columns() -> dict[str, Column]:
    rows = [Column(*fact) for fact in _FACTS]
    rows += [Column(column_name(m.name), "DOUBLE", f"{m.description} ({m.unit})") for m in METRICS.values()]
    table = {row.name: row for row in rows}
    if len(table) != len(rows):
        raise RuntimeError("two columns of the index have the same name: rename the metric")
    return table


COLUMNS: dict[str, Column] = _columns()

#: Raise it when a column's meaning changes: rows with another one are made again from their records.
MEANING = 1

#: Changes with the columns, so that an index with others is made anew.
COLUMNS_DIGEST = short_digest([MEANING, [[c.name, c.kind] for c in COLUMNS.values()]])


def row_of(record: Record) -> dict[str, Any]:
    """Flatten a record. Keys without a value are left out; values are JSON."""
    row = {**_asked(record), **_found(record), **_numbers(record)}
    return {name: clean for name, value in row.items() if (clean := _clean(value)) is not None}


def options_text(options: Mapping[str, Any]) -> str:
    """A job's options as the index writes them; '' for none."""
    return ", ".join(f"{name}={json.dumps(options[name])}" for name in sorted(options))


def calibration_text(calibration: Calibration | None) -> str:
    """A job's calibration as the index writes it; '' for none."""
    return f"{calibration.summary}, batch {calibration.batch}" if calibration else ""


def protocol_id(protocol: Protocol) -> str:
    """Name a protocol by its switches: 12 hexadecimal digits."""
    return short_digest(telling(switches(protocol)), 12)


def _asked(record: Record) -> dict[str, Any]:
    job, protocol = record.job, record.job.protocol
    return {
        "run_id": record.run_id,
        "job_id": job.job_id,
        "sweep_id": job.sweep_id,
        "sweep": job.sweep_name,
        "model": job.model.label,
        "sequence": job.model.sequence,
        "workflow": job.workflow,
        "precision": job.precision,
        "options": options_text(job.options) or None,
        "scenario": protocol.lanes_name if protocol.scenario == "streams" else protocol.scenario,
        "threads": threads_text(protocol) or None,
        "point": record.point,
        "series_id": series_id(record),
        "calibration": calibration_text(job.calibration) or None,
        "batch_size": record.batch_size,
        "protocol": protocol.name,
        "protocol_id": protocol_id(protocol),
        "prepare_s": sum(stage.end_ns - stage.start_ns for stage in record.prepare_stages) / 1e9 or None,
        "attempt": record.attempt,
        "generation": job.generation,
    }


def _found(record: Record) -> dict[str, Any]:
    device, target, failure = record.device, record.job.target, record.failure
    return {
        "device_id": device.device_id if device else target.device_id,
        "device_class": device.device_class if device else target.device_class,
        "device_kind": device.kind if device else None,
        "host": device.host if device else None,
        "stack": record.stack.name if record.stack else None,
        "outcome": record.outcome.value,
        "failure_stage": failure.stage if failure else None,
        "failure_reference": failure.reference if failure else None,
        "failure_message": failure.message if failure else None,
        "flags": ",".join(flag.name for flag in record.flags),
        "validity": _validity(record),
        "started_at": _time(record.started_at),
        "finished_at": _time(record.finished_at),
        "processes": len(record.processes) or (1 if record.stages else None),
        "ladder_stop": record.ladder_stop,
        "runner_digest": _text(record.provenance.get("runner_digest")),
        "git_revision": _text(record.provenance.get("git_revision")),
    }


def _numbers(record: Record) -> dict[str, Any]:
    ends: dict[str, Any] = {}
    for metric, low, high in _INTERVALS:
        interval = record.intervals.get(metric)
        ends |= {low: interval.low, high: interval.high} if interval else {}
    latency = record.intervals.get("latency_ms")
    if latency is not None:
        ends |= {"latency_confidence": latency.confidence, "latency_scope": latency.scope}
    return {**ends, **{column_name(name): record.metrics.get(name) for name in METRICS}}


def _validity(record: Record) -> str:
    levels = {flag.level for flag in record.flags}
    return "invalid" if "invalid" in levels else "suspect" if "suspect" in levels else "valid"


def _time(text: str) -> str | None:
    try:
        return utc_time(text).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    except RecordError:
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _clean(value: Any) -> Any:
    """Make a value fit a column: whole UTF-8 of bounded length, finite numbers of 64 bits, else None."""
    if isinstance(value, str):
        return value[:TEXT_LIMIT].encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else None
    return value


def as_cell(value: Any) -> Any:
    """What a table shows: times as the records write them, ISO 8601 with the offset of UTC."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds") + "+00:00"
    return value
