# SPDX-License-Identifier: Apache-2.0
"""Records of the simulated farm. Each says in its provenance, its host and its device that it is simulated."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from farm import __version__
from farm.accuracy import accuracy_intervals
from farm.contract.job import JobSpec
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import ACCURACY, Interval, Record
from farm.demo.world import BATCH, FACTORS, FIRST, INJECTED, MODELS, REFUSED, TEST_IMAGES, TOP1, Simulated

_RUN_S = 20.0
_PROVENANCE = {"simulated": True, "made_by": "farm demo-history", "farm_version": __version__}
_REFUSAL = Failure("select", "precision-unsupported", "simulated: this stack quantises no such model", "Nothing to do.")
_FAILURE = Failure("build", "build-failed", "simulated: the quantiser ended with an error", "Nothing to do.")


@dataclass(frozen=True)
class Moment:
    """When and as what a run is made: `number` of the night, `place` in it, `as_of` the night whose software runs."""

    number: int
    place: int
    as_of: int
    seed: int = 0

    @property
    def started(self) -> datetime:
        """UTC."""
        begin = datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=self.number - 1, hours=1)
        return begin + timedelta(seconds=_RUN_S * self.place)


def case_of(job: JobSpec) -> tuple[str, str, str]:
    """Model, workflow, precision."""
    return job.model.name, job.workflow, job.precision


def records_of(job: JobSpec, device: Simulated, at: Moment) -> list[Record]:
    """What one job leaves: a latency point, and the accuracy where it is asked for; one record where it cannot run."""
    if case_of(job) == REFUSED:
        return [_without_result(job, device, at)]
    made = [_latency(job, device, at)]
    return [*made, _accuracy(job, device, at)] if job.accuracy else made


def canary_record(job: JobSpec, device: Simulated, at: Moment) -> Record:
    """A canary: the same thing every night, so that only the device moves it."""
    shift = math.prod(each.at(at.number) for each in INJECTED if each.device == device.name and each.case is None)
    value = 5.0 * device.pace * shift * _noise(device, job, at, "canary", 0.5)
    return _record(job, device, at, BATCH, metrics={"latency_ms": value, "sample_count": 50.0})


def _latency(job: JobSpec, device: Simulated, at: Moment) -> Record:
    base_ms, base_mb = MODELS[job.model.name]
    value = base_ms * device.pace * FACTORS[job.workflow] * _effect(job, device, at, "latency_ms")
    value *= _noise(device, job, at, "latency")
    memory = base_mb * 2**20 * _effect(job, device, at, "host_rss_peak_bytes") * _noise(device, job, at, "memory", 0.2)
    metrics = {
        "latency_ms": value,
        "throughput_per_s": 1000 * BATCH / value,
        "host_rss_peak_bytes": float(round(memory)),
        "mismatch_1e-3_pct": 0.02,
        "fallback_node_share": 0.0,
        "sample_count": 200.0,
    }
    half = 0.2 * device.noise
    interval = Interval(value * (1 - half), value * (1 + half), 0.95, "simulated", "within this run")
    return _record(job, device, at, BATCH, metrics=metrics, intervals={"latency_ms": interval}, ladder_stop="end")


def _accuracy(job: JobSpec, device: Simulated, at: Moment) -> Record:
    right = round(TEST_IMAGES * TOP1 * _effect(job, device, at, "top1"))
    metrics: dict[str, float | None] = {"top1": right / TEST_IMAGES, "accuracy_samples": float(TEST_IMAGES)}
    intervals = accuracy_intervals(metrics)
    made = _record(job, device, at, BATCH, metrics=metrics, intervals=intervals, point=ACCURACY)
    return replace(made, run_id=job.accuracy_run_id)


def _without_result(job: JobSpec, device: Simulated, at: Moment) -> Record:
    broken = any(each.case == REFUSED and each.device == device.name and each.active(at.as_of) for each in INJECTED)
    outcome, failure = (Outcome.FAILED, _FAILURE) if broken else (Outcome.UNSUPPORTED, _REFUSAL)
    return _record(job, device, at, None, outcome=outcome, failure=failure)


def _effect(job: JobSpec, device: Simulated, at: Moment, metric: str) -> float:
    """What the changes made so far do. A device's is there whichever software runs; a spike is the night's alone."""
    factor = 1.0
    for each in INJECTED:
        if each.device != device.name or each.metric != metric or each.case not in (None, case_of(job)):
            continue
        if each.until is None:
            factor *= each.at(at.number if each.case is None else at.as_of)
        elif not at.seed:
            factor *= each.at(at.number)
    return factor


def _noise(device: Simulated, job: JobSpec, at: Moment, what: str, part: float = 1.0) -> float:
    """The same for the same run, always."""
    chosen = random.Random(f"{device.name} {job.name} {what} {at.number} {at.place} {at.seed}")  # noqa: S311
    return math.exp(chosen.gauss(0, part * device.noise))


def _record(job: JobSpec, device: Simulated, at: Moment, batch: int | None, **fields: Any) -> Record:
    changes = [each for each in INJECTED if each.device == device.name and each.active(at.as_of)]
    libraries = dict(device.stack.libraries) | {k: v for each in changes for k, v in each.library.items()}
    kernel = next((each.kernel for each in changes if each.kernel), device.kernel)
    clock = "cpu_frequency_mhz" if device.info.kind == "cpu" else "gpu_clock_sm_mhz"
    if fields.get("metrics"):
        fields["metrics"][clock] = device.clock_mhz
    made: dict[str, Any] = {
        "run_id": job.run_id(batch),
        "outcome": Outcome.OK,
        "job": job,
        "batch_size": batch,
        "attempt": 1,
        "started_at": _iso(at.started),
        "finished_at": _iso(at.started + timedelta(seconds=_RUN_S)),
        "device": device.info,
        "stack": replace(device.stack, libraries=libraries),
        "host": {"hostname": device.info.host, "kernel": kernel, "simulated": True},
        "environment": {"libraries": libraries},
        "provenance": dict(_PROVENANCE),
    }
    return Record(**(made | fields))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def values(records: Iterable[Record], metric: str) -> list[float]:
    """The values of a metric, of those that have it."""
    return [value for record in records if (value := record.metrics.get(metric)) is not None]
