# SPDX-License-Identifier: Apache-2.0
"""How a sweep says how to measure: a protocol by name, with switches set otherwise."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic.json_schema import JsonSchemaValue

from farm.contract.job import SCENARIOS, WARM_UP_RULES
from farm.contract.protocols import PROTOCOLS
from farm.contract.run import STAGES
from farm.sweep.concurrency_entry import LANES, lanes_problems
from farm.sweep.fields import Count, Lanes, OneOf, Positive, Seconds, Threads
from farm.sweep.parts import Shorthand
from farm.sweep.problems import Problem, several

#: Switches of a protocol of which the first may not be above the second.
_RANGES = (
    ("min_iterations", "max_iterations"),
    ("min_s", "max_s"),
    ("warmup_min_s", "warmup_max_s"),
    ("processes", "max_processes"),
)


class ProtocolEntry(Shorthand):
    """A protocol by name, or one with some switches set otherwise."""

    base: Annotated[str, OneOf(PROTOCOLS, "protocol")]
    warmup_min_iterations: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    warmup_min_s: Seconds | None = None
    min_iterations: Count | None = None
    min_s: Seconds | None = None
    max_iterations: Count | None = None
    max_s: Positive | None = None
    boundary: Annotated[str, OneOf(("compute", "end_to_end"), "boundary")] | None = None
    inputs: Annotated[str, OneOf(("rotated", "warm"), "kind of input")] | None = None
    rtols: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, max_length=8)] | None = None
    atol: Annotated[float, Field(ge=0, lt=1)] | None = None
    threads: Threads | None = None
    stage_limits_s: dict[Annotated[str, OneOf((*STAGES, "default"), "stage")], Positive] | None = None
    warmup_rule: Annotated[str, OneOf(WARM_UP_RULES, "warm-up rule")] | None = None
    warmup_max_s: Positive | None = None
    target_half_width: Annotated[float, Field(gt=0, lt=1)] | None = None
    noise_plateau: bool | None = None
    processes: Annotated[int, Field(ge=1, le=100)] | None = None
    max_processes: Annotated[int, Field(ge=1, le=100)] | None = None
    processes_half_width: Annotated[float, Field(gt=0, lt=1)] | None = None
    processes_max_s: Positive | None = None
    scenario: Annotated[str, OneOf(SCENARIOS, "scenario")] | None = None
    streams: Lanes | None = None
    energy_s: Positive | None = None
    contexts: Lanes | None = None
    sessions: Lanes | None = None
    inter_threads: Threads | None = None

    @classmethod
    def short_schema(cls) -> JsonSchemaValue:
        """A protocol's name."""
        return {"enum": list(PROTOCOLS)}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"base": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _limits(self) -> Self:
        base, found = PROTOCOLS[self.base], []
        for least_key, most_key in _RANGES:
            least, most = self.switch(base, least_key), self.switch(base, most_key)
            unused = most_key == "warmup_max_s" and self.switch(base, "warmup_rule") != "steady"
            if most is not None and least > most and not unused:
                key = least_key if getattr(self, least_key) is not None else most_key
                message = f"{least_key} is {least}, more than {most_key}, {most}: set both"
                found.append(Problem((key,), message, getattr(self, key)))
        if self.switch(base, "streams") > 1 and self.switch(base, "scenario") != "streams":
            key = "streams" if self.streams is not None else "scenario"
            found.append(Problem((key,), "more than one stream needs `scenario: streams`", getattr(self, key)))
        found += lanes_problems(dataclasses.replace(base, **{key: self.switch(base, key) for key in LANES}))
        if self.switch(base, "scenario") == "offline" and self.switch(base, "boundary") == "end_to_end":
            message = "offline queues inputs that are on the device: it has the boundary `compute` alone"
            found.append(Problem(("scenario",), message, "offline"))
        if found:
            raise several(found)
        return self

    def switch(self, base: Any, name: str) -> Any:
        """A switch as given here, or as `base` has it."""
        given = getattr(self, name)
        return getattr(base, name) if given is None else given
