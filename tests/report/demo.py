# SPDX-License-Identifier: Apache-2.0
"""Made-up records for the report's tests: a plausible sweep, and one with everything that can go wrong."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

from farm.accuracy import accuracy_intervals
from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.job import AccuracySpec, BatchLadder, Calibration, JobSpec, ModelSpec, Target
from farm.contract.outcome import Failure, Outcome
from farm.contract.protocols import PROTOCOLS
from farm.contract.record import BlobRef, Flag, Record
from farm.contract.run import Mismatch
from farm.summary import summarise

DEVICE = DeviceInfo(
    device_id="bench-01-cpu",
    device_class="cpu-test-data-8-core",
    kind="cpu",
    host="bench-01",
    name="Made-up 8-core CPU (test data)",
    facts={"cores": 8, "threads": 16, "memory_bytes": 2**35, "instruction_sets": ["avx2", "avx512f"]},
)
STACK = StackInfo(
    name="default",
    python="/opt/stack/bin/python",
    python_version="3.12.4",
    libraries={"torch": "2.8.0", "torchvision": "0.23.0", "onnx": "1.19.0", "onnxruntime": "1.22.1", "numpy": "2.3.1"},
)
SIZES = (1, 4, 16)
WAYS = (("pytorch", "fp32"), ("onnxruntime_cpu", "fp32"), ("onnxruntime_cpu", "int8"))
BASE_MS = {"mobilenet_v2": 9.6, "resnet18": 13.8, "resnet50": 31.5}
FACTOR = {("pytorch", "fp32"): 1.0, ("onnxruntime_cpu", "fp32"): 0.61, ("onnxruntime_cpu", "int8"): 0.27}
COUNT = 150


def job(model: str = "resnet18", way: tuple[str, str] = WAYS[0], **overrides: Any) -> JobSpec:
    """A job of the made-up sweep."""
    workflow, precision = way
    fields: dict[str, Any] = {
        "job_id": "demo-" + hashlib.sha256(f"{model}{way}{sorted(overrides.items())}".encode()).hexdigest()[:12],
        "sweep_id": "demo-1a2b",
        "sweep_name": "demo",
        "model": ModelSpec(name=model),
        "workflow": workflow,
        "precision": precision,
        "batches": BatchLadder(sizes=SIZES, until=("out_of_memory", "saturated")),
        "protocol": PROTOCOLS["quick"],
        "target": Target(device_class=DEVICE.device_class),
        "calibration": Calibration(method="entropy", samples=128) if precision == "int8" else None,
    }
    return JobSpec(**(fields | overrides))


def samples_ns(of: JobSpec, batch: int, count: int = COUNT) -> list[int]:
    """Latencies of a run in ns: always the same for the same job and batch size, skewed as real ones are."""
    rng = random.Random(f"{of.name} {batch}")
    base = BASE_MS.get(of.model.name, 10.0) * FACTOR.get((of.workflow, of.precision), 1.0)
    centre = base * (0.15 + 0.85 * batch**0.93)
    return [round(1e6 * centre * (1 + abs(rng.gauss(0, 0.012)) + 0.004 * rng.expovariate(1))) for _ in range(count)]


def ok(of: JobSpec, batch: int, **overrides: Any) -> Record:
    """A run that went well."""
    raw = samples_ns(of, batch)
    summary = summarise(raw, batch_size=batch, wall_ns=sum(raw))
    fields: dict[str, Any] = {
        "run_id": of.run_id(batch),
        "outcome": Outcome.OK,
        "job": of,
        "batch_size": batch,
        "attempt": 1,
        "started_at": f"2026-03-01T10:{10 + batch:02d}:00.000000+00:00",
        "finished_at": f"2026-03-01T10:{10 + batch:02d}:41.250000+00:00",
        "device": DEVICE,
        "stack": STACK,
        "metrics": {**summary.metrics, **_costs(of, batch), **_mismatch(of)},
        "intervals": dict(summary.intervals),
        "withheld": dict(summary.withheld),
        "mismatch": [Mismatch("output", {"0.001": 0.0}, 1e-5, 1e-6, 1.0, 0, 1000 * batch)],
        "flags": [],
        "samples": [BlobRef("samples:latency", _sha(of.run_id(batch)), 8 * len(raw), unit="ns", count=len(raw))],
        "ladder_stop": "end" if batch == max(SIZES) else None,
        "host": {"hostname": "bench-01", "kernel": "6.12.1", "governor": "performance", "load_1min": 0.03 * batch},
        "environment": {"torch_threads": 8},
        "effective": {"precision": of.precision, "threads": 8},
        "provenance": {"farm_version": "0.1.0", "git_revision": "c0ffee" * 6 + "c0ff", "runner_digest": "ab" * 32},
    }
    return Record(**(fields | overrides))


def bad(of: JobSpec, batch: int | None, outcome: Outcome, message: str, **overrides: Any) -> Record:
    """A run that did not go well, with a reason."""
    failure = Failure("measure", "test-reference", message, "Do something about it.", "Traceback ...")
    made = ok(of, batch or 1, failure=failure, outcome=outcome, batch_size=batch, run_id=of.run_id(batch))
    return replace(made, metrics={}, intervals={}, withheld={}, mismatch=[], samples=[], **overrides)


def sweep() -> list[Record]:
    """The whole made-up sweep: 3 models, 3 ways, 3 batch sizes, all ok."""
    jobs = [job(model, way) for model in BASE_MS for way in WAYS]
    return [ok(of, batch) for of in jobs for batch in SIZES]


def rough_sweep() -> list[Record]:
    """The same 27 points with two flagged, one out of memory (which ends its ladder), one refused job, one missing."""
    flagged = Flag("unstable", "suspect", "robust CV 4.1 % is above 2.5 %")
    broken = Flag("foreign_process", "invalid", "another process used 1.9 of 8 cores during the timed stage")
    doubts = {("resnet18", WAYS[1], 4): [flagged], ("mobilenet_v2", WAYS[2], 1): [broken]}
    records = []
    for model in BASE_MS:
        for way in WAYS:
            of = job(model, way)
            if (model, way) == ("resnet50", WAYS[2]):
                refused = bad(of, None, Outcome.UNSUPPORTED, "this stack's onnxruntime has no static quantizer")
                records.append(replace(refused, device=None, stack=None))
                continue
            for batch in SIZES:
                records.append(ok(of, batch, flags=doubts.get((model, way, batch), [])))
    dropped = {job("resnet50", WAYS[0]).run_id(16), job("mobilenet_v2", WAYS[1]).run_id(4)}
    kept = [r for r in records if r.run_id not in dropped]
    at4 = job("resnet50", WAYS[0]).run_id(4)
    full = bad(
        job("resnet50", WAYS[0]), 4, Outcome.OUT_OF_MEMORY, "the host ran out of memory", ladder_stop="out_of_memory"
    )
    return [full if r.run_id == at4 else r for r in kept]


def evaluated(of: JobSpec, right: int | None, count: int = 360, **overrides: Any) -> Record:
    """The accuracy of a job, `right` of `count` images; None: not run."""
    asked = replace(of, data="digits", accuracy=AccuracySpec("digits"))
    metrics = {} if right is None else {"top1": right / count, "top5": 1.0, "accuracy_samples": float(count)}
    made = ok(asked, 16, point="accuracy", run_id=of.accuracy_run_id, metrics=metrics, withheld={}, mismatch=[])
    made = replace(made, samples=[], ladder_stop=None, intervals=dict(accuracy_intervals(metrics)))
    if right is None:
        failure = Failure("start", "accuracy-not-run", "no point of the ladder was ok", "See the ladder.")
        made = replace(made, outcome=Outcome.FAILED, failure=failure, batch_size=None)
    return replace(made, **overrides)


def with_accuracy() -> list[Record]:
    """The sweep with digits as data and an accuracy for every job; one that was not run, and int8 by two batches."""
    records = []
    for model in BASE_MS:
        for way in WAYS:
            calibrations = [Calibration("entropy", 64, 1), Calibration("entropy", 64, 16)]
            for calibration in calibrations if way == WAYS[2] else [None]:
                of = job(model, way, data="digits", accuracy=AccuracySpec("digits"), calibration=calibration)
                right = {
                    "pytorch": 357,
                    "onnxruntime_cpu": 357 if calibration is None else 350 + calibration.batch // 4,
                }
                missed = (model, way) == ("resnet50", WAYS[1])
                records += [ok(of, batch) for batch in SIZES]
                records.append(evaluated(of, None if missed else right[way[0]]))
    return records


def load_samples(record: Record) -> list[int] | None:
    """What a store would give for a record's samples."""
    return samples_ns(record.job, record.batch_size or 1) if record.samples else None


def _costs(of: JobSpec, batch: int) -> dict[str, float]:
    weight = BASE_MS.get(of.model.name, 10.0)
    return {
        "first_inference_ms": weight * 3.1 * batch**0.8,
        "load_ms": weight * 14,
        "build_s": weight * (0.9 if of.precision == "int8" else 0.12),
        "engine_bytes": weight * 3.3e6 * (0.26 if of.precision == "int8" else 1),
        "host_rss_peak_bytes": 4.1e8 + weight * 6e6 * batch**0.7,
        "cpu_utilisation": 7.4,
        "timer_overhead_ns": 41.0,
        "timer_resolution_ns": 1.0,
    }


def _mismatch(of: JobSpec) -> dict[str, float]:
    loose, strict, top1, l2 = (96.4, 99.62, 0.984, 0.041) if of.precision == "int8" else (0.0104, 1.93, 1.0, 3.2e-7)
    if of.workflow == "pytorch":
        loose, strict, top1, l2 = 0.0, 0.0, 1.0, 0.0
    return {"mismatch_1e-3_pct": loose, "mismatch_1e-4_pct": strict, "top1_agreement": top1, "relative_l2_error": l2}


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
