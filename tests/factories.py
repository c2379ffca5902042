# SPDX-License-Identifier: Apache-2.0
"""Valid jobs and records for tests: everything by default, anything by keyword."""

from __future__ import annotations

from typing import Any

from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.job import BatchLadder, JobSpec, ModelSpec, Target
from farm.contract.outcome import Failure, Outcome
from farm.contract.protocols import PROTOCOLS
from farm.contract.record import BlobRef, Flag, Interval, Record
from farm.contract.run import Mismatch, StageTime

DEVICE = DeviceInfo(
    device_id="box-cpu",
    device_class="cpu-test",
    kind="cpu",
    host="box",
    name="Test CPU",
    facts={"cores": 4, "memory_bytes": 2**33},
)
STACK = StackInfo(name="default", python="/usr/bin/python3", python_version="3.11.7", libraries={"torch": "2.8.0"})


def make_job(**overrides: Any) -> JobSpec:
    """A job on `DEVICE`. `model` may be a name."""
    fields: dict[str, Any] = {
        "job_id": "sweep-1-0123456789abcdef",
        "sweep_id": "sweep-1",
        "sweep_name": "sweep",
        "model": "resnet18",
        "workflow": "onnxruntime_cpu",
        "precision": "fp32",
        "batches": BatchLadder(sizes=(1, 2, 4)),
        "protocol": PROTOCOLS["paper"],
        "target": Target(device_id=DEVICE.device_id),
    } | overrides
    if isinstance(fields["model"], str):
        fields["model"] = ModelSpec(name=fields["model"])
    return JobSpec(**fields)


def make_record(**overrides: Any) -> Record:
    """A record of an `ok` run, or of a failed one if `outcome` says so. `run_id` follows the job unless given."""
    job = overrides.pop("job", None) or make_job()
    fields: dict[str, Any] = {
        "outcome": Outcome.OK,
        "batch_size": 1,
        "attempt": 1,
        "started_at": "2026-03-01T10:00:00.000000+00:00",
        "finished_at": "2026-03-01T10:00:09.250000+00:00",
        "device": DEVICE,
        "stack": STACK,
        "stages": [StageTime("warm_up", 1_000, 2_000), StageTime("measure", 2_000, 9_000)],
        "metrics": {"latency_ms": 8.25, "throughput_per_s": 121.2, "sample_count": 50.0, "mismatch_1e-3_pct": 0.5},
        "intervals": {"latency_ms": Interval(8.125, 8.5, 0.95, "order statistics", "within this run")},
        "withheld": {"latency_p99_ms": "needs 662 samples, has 50"},
        "mismatch": [Mismatch("output", {"0.001": 0.5}, 1e-4, 1e-5, 1.0, 0, 1000)],
        "host": {"hostname": "box"},
        "provenance": {"runner_digest": "ab" * 32, "git_revision": "cd" * 20, "farm_version": "0.1.0"},
    } | overrides
    fields.setdefault("run_id", job.run_id(fields["batch_size"]))
    if fields["outcome"] is not Outcome.OK:
        fields.setdefault("failure", Failure("measure", "test-failure", "it did not work", "Try again."))
    return Record(job=job, **fields)


def make_ref(sha256: str, size_bytes: int = 8, kind: str = "samples:latency") -> BlobRef:
    """A reference to a blob."""
    return BlobRef(kind=kind, sha256=sha256, size_bytes=size_bytes)


def make_flag(name: str = "unstable", level: str = "suspect") -> Flag:
    """A doubt."""
    return Flag(name, level, "evidence of it")
