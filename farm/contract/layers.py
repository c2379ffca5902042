# SPDX-License-Identifier: Apache-2.0
"""Where the time of one inference goes: a table of layers, the same for every library that can tell.

Schema history:
    1 (0.2.0): first.
"""

from dataclasses import dataclass, field
from typing import List, Optional, Tuple

LAYERS_SCHEMA = 1

#: What a sweep's `profile` may name: each is a run of its own, after the measured one.
PROFILES = ("layers", "timeline")

#: Kinds of artifacts.
LAYERS_ARTIFACT = "profile:layers"
TIMELINE_ARTIFACT = "profile:timeline"
#: Beside the trace: as much of it as a still picture shows, so that a report need not read all of it.
PICTURE_ARTIFACT = "profile:timeline-picture"
#: What a runner hands to its daemon for the timeline: its own part, without telemetry.
TIMELINE_PART = "timeline:runner"

#: Where layers run inside of a TensorRT engine, whoever called it.
TENSORRT = "tensorrt"
#: Of a row that is no layer: what lies between the layers, as far as it was seen.
BETWEEN = "between"


@dataclass(frozen=True)
class Layer:
    """One row: a layer, operator or kernel as the library runs it.

    `origins` are the names that it had in the model: of ONNX nodes, or of torch modules; several where they were fused.
    `kind` is the library's word for what it does, `place` who runs it (`tensorrt`, `cuda`, `cpu`, `pytorch` ...).
    `precision` is the type it computes in; `tactic` the kernel or implementation chosen, of several kernels the one
    that took longest. None: the library does not tell. `calls` and `time_ns` are for one inference, `share` is of all
    rows' time.
    """

    name: str
    origins: Tuple[str, ...]
    kind: str
    place: str
    precision: Optional[str]
    tactic: Optional[str]
    calls: float
    time_ns: float
    share: float


@dataclass(frozen=True)
class LayerTable:
    """The rows, in the order in which they ran.

    `source` is who told. `clock` is `device` (times on the GPU) or `host` (wall clock of the calling thread).
    `statistic` is what `time_ns` is over the iterations: `median`, or `midmean` (the mean of the middle half) where the
    source counts in whole microseconds. `wall_ns` is the median wall clock of an inference while it was profiled,
    `whole_ns` the median of the sum of its rows.
    """

    source: str
    clock: str
    statistic: str
    iterations: int
    wall_ns: float
    whole_ns: float
    layers: List[Layer]
    notes: List[str] = field(default_factory=list)
    schema: int = LAYERS_SCHEMA

    @property
    def sum_ns(self) -> float:
        """The time of all rows."""
        return sum(layer.time_ns for layer in self.layers)
