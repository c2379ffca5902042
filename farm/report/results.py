# SPDX-License-Identifier: Apache-2.0
"""Every point on one line: CSV and Parquet for machines, and the appendix that each number of the page leads to."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from farm.contract.metrics import METRICS
from farm.contract.record import ACCURACY, Record
from farm.report import stats, text
from farm.report.select import Gap, Point, Selection, record_path
from farm.report.series import device_id
from farm.report.stats import Absent, Ratio
from farm.report.table import Cell, Column, Group, Row, Table, at, run_anchor
from farm.store.parquet import write_parquet

_PLACE = ("device_class", "device_id", "host")
_WHERE = (*_PLACE, "model", "sequence", "workflow", "precision", "variant", "point", "batch_size")
_END = ("outcome", "stage", "reference", "message", "hint", "flags", "withheld")
_INTERVAL = ("latency_ms_low", "latency_ms_high", "latency_ms_confidence", "latency_ms_scope")
_PROCESSES = "processes"
_SPEED_UP = ("speed_up", "speed_up_low", "speed_up_high", "speed_up_base_run_id")
_JOB = ("sweep_id", "sweep_name", "job_id", "generation", "attempt", "protocol")
_ORIGIN = (*_JOB, "ladder_stop", "started_at", "finished_at", "run_id", "record", "samples_sha256")


#: DuckDB's types of the columns that are neither text nor a metric.
_KINDS = dict.fromkeys(("sequence", "batch_size", _PROCESSES, "generation", "attempt"), "BIGINT") | dict.fromkeys(
    (*_INTERVAL[:3], *_SPEED_UP[:3]), "DOUBLE"
)


def result_rows(selection: Selection) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Every point and gap as a flat row: the columns in order, each with DuckDB's type, and the rows.

    Full precision, units in the names; what a row does not have is None or not in it.
    """
    extra = sorted({name for p in selection.points for name in p.record.metrics} - set(METRICS))
    metrics = [*METRICS, *extra]
    names = [*_WHERE, *_END, *metrics, *_INTERVAL, _PROCESSES, *_SPEED_UP, *_ORIGIN]
    kinds = {name: _KINDS.get(name, "VARCHAR") for name in names} | dict.fromkeys(metrics, "DOUBLE")
    rows = [_line(point, selection, metrics) for point in selection.points]
    return kinds, [*rows, *(_gap_line(gap) for gap in selection.gaps)]


def csv_text(selection: Selection) -> str:
    """The rows as CSV (RFC 4180), empty where there is no value.

    A text that a spreadsheet would take for a formula is kept from that with a leading apostrophe.
    """
    kinds, rows = result_rows(selection)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(kinds), restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({k: _safe(v) for k, v in row.items()} for row in rows)
    return stream.getvalue()


def write_result_parquet(selection: Selection, path: Path) -> Path:
    """Write the rows as Parquet, typed, with nothing escaped; what is not there is NULL.

    Raises:
        UnavailableError: `path` cannot be written.
    """
    kinds, rows = result_rows(selection)
    write_parquet(rows, kinds, path)
    return path


def _safe(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def _line(point: Point, selection: Selection, metrics: list[str]) -> dict[str, Any]:
    record, series = point.record, point.series
    failure = record.failure
    line: dict[str, Any] = {
        "device_class": series.device_class,
        "device_id": device_id(record),
        "host": record.device.host if record.device else "",
        "model": series.model,
        "sequence": record.job.model.sequence,
        "workflow": series.workflow,
        "precision": series.precision,
        "variant": series.variant,
        "point": record.point,
        "batch_size": record.batch_size,
        "outcome": str(record.outcome),
        _PROCESSES: stats.process_count(record) if record.processes or record.stages else None,
        "flags": "; ".join(f"{f.name} ({f.level}): {f.evidence}" for f in record.flags),
        "withheld": "; ".join(f"{k}: {v}" for k, v in sorted(record.withheld.items())),
    }
    if failure is not None:
        line |= {
            "stage": failure.stage,
            "reference": failure.reference,
            "message": failure.message,
            "hint": failure.hint,
        }
    line |= {name: _number(record, name) for name in metrics}
    return line | _bounds(record) | _ratio(point, selection) | _origin(record)


def _number(record: Record, name: str) -> float | None:
    found = stats.value(record, name)
    return None if isinstance(found, Absent) else found


def _bounds(record: Record) -> dict[str, Any]:
    found = stats.interval(record, "latency_ms")
    if found is None:
        return {}
    return dict(zip(_INTERVAL, (found.low, found.high, found.confidence, found.scope), strict=True))


def _ratio(point: Point, selection: Selection) -> dict[str, Any]:
    found = stats.speed_up(point, selection.references(point.series))
    if not isinstance(found, Ratio):
        return {}
    return dict(zip(_SPEED_UP, (found.value, found.low, found.high, found.base.record.run_id), strict=True))


def _origin(record: Record) -> dict[str, Any]:
    job = record.job
    values = (
        job.sweep_id, job.sweep_name, job.job_id, job.generation, record.attempt, job.protocol.name, record.ladder_stop,
        record.started_at, record.finished_at, record.run_id, record_path(record), " ".join(_samples(record)),
    )  # fmt: skip
    return dict(zip(_ORIGIN, values, strict=True))


def _gap_line(gap: Gap) -> dict[str, Any]:
    job, series = gap.job, gap.series
    return {
        "device_class": series.device_class,
        "model": series.model,
        "sequence": job.model.sequence,
        "workflow": series.workflow,
        "precision": series.precision,
        "variant": series.variant,
        "point": ACCURACY if gap.accuracy else job.ladder_point,
        "batch_size": gap.batch,
        "outcome": gap.kind,
        "message": gap.reason,
        "sweep_id": job.sweep_id,
        "sweep_name": job.sweep_name,
        "job_id": job.job_id,
        "generation": job.generation,
        "protocol": job.protocol.name,
    }


def _samples(record: Record) -> list[str]:
    """The digests of the raw samples, those of the latency first, in the order of the processes."""
    ordered = sorted(record.samples, key=lambda b: ("latency" not in b.kind, b.kind, b.process or 0))
    return [b.sha256 for b in ordered]


def appendix_table(selection: Selection) -> Table:
    """One row for each record used, with what leads back to the stored files."""
    columns = (
        Column("Outcome", numeric=False),
        Column("Started", "UTC", numeric=False),
        Column("Run id, record in the store", numeric=False, mono=True),
        Column("Raw samples", "sha256", numeric=False, mono=True),
    )
    groups: dict[str, list[Row]] = {}
    for point in selection.points:
        groups.setdefault(f"{point.series.model}, {point.series.device_class}", []).append(_appendix_row(point))
    caption = (
        "Every record behind this report. Paths are relative to the store's root; blobs are found by their sha256."
    )
    made = tuple(Group(title, tuple(rows)) for title, rows in groups.items())
    return Table("runs", "Records", caption, "Workflow, precision, batch", columns, made, "Model, device class")


def _appendix_row(point: Point) -> Row:
    record = point.record
    digests, processes = _samples(record), len(record.processes)
    cells = (
        Cell(text.plain(record.outcome)),
        Cell(
            record.started_at[:16].replace("T", " "),
            sub=f"generation {record.job.generation}, attempt {record.attempt}",
        ),
        Cell(record.run_id, sub=record_path(record)),
        Cell(
            digests[0] if digests else text.ABSENT,
            sub=f"of the first of {processes} processes" if digests and processes > 1 else "",
            note="" if digests else "no samples were stored",
            muted=not digests,
        ),
    )
    return Row(f"{point.series.label}, {at(point)}", cells, anchor=run_anchor(record))


__all__ = ["appendix_table", "csv_text", "result_rows", "write_result_parquet"]
