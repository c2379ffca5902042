# SPDX-License-Identifier: Apache-2.0
"""A study of the whole way from a JPEG file to the five best classes: what is asked for, and what came out.

Schema history:
    1 (0.2.0): first.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

PIPELINE_SCHEMA = 1

#: `images` of pictures that the farm makes itself.
GENERATED = "generated"
MODES = ("serial", "overlapped", "both")
PROCESSES = ("poisson", "uniform")

#: In the order in which an image goes through them; the first two take one image, the others a batch.
STAGES = ("decode", "preprocess", "collate", "copy_in", "infer", "copy_out", "postprocess")
PER_IMAGE = ("decode", "preprocess")
#: Who does what when stages overlap. The three stages on the device share one worker: they use one stream.
WORKERS: Dict[str, Tuple[str, ...]] = {
    "decode": ("decode",),
    "preprocess": ("preprocess",),
    "collate": ("collate",),
    "device": ("copy_in", "infer", "copy_out"),
    "postprocess": ("postprocess",),
}


@dataclass(frozen=True)
class ArrivalSpec:
    """Images that come one by one, whether or not the pipeline keeps up; batches are put together of what is there.

    `of_capacity` are rates as shares of the overlapped throughput that the same run measured, `per_s` rates in images a
    second. A batch is closed when it is full (the ladder's batch size), or `max_wait_ms` after its first image was
    ready, once the device can take it.
    """

    of_capacity: Tuple[float, ...] = ()
    per_s: Tuple[float, ...] = ()
    process: str = "poisson"
    max_wait_ms: float = 5.0
    duration_s: float = 5.0


@dataclass(frozen=True)
class PipelineSpec:
    """What a study of the pipeline is asked for.

    `images` is an absolute folder on the worker host, or `generated`: `count` pictures of `width` x `height` pixels,
    written as JPEG of `quality`. Of a folder at most `count` files are taken, evenly spread. `queue_depth` is in
    batches. `duration_s` is for the serial and for the overlapped pass each.
    """

    images: str = GENERATED
    count: int = 64
    width: int = 500
    height: int = 375
    quality: int = 90
    mode: str = "both"
    decode_workers: int = 1
    preprocess_workers: int = 1
    queue_depth: int = 2
    duration_s: float = 5.0
    arrival: Optional[ArrivalSpec] = None

    @property
    def workers(self) -> Dict[str, int]:
        """How many threads each worker of the overlapped pass has."""
        return dict({name: 1 for name in WORKERS}, decode=self.decode_workers, preprocess=self.preprocess_workers)

    @property
    def seconds(self) -> float:
        """About how long the passes of one run take, without loading and warming up."""
        passes = 2.0 if self.mode == "both" else 1.0
        rates = len(self.arrival.of_capacity) + len(self.arrival.per_s) if self.arrival else 0
        return passes * self.duration_s + rates * (self.arrival.duration_s if self.arrival else 0.0)


@dataclass(frozen=True)
class StageTimes:
    """One stage of the serial pass. `per` is `image` or `batch`, what one sample covers.

    `share` is of the pass's wall clock. `p95_ns` is None where the samples are too few to bound it.
    """

    name: str
    per: str
    samples: int
    median_ns: float
    p95_ns: Optional[float]
    mean_ns: float
    share: float


@dataclass(frozen=True)
class SerialPass:
    """One image, one stage after the other. `between_share` is the part of the wall clock that no stage has."""

    images: int
    batches: int
    wall_ns: int
    per_s: float
    batch_median_ns: float
    between_share: float
    stages: List[StageTimes]


@dataclass(frozen=True)
class WorkerLoad:
    """A worker of the overlapped pass. `utilisation` is the busy share of its threads' time, 0..1.

    `stages` shares the same out among the stages that it does.
    """

    name: str
    threads: int
    utilisation: float
    stages: Dict[str, float]


@dataclass(frozen=True)
class QueueFill:
    """The queue in front of a worker, over time: mean length, and the shares of time in which it was full or empty."""

    name: str
    capacity: int
    mean: float
    full_share: float
    empty_share: float


@dataclass(frozen=True)
class Bottleneck:
    """The busiest worker, and of its stages the one with most time.

    `expected` is the worker that the serial pass makes the slowest, None without one; `confirmed` says whether it is
    the same. `said` is all of it in one sentence.
    """

    worker: str
    stage: str
    utilisation: float
    expected: Optional[str]
    confirmed: Optional[bool]
    said: str


@dataclass(frozen=True)
class OverlappedPass:
    """All workers at once, over a window that begins once the queues have filled.

    `speed_up` is over the serial pass; `bound_per_s` is 1 over the longest worker's time for one image there, and
    `bound_share` how much of it was reached.
    """

    images: int
    window_ns: int
    per_s: float
    workers: List[WorkerLoad]
    queues: List[QueueFill]
    bottleneck: Bottleneck
    speed_up: Optional[float] = None
    bound_per_s: Optional[float] = None
    bound_share: Optional[float] = None


@dataclass(frozen=True)
class LoadPoint:
    """Images at one rate. Latencies are from the moment at which an image was due, to its five best classes.

    `overloaded` says why no latency is a steady one, empty where it is: then there are no percentiles, and `first_ns`
    and `last_ns`, the medians of the first and the last third of the arrivals, show how latency grew. A percentile that
    the samples cannot bound is None. `unfinished` images were given up when the time after the last arrival was over.
    """

    offered_per_s: float
    of_capacity: Optional[float]
    arrivals: int
    unfinished: int
    done_per_s: float
    batches: int
    mean_batch: float
    first_ns: Optional[float]
    last_ns: Optional[float]
    p50_ns: Optional[float]
    p95_ns: Optional[float]
    p99_ns: Optional[float]
    overloaded: str = ""


@dataclass(frozen=True)
class PipelineResult:
    """All that one run found, at one batch size; `effective.pipeline` of its record.

    `images_sha256` is over the files' contents, in order. `copy` says what copying in and out is on this device.
    """

    batch_size: int
    images: int
    images_bytes: int
    images_sha256: str
    decoder: str
    copy: str
    serial: Optional[SerialPass] = None
    overlapped: Optional[OverlappedPass] = None
    loads: List[LoadPoint] = field(default_factory=list)
    schema: int = PIPELINE_SCHEMA
