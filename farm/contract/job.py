# SPDX-License-Identifier: Apache-2.0
"""A job: what is placed on a device. Frozen data that does nothing."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from farm.contract.encoders import SOURCE as ENCODER
from farm.contract.pipeline import PipelineSpec

JOB_SCHEMA = 1

WARM_UP_RULES = ("fixed", "steady")
SCENARIOS = ("single", "streams", "offline")
#: Sources of models that are a file in the store.
FILE_SOURCES = ("onnx", "saved_model")


@dataclass(frozen=True)
class ModelSpec:
    """A model to measure.

    `source` is `torchvision`, `keras` or `encoder` (by name), `onnx` (a file, by sha256, fetched from the store),
    `saved_model` (TensorFlow's directory, as one archive of `farm.contract.archive`) or `fake`.
    `input_shape` is one sample's shape without the batch dimension, e.g. (3, 224, 224), of an encoder (128,); channels
    come first, but for a SavedModel, whose shape is its own. `onnx_sha256` is the file's, of whichever source it is.
    `weights` is `random:SEED`, `default` (the published ones), `digits:SEED` (trained once on the digits data set) or
    `sha256:HEX` (a state dict in the store).
    """

    name: str
    source: str = "torchvision"
    input_shape: Tuple[int, ...] = (3, 224, 224)
    weights: str = "random:0"
    onnx_sha256: Optional[str] = None

    @property
    def sequence(self) -> Optional[int]:
        """How many tokens a sequence has; None for models that take none."""
        return self.input_shape[0] if self.source == ENCODER and self.input_shape else None

    @property
    def input_type(self) -> str:
        """What an input is made of, as numpy names it: token ids or numbers."""
        return "float32" if self.sequence is None else "int32"

    @property
    def label(self) -> str:
        """What people see: the name, and of a text encoder the sequence, which is another model to every compiler."""
        return self.name if self.sequence is None else "{}@{}".format(self.name, self.sequence)


@dataclass(frozen=True)
class BatchLadder:
    """The batch sizes to try, in order, and what ends the ladder early (`out_of_memory`, `saturated`)."""

    sizes: Tuple[int, ...]
    until: Tuple[str, ...] = ("out_of_memory",)


@dataclass(frozen=True)
class Calibration:
    """How int8 ranges are found: `method` is `minmax`, `entropy`, `percentile` or `mse`."""

    method: str = "minmax"
    samples: int = 64
    batch: int = 8
    percentile: float = 99.999

    @property
    def summary(self) -> str:
        """Method and samples in words: `entropy, 64 samples`."""
        share = ", {:g} %".format(self.percentile) if self.method == "percentile" else ""
        return "{}, {} samples{}".format(self.method, self.samples, share)


@dataclass(frozen=True)
class AccuracySpec:
    """What top-1 and top-5 are taken on: the test part of `digits`, or of `imagenet`, a folder on the worker host.

    `path` is that folder; `limit` takes an evenly spread part of its test images.
    """

    dataset: str
    path: Optional[str] = None
    limit: Optional[int] = None

    @property
    def images(self) -> int:
        """About how many images are evaluated: exact for digits, at most ImageNet's own number for a folder."""
        most = 360 if self.dataset == "digits" else 50000
        return min(most, self.limit or most)


@dataclass(frozen=True)
class Rebuild:
    """Which of several builds of the same engine: `index` is 0 to `count` - 1.

    `timing_cache` is `cold` (each build starts with an empty one and leaves none) or `shared` (that of the device).
    """

    index: int
    count: int
    timing_cache: str = "cold"


@dataclass(frozen=True)
class Protocol:
    """Every switch of a measurement; all of them are in the record and in the series key.

    Warm-up ends once both its minima are reached. Timed runs end once both minima are reached, or at either maximum.
    `inputs` is `rotated` (distinct inputs of at least twice the last-level cache) or `warm` (one input).
    `boundary` is `compute` (input already on the device) or `end_to_end` (copies included).
    `stage_limits_s` bounds the wall clock of each stage; `default` holds for stages not named.

    `warmup_rule` is `fixed` (its minima, no more) or `steady` (from the minima on, until two windows agree, or
    `warmup_max_s`). With `target_half_width`, timed runs go on from the minima until the 95 % interval of the median is
    that narrow (half its width over the median); with `noise_plateau`, or until more samples no longer change the
    noise; in any case to the maxima.
    A point is measured in `processes` fresh processes; with `processes_half_width` in more, up to `max_processes`,
    until the interval over their medians is that narrow, or `processes_max_s` is spent.
    `scenario` is `single` (one request in flight), `streams` (`streams` requests in flight) or `offline` (all at once).
    Of `streams`: `contexts` are execution contexts of one engine, one request in flight each, which share the streams;
    `sessions` are copies of the loaded model, which share the requests. None leaves both to the workflow.
    `threads` and `inter_threads` are those within an operator and those that run operators side by side.
    With `energy_s`, a pass of steady load of at least so long follows the timed runs.
    """

    name: str
    warmup_min_iterations: int
    warmup_min_s: float
    min_iterations: int
    min_s: float
    max_iterations: int
    max_s: float
    boundary: str = "compute"
    inputs: str = "rotated"
    rtols: Tuple[float, ...] = (1e-3, 1e-4)
    atol: float = 1e-8
    threads: Optional[int] = None
    stage_limits_s: Dict[str, float] = field(default_factory=dict)
    warmup_rule: str = "fixed"
    warmup_max_s: float = 30.0
    target_half_width: Optional[float] = None
    noise_plateau: bool = False
    processes: int = 1
    max_processes: Optional[int] = None
    processes_half_width: Optional[float] = None
    processes_max_s: Optional[float] = None
    scenario: str = "single"
    streams: int = 1
    energy_s: Optional[float] = None
    contexts: Optional[int] = None
    sessions: Optional[int] = None
    inter_threads: Optional[int] = None

    @property
    def in_flight(self) -> int:
        """How many requests are in flight at once in the scenario `streams`."""
        return max(self.streams, self.contexts or 1)

    @property
    def lanes_name(self) -> str:
        """`streams 4`, and how contexts or sessions are shared: `streams 2, contexts 4`. Of the scenario `streams`."""
        shared = (("contexts", self.contexts), ("sessions", self.sessions))
        return ", ".join(
            "{} {}".format(name, count) for name, count in (("streams", self.streams), *shared) if count is not None
        )


@dataclass(frozen=True)
class Target:
    """Where a job may run: one device by id, or any device of a class. Exactly one of the two is set."""

    device_id: Optional[str] = None
    device_class: Optional[str] = None

    def __post_init__(self) -> None:
        if (self.device_id is None) == (self.device_class is None):
            raise ValueError("a target names either a device or a device class")

    @property
    def key(self) -> str:
        """The name of this target's waiting line: `dev:ID` or `cls:CLASS`."""
        return "dev:" + self.device_id if self.device_id else "cls:" + str(self.device_class)


@dataclass(frozen=True)
class Pin:
    """A prepared file to use as it was recorded: of this `kind` and `sha256`, named by the record of run `run_id`."""

    kind: str
    sha256: str
    run_id: str


@dataclass(frozen=True)
class JobSpec:
    """One model x workflow x precision x options on one target, with its batch ladder.

    `generation` counts deliberate repeats (`farm retry`): each has run ids, and so records, of its own.
    `accuracy` asks for one evaluation after the ladder, a run of its own. `data_path` is the folder of `imagenet`.
    `profile` are runs under a profiler (`farm.contract.layers.PROFILES`) that follow each point, each a process.
    `pins` are files to take from the store instead of making them; `stack` is the one stack that may run it.
    With `pipeline`, the points of the ladder are studies of the whole pipeline, and no inference is timed by itself.
    """

    job_id: str
    sweep_id: str
    sweep_name: str
    model: ModelSpec
    workflow: str
    precision: str
    batches: BatchLadder
    protocol: Protocol
    target: Target
    options: Dict[str, Any] = field(default_factory=dict)
    calibration: Optional[Calibration] = None
    data: str = "uniform"
    seed: int = 0
    generation: int = 0
    accuracy: Optional[AccuracySpec] = None
    data_path: Optional[str] = None
    rebuild: Optional[Rebuild] = None
    pins: Tuple[Pin, ...] = ()
    stack: Optional[str] = None
    profile: Tuple[str, ...] = ()
    pipeline: Optional[PipelineSpec] = None
    schema: int = JOB_SCHEMA

    @property
    def name(self) -> str:
        """What people and Flower see: `resnet18/onnxruntime_cpu/int8`, with `/streams-4`, with `/build-2-of-3`."""
        name = "{}/{}/{}".format(self.model.label, self.workflow, self.precision)
        if self.protocol.scenario == "streams":
            name += "/" + self.protocol.lanes_name.replace(", ", "-").replace(" ", "-")
        if self.rebuild is None:
            return name
        return "{}/build-{}-of-{}".format(name, self.rebuild.index + 1, self.rebuild.count)

    @property
    def ladder_point(self) -> str:
        """The `point` of its ladder's records: `latency`, or `pipeline`."""
        return "latency" if self.pipeline is None else "pipeline"

    def run_id(self, batch_size: Optional[int]) -> str:
        """The id of one measured point: the same point of the same generation always has the same id."""
        point = "none" if batch_size is None else "b{}".format(batch_size)
        return "{}-g{}-{}".format(self.job_id, self.generation, point)

    @property
    def accuracy_run_id(self) -> str:
        """The id of the accuracy evaluation, whichever batch size it runs at."""
        return "{}-g{}-accuracy".format(self.job_id, self.generation)

    def run_ids(self) -> Tuple[str, ...]:
        """Every run that the job is asked for, in the order in which they are made: the ladder, then the accuracy."""
        ladder = tuple(self.run_id(size) for size in self.batches.sizes)
        return (*ladder, self.accuracy_run_id) if self.accuracy else ladder
