# SPDX-License-Identifier: Apache-2.0
"""The key `pipeline` of a sweep with `study: pipeline`: images, workers, queues, arrivals."""

from __future__ import annotations

import os
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from farm.contract.pipeline import GENERATED, MODES, PROCESSES, ArrivalSpec, PipelineSpec
from farm.sweep.fields import OneOf, OneOrMore, Positive
from farm.sweep.parts import Part
from farm.sweep.problems import Problem, custom, several

STUDIES = ("pipeline",)

#: Threads beyond this are no pipeline any more.
_MOST_THREADS = 64
_SIDE = Annotated[int, Field(ge=16, le=8192)]
_MADE = ("size", "quality")
#: All images of one rate are held as times: 8 bytes each, and one sample file.
_MOST_ARRIVALS = 1_000_000
#: Of pictures to make, in all: ten minutes' work for one core.
_MOST_PIXELS = 1_000_000_000
#: Each rate is a pass of its own.
_RATES = Field(max_length=32)


class WorkersEntry(Part):
    """Threads of the stages that may have several."""

    decode: Annotated[int, Field(ge=1, le=_MOST_THREADS)] | None = None
    preprocess: Annotated[int, Field(ge=1, le=_MOST_THREADS)] | None = None


class ArrivalEntry(Part):
    """Rates of arrival, as shares of the measured capacity or in images a second, and how batches are put together."""

    of_capacity: Annotated[OneOrMore[Annotated[float, Field(gt=0, le=10)]], _RATES] | None = None
    per_s: Annotated[OneOrMore[Annotated[float, Field(gt=0, le=1e6)]], _RATES] | None = None
    process: Annotated[str, OneOf(PROCESSES, "arrival process")] | None = None
    max_wait_ms: Annotated[float, Field(ge=0, le=60_000)] | None = None
    duration_s: Annotated[float, Field(ge=0.5, le=3600)] | None = None

    @model_validator(mode="after")
    def _rates(self) -> Self:
        if self.of_capacity is None and self.per_s is None:
            raise custom("names no rate: give `of_capacity: [0.5, 0.8]` or `per_s: [100, 200]`, or both")
        seconds = self.duration_s or ArrivalSpec.duration_s
        found = [
            Problem(("per_s", index), f"{rate * seconds:.3g} arrivals are too many: lower the rate or duration_s", rate)
            for index, rate in enumerate(self.per_s or ())
            if rate * seconds > _MOST_ARRIVALS
        ]
        if found:
            raise several(found)
        return self

    def spec(self) -> ArrivalSpec:
        """With the defaults filled in."""
        given = self.model_dump(exclude_none=True)
        for name in ("of_capacity", "per_s"):
            given[name] = tuple(sorted(set(given.get(name, ()))))
        return ArrivalSpec(**given)


class PipelineEntry(Part):
    """What the study is made with; every key may be left out."""

    images: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    count: Annotated[int, Field(ge=1, le=10_000)] | None = None
    size: Annotated[list[_SIDE], Field(min_length=2, max_length=2)] | None = None
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    mode: Annotated[str, OneOf(MODES, "mode")] | None = None
    workers: WorkersEntry | None = None
    queue_depth: Annotated[int, Field(ge=1, le=64)] | None = None
    duration_s: Positive | None = None
    arrival: ArrivalEntry | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = []
        if self.images not in (None, GENERATED):
            if not str(self.images).startswith("/"):
                message = f"must be `{GENERATED}` or an absolute folder: workers read it, wherever they run"
                found.append(Problem(("images",), message, self.images))
            found += [
                Problem((name,), f"is of pictures that the farm makes: leave it out, or set `images: {GENERATED}`")
                for name in _MADE
                if getattr(self, name) is not None
            ]
        if self.mode == "serial":
            found += [
                Problem((name,), "needs stages that overlap: set `mode: both` or `mode: overlapped`")
                for name in ("workers", "queue_depth", "arrival")
                if getattr(self, name) is not None
            ]
        made = self.spec()
        pixels = made.count * made.width * made.height
        if not found and made.images == GENERATED and pixels > _MOST_PIXELS:
            message = f"{made.count} pictures to make have {pixels:.3g} pixels, more than {_MOST_PIXELS:.0e} in all"
            found.append(Problem(("count",), f"{message}: lower it or `size`, or give a folder", made.count))
        if found:
            raise several(found)
        return self

    def spec(self) -> PipelineSpec:
        """With the defaults filled in."""
        given: dict[str, Any] = {
            name: value
            for name in ("count", "quality", "mode", "queue_depth", "duration_s")
            if (value := getattr(self, name)) is not None
        }
        if self.images is not None:
            given["images"] = self.images if self.images == GENERATED else os.path.normpath(self.images)
        if self.size is not None:
            given["width"], given["height"] = self.size
        if self.workers is not None:
            threads = self.workers.model_dump(exclude_none=True)
            given |= {f"{name}_workers": count for name, count in threads.items()}
        if self.arrival is not None:
            given["arrival"] = self.arrival.spec()
        return PipelineSpec(**given)
