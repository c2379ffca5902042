# SPDX-License-Identifier: Apache-2.0
"""What goes into a runner process (`request.json`) and what comes out of it (`events.jsonl`, `result.json`)."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from farm.contract.device import DeviceInfo
from farm.contract.job import JobSpec
from farm.contract.outcome import Failure, Outcome

RUN_SCHEMA = 1

#: The stages of a run, in order. Each is one event with monotonic start and end.
STAGES = (
    "start",
    "images",
    "load_model",
    "export",
    "calibrate",
    "build",
    "reference",
    "load_engine",
    "first_inference",
    "warm_up",
    "measure",
    "device_times",
    "energy",
    "outputs",
    "accuracy",
    "profile",
    "pipeline",
    "finish",
)


@dataclass(frozen=True)
class PinnedFile:
    """A file that the job pins, fetched and verified: where it and its cache entry's manifest lie on this host."""

    kind: str
    path: str
    sha256: str
    manifest: str


@dataclass(frozen=True)
class RunRequest:
    """The whole of what one runner process is told.

    `mode` is `prepare` (export, calibrate, build, reference: no timing, fills the cache), `measure` (one point),
    `accuracy` (the test images, at one batch size: no timing), `layers` or `timeline` (one point under a profiler),
    `pipeline` (one point of a job with `pipeline`).
    `cache_dir` is shared by the jobs of this worker: prepared files are found there by what they depend on.
    `model_file` is the local path of the ONNX file of a `source: onnx` model, or of a state dict given by sha256.
    `pinned` are the files that the job pins.
    """

    run_id: str
    mode: str
    job: JobSpec
    device: DeviceInfo
    cache_dir: str
    batch_size: Optional[int] = None
    model_file: Optional[str] = None
    pinned: List[PinnedFile] = field(default_factory=list)
    schema: int = RUN_SCHEMA


@dataclass(frozen=True)
class Event:
    """One line of `events.jsonl`. `kind` is `stage_start`, `stage_end` or `progress` (with `fraction` 0..1)."""

    kind: str
    stage: str
    monotonic_ns: int
    fraction: Optional[float] = None


@dataclass(frozen=True)
class StageTime:
    """When a stage ran, by CLOCK_MONOTONIC, which daemon and runner share on one host."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class SampleFile:
    """Raw samples: a file of little-endian signed 64-bit integers in the control directory, none left out."""

    name: str  # "latency", "warm_up", "device", "enqueue"; of `streams`, those of all lanes, lane after lane
    path: str
    count: int
    unit: str = "ns"


@dataclass(frozen=True)
class ArtifactFile:
    """A file that the run made or used. `path` is absolute or relative to the control directory.

    `cached`: it was made by an earlier process; `build_s` is what making it took then. `manifest` is the path of what
    the cache says about it: its key and facts. `pinned`: the job named this very file.
    """

    kind: str  # "onnx", "onnx_int8", "weights", "reference", ...
    path: str
    sha256: str
    size_bytes: int
    cached: bool = False
    build_s: Optional[float] = None
    manifest: Optional[str] = None
    pinned: bool = False


@dataclass(frozen=True)
class Mismatch:
    """How far one output is from the reference (pytorch fp32 on the same inputs and weights).

    `percent` maps each rtol, as text, to 100 * (1 - mean(isclose(test, reference, rtol, atol))), reference second.
    NaN and infinities are counted apart, those of the reference in `reference_nonfinite_count`, and are never close.
    The errors and `cosine_similarity` are over the elements that are finite on both sides; None: of no such element,
    for the cosine also where either side is all zeros, or of a record from before there was one.
    """

    output: str
    percent: Dict[str, float]
    max_abs_error: float
    relative_l2_error: float
    top1_agreement: Optional[float]
    nonfinite_count: int
    element_count: int
    reference_nonfinite_count: int = 0
    mean_abs_error: Optional[float] = None
    cosine_similarity: Optional[float] = None


@dataclass(frozen=True)
class RunResult:
    """What a runner says about itself. The daemon believes the wait status first.

    `metrics` holds only what the runner alone can know, by names of `farm.contract.metrics`.
    `effective` states what really ran (`provider`, `precision`, `threads`), asserted after load.
    `environment` is captured in this process, after load (library versions, flags).
    """

    run_id: str
    outcome: Outcome
    failure: Optional[Failure] = None
    stages: List[StageTime] = field(default_factory=list)
    metrics: Dict[str, float] = field(default_factory=dict)
    samples: List[SampleFile] = field(default_factory=list)
    artifacts: List[ArtifactFile] = field(default_factory=list)
    mismatch: List[Mismatch] = field(default_factory=list)
    effective: Dict[str, Any] = field(default_factory=dict)
    environment: Dict[str, Any] = field(default_factory=dict)
    schema: int = RUN_SCHEMA
