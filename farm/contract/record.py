# SPDX-License-Identifier: Apache-2.0
"""The record: the JSON document of one run. Written once; everything a report says comes from records.

Schema history:
    1 (0.1.0): first.
    2 (0.1.0): `processes`, and `process` of a blob. A record of schema 1 is one of one process.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.job import JobSpec
from farm.contract.outcome import Failure, Outcome
from farm.contract.run import Mismatch, StageTime

RECORD_SCHEMA = 2

LATENCY = "latency"
ACCURACY = "accuracy"
PIPELINE = "pipeline"


@dataclass(frozen=True)
class Interval:
    """A confidence interval and what it covers: `within this run`, `between 5 processes`, ..."""

    low: float
    high: float
    confidence: float
    method: str
    scope: str


@dataclass(frozen=True)
class Flag:
    """A doubt about a run's validity, with the evidence. `level` is `info`, `suspect` or `invalid`."""

    name: str
    level: str
    evidence: str


@dataclass(frozen=True)
class BlobRef:
    """A file kept in the store by its sha256. `kind` says what it is: `samples:latency`, `onnx`, `log`, ...

    `process` is the index of the process that it is of, in a record of several; None: of all of them.
    `manifest` is the sha256 of what the worker's cache said about a prepared file, its key and facts: with it a job may
    pin the file. `pinned`: this one did.
    """

    kind: str
    sha256: str
    size_bytes: int
    cached: bool = False
    build_s: Optional[float] = None
    unit: Optional[str] = None
    count: Optional[int] = None
    process: Optional[int] = None
    manifest: Optional[str] = None
    pinned: bool = False


@dataclass(frozen=True)
class ProcessFacts:
    """One of the fresh processes that a point was measured in, as a record of its own would have told it.

    `index` counts from 1, in the order in which they were made. Its samples, its log and its telemetry are among the
    record's blobs, with this index. `earlier_tries` are doubtful tries that this one replaced: flags and medians.
    """

    index: int
    outcome: Outcome
    started_at: str
    finished_at: str
    failure: Optional[Failure] = None
    metrics: Dict[str, Optional[float]] = field(default_factory=dict)
    intervals: Dict[str, Interval] = field(default_factory=dict)
    withheld: Dict[str, str] = field(default_factory=dict)
    flags: List[Flag] = field(default_factory=list)
    stages: List[StageTime] = field(default_factory=list)
    effective: Dict[str, Any] = field(default_factory=dict)
    earlier_tries: List[Dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """What was asked, where and with what it ran, what came out.

    `metrics` are named in `farm.contract.metrics`; a value that could not be had is null, never 0.
    `withheld` says why a metric that people look for is not there (`latency_p99_ms`: `needs 662 samples, has 90`).
    `point` is `latency` (a batch size of the ladder, or a whole job that came to nothing), `accuracy` (the job's
    evaluation; `batch_size` is the one it ran at, None where it was not run) or `pipeline` (a batch size of a job with
    `pipeline`: `effective.pipeline` has what was found).
    `processes` are those of a point whose protocol asks for several: its metrics are over them (docs/measuring.md),
    what is no number is the last one's. Empty: there was one, or none.
    `ladder_stop` is set on the last latency point of a job: `end`, `out_of_memory`, `saturated`, `failed`, ...
    `host`, `environment`, `effective`, `provenance` are free-form facts; keys are documented in docs/records.md.
    Times are UTC, ISO 8601, with microseconds.
    """

    run_id: str
    outcome: Outcome
    job: JobSpec
    batch_size: Optional[int]
    attempt: int
    started_at: str
    finished_at: str
    failure: Optional[Failure] = None
    device: Optional[DeviceInfo] = None
    stack: Optional[StackInfo] = None
    stages: List[StageTime] = field(default_factory=list)
    prepare_stages: List[StageTime] = field(default_factory=list)
    metrics: Dict[str, Optional[float]] = field(default_factory=dict)
    intervals: Dict[str, Interval] = field(default_factory=dict)
    withheld: Dict[str, str] = field(default_factory=dict)
    mismatch: List[Mismatch] = field(default_factory=list)
    flags: List[Flag] = field(default_factory=list)
    samples: List[BlobRef] = field(default_factory=list)
    artifacts: List[BlobRef] = field(default_factory=list)
    ladder_stop: Optional[str] = None
    host: Dict[str, Any] = field(default_factory=dict)
    environment: Dict[str, Any] = field(default_factory=dict)
    effective: Dict[str, Any] = field(default_factory=dict)
    provenance: Dict[str, Any] = field(default_factory=dict)
    point: str = LATENCY
    processes: List[ProcessFacts] = field(default_factory=list)
    schema: int = RECORD_SCHEMA
