# SPDX-License-Identifier: Apache-2.0
"""Made-up records for findings and choices: a latency with its scatter, an accuracy, a build."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from farm.contract.canonical import short_digest
from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.job import AccuracySpec, BatchLadder, Calibration, ModelSpec, Rebuild, Target
from farm.contract.outcome import Outcome
from farm.contract.record import ACCURACY, Interval, ProcessFacts, Record
from tests.factories import make_job, make_record

GPU = DeviceInfo("lab-gpu1", "big", "gpu", "lab", "Big GPU", {"compute_capability": "9.0"})
SMALL = DeviceInfo("lab-gpu2", "small", "gpu", "lab", "Small GPU", {"compute_capability": "8.6"})
STACK = StackInfo("trt", "/usr/bin/python3", "3.10.1", {"torch": "2.2.0", "tensorrt": "8.6.0"})
BEGIN = datetime(2026, 3, 1, 10, tzinfo=UTC)
INT8 = Calibration("entropy", 64, 8)

#: Half of the 95 % interval of one process's median, as a share.
WITHIN = 0.002


def stamp(minutes: float) -> str:
    """So many minutes after the beginning."""
    return (BEGIN + timedelta(minutes=minutes)).isoformat(timespec="microseconds")


def timed(ms: float | list[float], *, at: float = 0.0, clock: float | None = None, **given: Any) -> Record:
    """A latency point; of several values a run of as many processes. `given` are fields of the job and more."""
    values = ms if isinstance(ms, list) else [ms]
    device, effective = given.pop("device", GPU), given.pop("effective", {})
    batch, flags, extra = given.pop("batch", 1), given.pop("flags", []), given.pop("metrics", {})
    stack, artifacts = given.pop("stack", STACK), given.pop("artifacts", [])
    job = make_job(
        **{"workflow": "pytorch", "target": Target(device_id=device.device_id), "batches": BatchLadder((batch,))}
        | {"job_id": f"job-{sorted(given.items(), key=str)}-{batch}-{device.device_id}-{at}"[-90:]}
        | given
    )
    whole = {"latency_ms": sorted(values)[len(values) // 2], "gpu_clock_sm_mhz": clock} | extra
    processes = [
        ProcessFacts(i, Outcome.OK, stamp(at + i / 10), stamp(at + i / 10), metrics=whole | {"latency_ms": value})
        for i, value in enumerate(values, 1)
    ]
    return make_record(
        job=job,
        run_id=f"run-{short_digest([job.job_id, batch, at, device.device_id])}",
        batch_size=batch,
        device=device,
        stack=stack,
        started_at=stamp(at),
        finished_at=stamp(at + 1),
        metrics=whole,
        intervals={} if len(values) > 1 else {"latency_ms": around(values[0])},
        processes=processes if len(values) > 1 else [],
        flags=flags,
        effective=effective,
        withheld={},
        artifacts=artifacts,
    )


def around(value: float) -> Interval:
    """The interval within one run."""
    return Interval(value * (1 - WITHIN), value * (1 + WITHIN), 0.95, "order statistics", "within this run")


def evaluated(right: int, count: int = 5000, *, at: float = 0.0, **given: Any) -> Record:
    """An accuracy point."""
    spec = AccuracySpec("imagenet", "/data/imagenet")
    record = timed(1.0, at=at, **({"model": ModelSpec("resnet18", weights="default"), "accuracy": spec} | given))
    metrics = {"top1": right / count, "top5": 1.0, "accuracy_samples": float(count)}
    return dataclasses.replace(
        record, point=ACCURACY, metrics=metrics, intervals={}, processes=[], run_id=f"{record.run_id}-accuracy"
    )


def built(index: int, values: list[float], *, outputs: str = "o1", tactics: str = "t1", **given: Any) -> Record:
    """One build of several."""
    facts = {"engine_sha256": f"e{index}", "outputs_sha256": outputs, "tactics_sha256": tactics}
    rebuild = Rebuild(index, 10)
    given = {"workflow": "onnx_tensorrt", "precision": "fp16", "rebuild": rebuild, "job_id": f"b{index}"} | given
    return timed(values, at=index, effective=facts, **given)


def scattered(random: Random, ms: float, sd: float, count: int = 1) -> list[float]:
    """Processes of one thing, with a scatter of their logarithms."""
    return [ms * math.exp(random.gauss(0, sd)) for _ in range(count)]
