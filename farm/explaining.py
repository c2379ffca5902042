# SPDX-License-Identifier: Apache-2.0
"""What `farm explain` reads from the store: the run that a name stands for, and its layers or its pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from farm.contract.codec import DecodeError, from_json, to_json
from farm.contract.layers import LAYERS_ARTIFACT, LayerTable
from farm.contract.pipeline import PipelineResult
from farm.contract.record import Record
from farm.errors import IntegrityError, UsageError
from farm.explain import (
    Difference,
    Profiled,
    Total,
    by_kind,
    by_precision,
    compare_layers,
    outside_tensorrt,
    top,
    total_of,
)
from farm.explain.pipeline import pipeline_of
from farm.selecting import split, words_of
from farm.store import BadRecord, Store

_HINT = "Measure it with `profile: layers` in the sweep (docs/profiling.md), or `study: pipeline` (docs/pipeline.md)."


def explained(name: str, store: Store, find: Callable[[str], str]) -> Profiled | tuple[Record, PipelineResult]:
    """The run called `name`: an id, or a sweep, with words after colons where it has several (`SWEEP:pytorch:fp16:b1`).

    Its layers, or of a study of the pipeline its record and what it found. `find` gives a sweep's id, or raises
    UsageError.

    Raises:
        UsageError: there is no such run or sweep, it has neither, or the sweep has several.
        IntegrityError: the table does not fit its schema.
    """
    records = _called(name, store, find)
    studies = [(record, result) for record in records if (result := pipeline_of(record)) is not None]
    if len(studies) > 1:
        raise _several(name, [record for record, _ in studies], "pipelines")
    return studies[0] if studies else _profiled(name, records, store)


def profiled(name: str, store: Store, find: Callable[[str], str]) -> Profiled:
    """As `explained`, of a run with layers."""
    return _profiled(name, _called(name, store, find), store)


def _profiled(name: str, records: list[Record], store: Store) -> Profiled:
    record = records[0] if [each.run_id for each in records] == [name] else _only(name, records)
    ref = next((ref for ref in record.artifacts if ref.kind == LAYERS_ARTIFACT), None)
    if ref is None:
        raise UsageError(f"run {record.run_id} has no table of layers{_why(record)}", hint=_HINT)
    try:
        return Profiled(record, from_json(LayerTable, json.loads(store.blobs.read(ref.sha256))))
    except (DecodeError, ValueError) as error:
        raise IntegrityError(f"the table of layers of run {record.run_id} cannot be used: {error}") from error


def _called(name: str, store: Store, find: Callable[[str], str]) -> list[Record]:
    """The one run of an id, or those of a sweep that have all of the words; each record is read once."""
    return [store.records.read(name)] if _is_run(name, store) else _of_sweep(name, store, find)


def _of_sweep(name: str, store: Store, find: Callable[[str], str]) -> list[Record]:
    sweep, words = split(name)
    every = [r for r in store.records.iterate(find(sweep)) if not isinstance(r, BadRecord)]
    return [record for record in every if words <= _words(record)]


def _is_run(name: str, store: Store) -> bool:
    try:
        return store.records.exists(name)
    except UsageError:  # no run's name has a colon
        return False


def _only(name: str, records: list[Record]) -> Record:
    having = [record for record in records if any(ref.kind == LAYERS_ARTIFACT for ref in record.artifacts)]
    if len(having) == 1:
        return having[0]
    if not having:
        whys = [f"{record.run_id} ({record.job.name}){_why(record)}" for record in records if _why(record)]
        raise UsageError(f"sweep {name!r} has no run with a table of layers", problems=whys, hint=_HINT)
    raise _several(name, having, "profiled runs")


def _several(name: str, records: list[Record], what: str) -> UsageError:
    """A name that is not enough, with all that it stands for."""
    listed = [f"{record.run_id}  {record.job.name}, batch {record.batch_size}" for record in records]
    hint = f"Name a run, or say more: `{name}:{records[0].job.workflow}:b{records[0].batch_size}`."
    return UsageError(f"{name!r} stands for {len(records)} {what}", problems=listed, hint=hint)


def _words(record: Record) -> set[str]:
    job = record.job
    device = record.device.device_id if record.device else None
    return words_of(record.batch_size, job.model.label, job.workflow, job.precision, device)


def _why(record: Record) -> str:
    """What became of the profile, where one was asked for."""
    told = record.provenance.get("profiles", {}).get("layers")
    if not told:
        return ""
    failure = told.get("failure") or {}
    return f": its profile ended as {told.get('outcome')}, {failure.get('message', 'without a message')}"


def study_as_json(record: Record, found: PipelineResult) -> dict[str, Any]:
    """A study for another program."""
    return {"run": record.run_id, "name": record.job.name, "pipeline": to_json(found)}


def as_json(found: Profiled, count: int) -> dict[str, Any]:
    """One run for another program: the sum, the rows with most time."""
    total, table = total_of(found), found.table
    return {
        "run": found.record.run_id,
        "name": found.name,
        "source": table.source,
        "clock": table.clock,
        "iterations": table.iterations,
        "rows": len(table.layers),
        "outside_tensorrt": outside_tensorrt(table),
        "precisions": by_precision(table),
        "total": _total(total),
        "notes": list(table.notes),
        "top": [vars(layer) for layer in top(table, count)],
    }


def difference_as_json(base: Profiled, new: Profiled, count: int) -> dict[str, Any]:
    """Two runs for another program: the parts with the largest change."""
    found: Difference = compare_layers(base.table, new.table)
    parts = [
        {
            "name": group.name,
            "base_ns": group.base_ns,
            "new_ns": group.new_ns,
            "change_ns": group.change_ns,
            "base": [layer.name for layer in group.base],
            "new": [layer.name for layer in group.new],
            "notes": list(group.notes),
        }
        for group in found.groups[:count]
    ]
    return {
        "base": base.record.run_id,
        "new": new.record.run_id,
        "change_ns": found.change_ns,
        "matched": found.matched,
        "precisions": {"base": by_precision(base.table), "new": by_precision(new.table)},
        "kinds": [vars(kind) | {"change_ns": kind.change_ns} for kind in by_kind(base.table.layers, new.table.layers)],
        "explaining": [group.name for group in found.explaining()],
        "parts": parts,
    }


def _total(total: Total) -> dict[str, Any]:
    return {**vars(total), "ratio": total.ratio, "close": total.close}
