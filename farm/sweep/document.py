# SPDX-License-Identifier: Apache-2.0
"""A sweep as people write it: its keys, their types and ranges, and the shorthands. Names are checked where they stand.

What needs more than one key at a time is in `checks`; what the words mean for jobs is in `resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic.json_schema import JsonSchemaValue

from farm.contract.catalogue import (
    ACCURACY_DATA,
    CALIBRATION_METHODS,
    DATA,
    DEVICE_KINDS,
    KERAS_MODELS,
    LADDER_STOPS,
    PRECISIONS,
    TIMING_CACHES,
    WORKFLOWS,
)
from farm.contract.encoders import ENCODERS
from farm.contract.layers import PROFILES
from farm.devices import parse_conditions
from farm.sweep.concurrency_entry import ConcurrencyEntry, ThreadsEntry
from farm.sweep.fields import (
    MODELS,
    BatchSize,
    Count,
    Name,
    OneOf,
    OneOrMore,
    Weights,
    ascending,
)
from farm.sweep.options import option_problems
from farm.sweep.parts import Part, Shorthand
from farm.sweep.problems import Problem, custom, several
from farm.sweep.protocol_entry import ProtocolEntry
from farm.sweep.study import STUDIES, ArrivalEntry, PipelineEntry, WorkersEntry

#: The study that `rebuilds` is for takes 10 to 20 builds.
MAX_REBUILDS = 100


class ModelEntry(Shorthand):
    """A model by name (torchvision, text encoders, Keras), perhaps with other weights or input, or a file."""

    name: Name
    weights: Weights | None = None
    onnx: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    saved_model: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    input: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(min_length=1, max_length=6)] | None = None

    @classmethod
    def short_schema(cls) -> JsonSchemaValue:
        """A model's name."""
        return {"enum": list(MODELS)}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.is_file and self.name not in MODELS:
            message = "no model of torchvision or Keras and no text encoder has this name; a file needs `onnx: FILE`"
            raise several([Problem(("name",), message, self.name, MODELS)])
        if self.is_encoder and self.input is not None:
            raise several([Problem(("input",), "a text encoder takes tokens: set the sweep's `sequence`", self.input)])
        if self.onnx is not None and self.saved_model is not None:
            raise several([Problem(("saved_model",), "give either `onnx` or `saved_model`", self.saved_model)])
        what = "an ONNX file" if self.onnx is not None else "a SavedModel"
        if self.is_file and self.weights is not None:
            raise several([Problem(("weights",), f"{what} brings its own weights", self.weights)])
        if self.onnx is not None and self.input is None:
            raise custom("an ONNX file needs `input: [C, H, W]`, one sample's shape without the batch")
        if self.saved_model is not None and self.input is None:
            raise custom("a SavedModel needs `input: [H, W, C]`, one sample's shape in its own order")
        if self.name in KERAS_MODELS and self.weights is not None and not self.weights.startswith("random:"):
            raise several([Problem(("weights",), "a model of Keras has weights `random:SEED` alone", self.weights)])
        return self

    @property
    def is_encoder(self) -> bool:
        """Whether it is one of the text encoders, and no file that has the name of one."""
        return not self.is_file and self.name in ENCODERS

    @property
    def is_file(self) -> bool:
        """Whether the model comes as a file, with its weights."""
        return self.onnx is not None or self.saved_model is not None


class WorkflowEntry(Shorthand):
    """A workflow by name, perhaps with options beside the name: `{name: pytorch, channels_last: true}`."""

    name: Annotated[str, OneOf(WORKFLOWS, "workflow")]
    options: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def short_schema(cls) -> JsonSchemaValue:
        """A workflow's name, or any mapping with a name: options depend on the workflow."""
        long = {"type": "object", "required": ["name"], "properties": {"name": {"enum": list(WORKFLOWS)}}}
        return {"anyOf": [{"enum": list(WORKFLOWS)}, long]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            return value
        options = {key: option for key, option in value.items() if key != "name"}
        return {key: v for key, v in value.items() if key == "name"} | {"options": options}

    @model_validator(mode="after")
    def _options_exist(self) -> Self:
        found = option_problems(WORKFLOWS[self.name], self.options)
        if found:
            raise several(found)
        return self


class BatchEntry(Shorthand):
    """A batch size, a list of them, or a geometric ladder; `until` says what ends it early."""

    sizes: Annotated[list[BatchSize], Field(min_length=1, max_length=64), AfterValidator(ascending)] | None = None
    start: BatchSize | None = None
    factor: Annotated[int, Field(ge=2, le=1024)] | None = None
    stop: BatchSize | None = None
    until: OneOrMore[Annotated[str, OneOf(LADDER_STOPS, "end of a ladder")]] | None = None

    @classmethod
    def short_schema(cls) -> JsonSchemaValue:
        """One size or several."""
        return {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        return {"sizes": value if isinstance(value, list) else [value]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        steps = [key for key in ("start", "factor", "stop") if getattr(self, key) is not None]
        if self.sizes is not None and steps:
            raise several([Problem((steps[0],), "give either `sizes` or `start`, `factor`, `stop`")])
        if self.sizes is None and self.stop is None:
            raise custom("the key 'stop' is missing")
        if self.stop is not None and self.stop < (self.start or 1):
            raise several([Problem(("stop",), f"must be at least the start, {self.start or 1}", self.stop)])
        return self

    def ladder(self) -> tuple[int, ...]:
        """The sizes to try, in order."""
        if self.sizes is not None:
            return tuple(self.sizes)
        size, out = self.start or 1, []
        while size <= (self.stop or 1):
            out.append(size)
            size *= self.factor or 2
        return tuple(out)


class DeviceEntry(Shorthand):
    """A device class by name, one device by id, or facts to meet: `{kind: gpu, compute_capability: ">=8.0"}`."""

    id: Name | None = None
    device_class: Name | None = Field(default=None, alias="class")
    kind: Annotated[str, OneOf(DEVICE_KINDS, "kind of device")] | None = None
    facts: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def short_schema(cls) -> JsonSchemaValue:
        """A class's name, or any mapping: facts are the devices' own."""
        scalar = {"type": ["string", "number", "boolean"]}
        kind = {"enum": list(DEVICE_KINDS)}
        long = {"type": "object", "properties": {"kind": kind}, "additionalProperties": scalar}
        return {"anyOf": [super().short_schema(), long]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"class": value}
        if not isinstance(value, dict):
            return value
        named = {key: v for key, v in value.items() if key in ("id", "class", "kind")}
        return named | {"facts": {key: v for key, v in value.items() if key not in named}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = [problem for key, value in self.facts.items() if (problem := _fact_problem(key, value))]
        if self.id is not None and (self.device_class or self.kind or self.facts):
            found.append(Problem(("id",), "an id names one device: nothing may stand beside it", self.id))
        if found:
            raise several(found)
        if not (self.id or self.device_class or self.kind or self.facts):
            raise custom("must say which devices: a class, an id, a kind or facts")
        return self


class CalibrationEntry(Part):
    """How int8 ranges are found. Several methods or batches make one job each."""

    method: OneOrMore[Annotated[str, OneOf(CALIBRATION_METHODS, "calibration method")]] | None = None
    samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch: OneOrMore[BatchSize] | None = None
    percentile: Annotated[float, Field(ge=50, le=100)] | None = None


class AccuracyEntry(Part):
    """What top-1 and top-5 are taken on. `path` is a folder on the worker hosts, for imagenet alone."""

    dataset: Annotated[str, OneOf(ACCURACY_DATA, "data set with classes")]
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    limit: Annotated[int, Field(ge=1, le=10_000_000)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dataset != "imagenet" and self.path is not None:
            raise several([Problem(("path",), f"{self.dataset} comes with the farm: leave the path out", self.path)])
        if self.dataset == "imagenet" and self.path is None:
            raise custom("imagenet needs `path`, the folder with the images on the worker hosts")
        if self.path is not None and not self.path.startswith("/"):
            raise several([Problem(("path",), "must be absolute: workers read it, wherever they run", self.path)])
        return self


class ExcludeEntry(Part):
    """A combination to leave out: what is named must agree, what is not may be anything."""

    model: str | None = None
    workflow: str | None = None
    precision: str | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.model is None and self.workflow is None and self.precision is None:
            raise custom("must name a model, a workflow or a precision")
        return self


class RebuildsEntry(Shorthand):
    """How often engines are built; a number alone means with a cold timing cache."""

    count: Annotated[int, Field(ge=1, le=MAX_REBUILDS)]
    timing_cache: Annotated[str, OneOf(TIMING_CACHES, "timing cache")] | None = None

    @classmethod
    def short_schema(cls) -> JsonSchemaValue:
        """The number of builds."""
        return {"type": "integer", "minimum": 1, "maximum": MAX_REBUILDS}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"count": value}

    @property
    def is_default(self) -> bool:
        """Whether this is what leaving it out means: one build, with the device's timing cache."""
        return self.count == 1 and self.timing_cache != "cold"


class SweepDocument(Part):
    """The whole document. `name`, `models` and `workflows` must be there; that is checked apart, with all else."""

    name: Name | None = None
    protocol: ProtocolEntry | None = None
    models: Annotated[list[ModelEntry], Field(min_length=1, max_length=1000)] | None = None
    workflows: Annotated[list[WorkflowEntry], Field(min_length=1, max_length=200)] | None = None
    precisions: Annotated[list[Annotated[str, OneOf(PRECISIONS, "precision")]], Field(min_length=1)] | None = None
    batch: BatchEntry | None = None
    sequence: OneOrMore[Count] | None = None
    devices: Annotated[list[DeviceEntry], Field(min_length=1, max_length=1000)] | None = None
    calibration: CalibrationEntry | None = None
    data: Annotated[str, OneOf(DATA, "data")] | None = None
    weights: Weights | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    rebuilds: RebuildsEntry | None = None
    concurrency: ConcurrencyEntry | None = None
    accuracy: AccuracyEntry | None = None
    profile: OneOrMore[Annotated[str, OneOf(PROFILES, "profile")]] | None = None
    study: Annotated[str, OneOf(STUDIES, "study")] | None = None
    pipeline: PipelineEntry | None = None
    exclude: Annotated[list[ExcludeEntry], Field(max_length=1000)] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None


REQUIRED = ("name", "models", "workflows")

#: Which keys are known at which path (list indices as 0), to suggest the nearest.
KEYS: dict[tuple[str | int, ...], Sequence[str]] = {
    (): tuple(SweepDocument.model_fields),
    ("protocol",): tuple(ProtocolEntry.model_fields),
    ("models", 0): tuple(ModelEntry.model_fields),
    ("batch",): tuple(BatchEntry.model_fields),
    ("calibration",): tuple(CalibrationEntry.model_fields),
    ("accuracy",): tuple(AccuracyEntry.model_fields),
    ("exclude", 0): tuple(ExcludeEntry.model_fields),
    ("rebuilds",): tuple(RebuildsEntry.model_fields),
    ("concurrency",): tuple(ConcurrencyEntry.model_fields),
    ("concurrency", "threads"): tuple(ThreadsEntry.model_fields),
    ("pipeline",): tuple(PipelineEntry.model_fields),
    ("pipeline", "workers"): tuple(WorkersEntry.model_fields),
    ("pipeline", "arrival"): tuple(ArrivalEntry.model_fields),
}


def _fact_problem(key: str, value: Any) -> Problem | None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", key):
        return Problem((key,), "unknown key: facts are lower-case words such as `memory_bytes`", key)
    if not isinstance(value, (str, int, float)):
        return Problem((key,), 'must be a value or a comparison such as ">=8.0"', value)
    try:
        parse_conditions(key, value)
    except ValueError as error:
        return Problem((key,), str(error), value)
    return None


def json_schema() -> dict[str, Any]:
    """The JSON schema of a sweep file, for editors. It knows types, ranges and names; not combinations."""
    return SweepDocument.model_json_schema() | {"title": "Inferfarm sweep", "required": list(REQUIRED)}
