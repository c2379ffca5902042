# SPDX-License-Identifier: Apache-2.0
"""Finished sweeps in a real store, with the ids that a farm would give them."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from farm.api import Farm
from farm.sweep import SweepSpec, parse_sweep
from scheduler.expand import jobs_at
from tests.factories import make_record

BEGIN = datetime(2026, 3, 1, 10, tzinfo=UTC)


def sweep(name: str, *, batch: str = "1, 2", workflow: str = "onnxruntime_cpu", protocol: str = "quick") -> SweepSpec:
    """A small sweep."""
    return parse_sweep(
        f"name: {name}\nprotocol: {protocol}\nmodels: [resnet18]\nworkflows: [{workflow}]\nprecisions: [fp32]\n"
        f"batch: [{batch}]\n",
        "test.yaml",
    )


def put(farm: Farm, spec: SweepSpec, ms: float, *, hour: float = 0.0, skip: tuple[int, ...] = (), **fields: Any) -> str:
    """Store a sweep with a record of each of its points but those of the sizes to skip; return its id."""
    farm.store.create()
    at = BEGIN + timedelta(hours=hour)
    placed = {"places": ["cls:cpu-test"], "narrowed": {}, "submitted_at": at.timestamp()}
    document = spec.document() | placed
    farm.store.sweeps.write(spec.sweep_id, document)
    for job in jobs_at(SweepSpec.from_document(document), document["places"], {}):
        for size in job.batches.sizes:
            if size not in skip:
                farm.store.records.write(
                    make_record(
                        job=dataclasses.replace(job, sweep_id=spec.sweep_id),
                        batch_size=size,
                        started_at=at.isoformat(timespec="microseconds"),
                        finished_at=(at + timedelta(seconds=9)).isoformat(timespec="microseconds"),
                        **{"metrics": {"latency_ms": ms * size}, "intervals": {}} | fields,
                    )
                )
    return spec.sweep_id


def put_repeats(farm: Farm, spec: SweepSpec, ms: float, count: int = 5, **fields: Any) -> list[str]:
    """Store a sweep and its repeats, each a bit slower than the one before."""
    hour = fields.pop("hour", 0.0)
    return [put(farm, spec.repeated(i), ms * (1 + i / 1000), hour=hour + i, **fields) for i in range(count)]
