# SPDX-License-Identifier: Apache-2.0
"""Made-up records of the papers' sweeps, with values that a test can compute again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from farm.accuracy import accuracy_intervals
from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.job import AccuracySpec, BatchLadder, Calibration, JobSpec
from farm.contract.outcome import Outcome
from farm.contract.protocols import PROTOCOLS
from farm.contract.record import Record
from farm.report.papers.published import Paper, Way
from tests.report import demo

GPU = DeviceInfo("box-gpu0", "made-up-gpu", "gpu", "box", "Made-up GPU (test data)", {"memory_bytes": 8 * 2**30})
STACK = StackInfo("trt", "/opt/python", "3.10.13", {"torch": "2.2.0", "tensorrt": "8.6.0", "onnx": "1.12.0"})
#: W0 is 8 ms, and the others so many times as fast.
FASTER = {"W0": 1.0, "W1": 1.5, "W2": 2.0, "W3": 1.6}


def job(paper: Paper, model: str, way: Way, **overrides: Any) -> JobSpec:
    """The job of one model and workflow, as the paper's sweep has it."""
    fields: dict[str, Any] = {
        "batches": BatchLadder(paper.batches, ("out_of_memory",)),
        "protocol": PROTOCOLS["paper"],
        "calibration": Calibration("entropy", 1024, 8) if way.precision == "int8" else None,
    }
    later = {name: overrides.pop(name) for name in ("workflow", "job_id") if name in overrides}
    return replace(demo.job(model, (way.workflow, way.precision), **(fields | overrides)), **later)


def mean_ms(paper: Paper, model: str, tag: str, batch: int) -> float:
    """The mean execution time that a record is given: by model, workflow and batch size."""
    return 8.0 * (1 + paper.models.index(model)) * batch / FASTER[tag]


def timed(paper: Paper, of: JobSpec, tag: str, batch: int, **overrides: Any) -> Record:
    """A run that went well, with a median 1 % below its mean, and memory, mismatch and GPU use to tell cells apart."""
    mean = mean_ms(paper, of.model.name, tag, batch)
    metrics = {
        "latency_ms": 0.99 * mean,
        "latency_mean_ms": mean,
        "latency_min_ms": 0.9 * mean,
        "latency_p25_ms": 0.95 * mean,
        "latency_p75_ms": 1.05 * mean,
        "latency_max_ms": 1.3 * mean,
        "throughput_per_s": 1000 * batch / mean + batch,
        "gpu_memory_peak_bytes": float(2**30 + batch * 2**20),
        "gpu_utilisation": 0.9 + batch / 10000,
        "mismatch_1e-3_pct": batch / 1000,
        "mismatch_1e-4_pct": batch / 100,
        "sample_count": 50.0,
    }
    made = demo.ok(of, batch, device=GPU, stack=STACK, metrics=metrics, withheld={}, ladder_stop=None)
    last = "end" if batch == max(of.batches.sizes) else None
    return replace(made, **({"ladder_stop": last, "intervals": {}} | overrides))


def evaluated(of: JobSpec, right: int, count: int = 1000) -> Record:
    """The accuracy of a job: `right` of `count` images, all of them among the first five."""
    metrics = {"top1": right / count, "top5": 1.0, "accuracy_samples": float(count)}
    made = demo.ok(of, 1, point="accuracy", run_id=of.accuracy_run_id, metrics=metrics, withheld={}, mismatch=[])
    return replace(made, device=GPU, stack=STACK, samples=[], ladder_stop=None, intervals=accuracy_intervals(metrics))


def whole(paper: Paper) -> list[Record]:
    """Every cell of a paper; with accuracies by two calibration batches where it has accuracies."""
    records = []
    for model in paper.models:
        for way in paper.ways:
            accuracy = AccuracySpec("imagenet", "/data") if paper.evaluates else None
            of = job(paper, model, way, accuracy=accuracy)
            records += [timed(paper, of, way.tag, batch) for batch in paper.batches]
            if accuracy is not None:
                records.append(evaluated(of, 700))
                if way.precision == "int8":
                    other = job(paper, model, way, accuracy=accuracy, calibration=Calibration("entropy", 1024, 1))
                    records.append(evaluated(other, 650))
    return records


def out_of_memory(of: JobSpec, batch: int) -> Record:
    """The end of a ladder."""
    made = demo.bad(of, batch, Outcome.OUT_OF_MEMORY, "the GPU ran out of memory", ladder_stop="out_of_memory")
    return replace(made, device=GPU, stack=STACK)
