# SPDX-License-Identifier: Apache-2.0
"""From everything that is known about one run to its record and the files that the record names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farm.accuracy import accuracy_intervals, accuracy_withheld
from farm.contract.canonical import sha256_file
from farm.contract.codec import to_json
from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.job import JobSpec
from farm.contract.names import check_sha256
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import ACCURACY, LATENCY, BlobRef, Flag, Record
from farm.contract.run import ArtifactFile, RunResult, StageTime
from farm.paths import inside
from farm.summary import Summary, median_ms, summarise
from farm.thresholds import DEFAULTS, Limits
from workers.daemon import scenario
from workers.daemon.control import Control, ReadResult, sample_path, shorten_log
from workers.daemon.launch import Ended
from workers.daemon.preflight import Preflight
from workers.daemon.spool import BlobFile
from workers.daemon.telemetry.blob import pack
from workers.daemon.telemetry.summary import Telemetry
from workers.daemon.telemetry.summary import summarise as summarise_telemetry
from workers.daemon.telemetry.trace import Trace
from workers.daemon.warm_up import warm_up_doubts

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class JobFacts:
    """What all points of one attempt at a job share."""

    job: JobSpec
    attempt: int
    device: DeviceInfo
    stack: StackInfo | None
    provenance: dict[str, Any]
    cache_dir: Path
    limits: Limits = field(default_factory=lambda: DEFAULTS)


@dataclass(frozen=True)
class RunFacts:
    """One runner that has ended: what it left, how it ended, what the host did meanwhile. Times as in records."""

    outcome: Outcome
    failure: Failure | None
    started_at: str
    finished_at: str
    control: Control
    ended: Ended
    read: ReadResult
    preflight: Preflight = field(default_factory=Preflight)
    trace: Trace | None = None


@dataclass(frozen=True)
class Collected:
    """A record and the files it names."""

    record: Record
    files: list[BlobFile]


def collect(
    facts: JobFacts,
    batch_size: int,
    run: RunFacts,
    prepared: RunFacts | None,
    is_stored: Callable[[str], bool] = lambda _sha256: False,
    point: str = LATENCY,
) -> Collected:
    """Build the record of one run, of a batch size or of the accuracy. `prepared` is the preparation it built on.

    `is_stored` says whether the store has a blob already: then its file is neither hashed nor copied again.

    Raises:
        OSError: a file that is there cannot be read.
    """
    result = run.read.result
    prepare_result = prepared.read.result if prepared else None
    stage = measured_stage(result)
    summary = _summarise(facts, run, batch_size, stage)
    telemetry = _telemetry(facts, run, batch_size, stage)
    keeper = _Keeper(facts.cache_dir, is_stored)
    samples = keeper.samples(run)
    used = result.artifacts if result is not None else []
    keeper.artifacts(run.control, used)
    if prepared is not None and prepare_result is not None:
        # What the measured file was made from (calibration table, fp32 graph), not other points' references.
        kinds = {artifact.kind for artifact in used}
        keeper.artifacts(prepared.control, [made for made in prepare_result.artifacts if made.kind not in kinds])
    for kind, control in (("log:prepare", prepared.control if prepared else None), ("log", run.control)):
        keeper.log(kind, control)
    metrics = _metrics(run, prepare_result, summary, telemetry)
    effective = (result or _NOTHING).effective
    keeper.telemetry(run.trace)
    record = Record(
        run_id=_run_id(facts.job, batch_size, point),
        outcome=run.outcome,
        failure=run.failure,
        job=facts.job,
        batch_size=batch_size,
        attempt=facts.attempt,
        started_at=run.started_at,
        finished_at=run.finished_at,
        device=facts.device,
        stack=facts.stack,
        stages=result.stages if result else run.ended.stages,
        prepare_stages=_stages(prepared),
        metrics=metrics,
        intervals={**summary.intervals, **accuracy_intervals(metrics)},
        withheld={**summary.withheld, **telemetry.withheld, **accuracy_withheld(metrics)},
        mismatch=result.mismatch if result else [],
        flags=[
            *_doubts(run, point),
            *telemetry.flags,
            *warm_up_doubts(effective, facts.limits),
            *summary.flags,
            *keeper.flags,
        ],
        samples=samples,
        artifacts=keeper.refs,
        host=run.preflight.host,
        environment=(result.environment if result else {}) or (prepare_result or _NOTHING).environment,
        effective=effective,
        provenance=_provenance(facts, run) | ({"telemetry": telemetry.facts} if telemetry.facts else {}),
        point=point,
    )
    return Collected(record, keeper.files)


def not_run(
    facts: JobFacts,
    batch_size: int | None,
    outcome: Outcome,
    failure: Failure,
    at: str,
    log: RunFacts | None = None,
    point: str | None = None,
) -> Collected:
    """The record of a run that was not tried; `log`: the preparation that failed, if one did.

    `point` is that of the job's ladder, unless it is given.
    """
    point = point or facts.job.ladder_point
    keeper = _Keeper(facts.cache_dir, lambda _sha256: False)
    if log is not None:
        keeper.log("log:prepare", log.control)
    record = Record(
        run_id=_run_id(facts.job, batch_size, point),
        outcome=outcome,
        failure=failure,
        job=facts.job,
        batch_size=batch_size,
        attempt=facts.attempt,
        started_at=log.started_at if log else at,
        finished_at=at,
        device=facts.device,
        stack=facts.stack,
        prepare_stages=_stages(log),
        artifacts=keeper.refs,
        flags=log.preflight.flags if log else [],
        host=log.preflight.host if log else {},
        environment=log.read.result.environment if log and log.read.result else {},
        provenance=_provenance(facts, log),
        point=point,
    )
    return Collected(record, keeper.files)


def _doubts(run: RunFacts, point: str) -> list[Flag]:
    """What was found before the run. A busy or hot host makes times doubtful, and takes nothing from right answers."""
    return [] if point == ACCURACY else run.preflight.flags


def _run_id(job: JobSpec, batch_size: int | None, point: str) -> str:
    return job.accuracy_run_id if point == ACCURACY else job.run_id(batch_size)


def measured_stage(result: RunResult | None) -> StageTime | None:
    """The timed stage, if the run got to its end."""
    return _stage(result, "measure")


def _stage(result: RunResult | None, name: str) -> StageTime | None:
    stages = [stage for stage in (result.stages if result else []) if stage.name == name]
    return stages[-1] if stages else None


_NOTHING = RunResult(run_id="none", outcome=Outcome.FAILED)


def _summarise(facts: JobFacts, run: RunFacts, batch_size: int, stage: StageTime | None) -> Summary:
    latencies, protocol = (run.read.samples or {}).get("latency"), facts.job.protocol
    if stage is None or run.read.result is None:
        return Summary({}, {}, {}, [])
    if not latencies:
        return scenario.without_latencies(protocol)
    own = run.read.result.metrics
    found = summarise(
        latencies,
        batch_size=batch_size,
        wall_ns=stage.end_ns - stage.start_ns,
        timer_overhead_ns=own.get("timer_overhead_ns"),
        timer_resolution_ns=own.get("timer_resolution_ns"),
        limits=facts.limits,
    )
    return scenario.judged(found, protocol, run.read.result.effective, facts.limits)


def _telemetry(facts: JobFacts, run: RunFacts, batch_size: int, stage: StageTime | None) -> Telemetry:
    if run.trace is None:
        return Telemetry()
    result = run.read.result or _NOTHING
    latencies = len((run.read.samples or {}).get("latency") or ())
    return summarise_telemetry(
        run.trace,
        stage,
        kind=facts.device.kind,
        inputs=scenario.energy_inputs(facts.job.protocol, result.effective, latencies, batch_size),
        own_cpus=result.metrics.get("cpu_utilisation"),
        wait_share=result.metrics.get("cpu_wait_share"),
        limits=facts.limits,
        energy_pass=_stage(run.read.result, "energy"),
    )


def _metrics(run: RunFacts, prepared: RunResult | None, summary: Summary, telemetry: Telemetry) -> Metrics:
    """The runner's own word counts where two sources have one; a value that is no number is null."""
    result = run.read.result
    build_s = (prepared.metrics if prepared else {}).get("build_s")
    report = run.ended.report
    metrics: Metrics = {} if build_s is None else {"build_s": build_s}
    if report is not None and report.max_rss_bytes is not None:
        metrics["host_rss_peak_bytes"] = float(report.max_rss_bytes)
    metrics |= run.preflight.metrics | telemetry.metrics | summary.metrics | _device_times(run)
    if result is not None:
        metrics |= result.metrics
    return {name: value if value is not None and math.isfinite(value) else None for name, value in metrics.items()}


def _device_times(run: RunFacts) -> Metrics:
    samples = run.read.samples or {}
    names = {"device": "device_latency_ms", "enqueue": "enqueue_ms"}
    return {metric: median_ms(samples[name]) for name, metric in names.items() if samples.get(name)}


def _stages(run: RunFacts | None) -> list[StageTime]:
    if run is None:
        return []
    return run.read.result.stages if run.read.result else run.ended.stages


def _provenance(facts: JobFacts, run: RunFacts | None) -> dict[str, Any]:
    found = {**facts.provenance, "protocol": facts.job.protocol.name}
    if run is not None:
        found |= {"exit": to_json(run.ended.report), "damaged_events": run.ended.damaged_events}
        found["runner"] = run.ended.started._asdict()
    return found


class _Keeper:
    """Gathers files for the store; a file that is not what the runner said it is becomes a flag."""

    def __init__(self, cache_dir: Path, is_stored: Callable[[str], bool]) -> None:
        self._cache_dir = cache_dir
        self._is_stored = is_stored
        self.files: list[BlobFile] = []
        self.refs: list[BlobRef] = []
        self.flags: list[Flag] = []

    def samples(self, run: RunFacts) -> list[BlobRef]:
        """The run's sample files."""
        refs = []
        for file in run.read.result.samples if run.read.result else []:
            path = sample_path(run.control, file)
            sha256 = self._keep(path)
            size = path.stat().st_size
            refs.append(BlobRef(f"samples:{file.name}", sha256, size, unit=file.unit, count=file.count))
        return refs

    def telemetry(self, trace: Trace | None) -> None:
        """The raw trace, packed: the evidence of every telemetry metric and flag."""
        packed = pack(trace.path) if trace is not None and trace.path is not None and trace.samples else None
        if packed is not None and trace is not None:
            size, count = packed.stat().st_size, len(trace.samples)
            self.refs.append(BlobRef("telemetry", self._keep(packed), size, unit="jsonl.gz", count=count))

    def artifacts(self, control: Control, artifacts: Sequence[ArtifactFile]) -> None:
        """The files that the run made or used."""
        for artifact in artifacts:
            problem = self._artifact(control, artifact)
            if problem is not None:
                evidence = f"{artifact.kind} {artifact.path!r} {problem}, so it was not kept"
                self.flags.append(Flag("artifact_missing", "suspect", evidence))

    def log(self, kind: str, control: Control | None) -> None:
        """The runner's log, cut in the middle if it is very long; an empty one is left out."""
        if control is None or not control.log.is_file():
            return
        shorten_log(control)
        size = control.log.stat().st_size
        if size:
            self.refs.append(BlobRef(kind, self._keep(control.log), size))

    def _artifact(self, control: Control, artifact: ArtifactFile) -> str | None:
        try:
            path = inside(artifact.path, control.path, self._cache_dir, what="artifact")
            check_sha256(artifact.sha256)
            manifest = self._manifest(control, artifact)
        except ValueError as error:
            return f"is refused: {error}"
        if not self._is_stored(artifact.sha256):
            if not path.is_file():
                return "is not there"
            if sha256_file(str(path)) != artifact.sha256:
                return "has other bytes than the runner said"
            self.files.append(BlobFile(path, artifact.sha256))
        self.refs.append(
            BlobRef(
                artifact.kind,
                artifact.sha256,
                artifact.size_bytes,
                cached=artifact.cached,
                build_s=artifact.build_s,
                manifest=manifest,
                pinned=artifact.pinned,
            )
        )
        return None

    def _manifest(self, control: Control, artifact: ArtifactFile) -> str | None:
        """What the cache says about a prepared file, kept beside it: with its key, the file can be pinned later."""
        if artifact.manifest is None:
            return None
        path = inside(artifact.manifest, control.path, self._cache_dir, what="manifest")
        return self._keep(path) if path.is_file() else None

    def _keep(self, path: Path) -> str:
        sha256 = sha256_file(str(path))
        self.files.append(BlobFile(path, sha256))
        return sha256
