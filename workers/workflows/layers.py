# SPDX-License-Identifier: Apache-2.0
"""Layer profilers: what a workflow gives the runner to take an inference apart, and the table made of it. Pure."""

import re
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from farm.contract.layers import Layer, LayerTable
from workers.workflows.errors import WorkflowError

#: What a step is: one inference and the wait for it.
Step = Callable[[], None]


@dataclass
class Observed:
    """A row as it was seen: the time of each iteration in ns, and how often it was called in all."""

    name: str
    kind: str
    place: str
    origins: Tuple[str, ...] = ()
    precision: Optional[str] = None
    tactic: Optional[str] = None
    calls: int = 0
    times_ns: List[float] = field(default_factory=list)


class LayerProfiler:
    """Attached to what a workflow has loaded. Asked for after `load`, in mode `layers` alone.

    `coarse`: its times are in whole microseconds, of which only a mean tells parts.
    """

    source = ""
    clock = "host"
    coarse = False

    def __init__(self) -> None:
        self.notes: List[str] = []

    def observe(self, step: Step, count: int) -> List[Observed]:
        """Take `count` steps and return what ran in them, in order.

        Raises:
            WorkflowError: the library's profiler cannot be used here.
        """
        raise NotImplementedError


class Rows:
    """Rows by a key, in the order in which they were first seen."""

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._rows: Dict[Any, Observed] = {}

    def add(self, key: Any, iteration: int, time_ns: float, make: Callable[[], Observed], calls: int = 1) -> None:
        """Add a call's time to the row of `key`, which `make` gives the first time."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = make()
            row.times_ns = [0.0] * self._iterations
        row.calls += calls
        row.times_ns[iteration] += time_ns

    def list(self) -> List[Observed]:
        """All of them."""
        return list(self._rows.values())


def table(profiler: LayerProfiler, rows: Sequence[Observed], walls_ns: Sequence[int]) -> LayerTable:
    """The table of what a profiler saw in steps that took `walls_ns` each.

    Raises:
        WorkflowError: it saw nothing.
    """
    if not rows:
        raise nothing_seen(profiler.source)
    centre = midmean if profiler.coarse else median
    times = [centre(row.times_ns) for row in rows]
    total, count = sum(times) or 1.0, len(walls_ns)
    layers = [
        Layer(
            row.name, row.origins, row.kind, row.place, row.precision, row.tactic, row.calls / count, time, time / total
        )
        for row, time in zip(rows, times)
    ]
    statistic = "midmean" if profiler.coarse else "median"
    wall_ns = median([float(wall) for wall in walls_ns])
    whole_ns = median([sum(times) for times in zip(*(row.times_ns for row in rows))])
    return LayerTable(
        profiler.source, profiler.clock, statistic, count, wall_ns, whole_ns, layers, list(profiler.notes)
    )


def nothing_seen(source: str) -> WorkflowError:
    """The failure of a profiler that told no layer."""
    return WorkflowError(
        "{} told no layer".format(source),
        "The run's log has what the library printed; on a GPU, its profiling interface (CUPTI) may be held by another "
        "process or closed to this user.",
        "profiler-silent",
    )


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: as deaf to outliers as need be, and finer than the clock's steps."""
    ordered, cut = sorted(values), len(values) // 4
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


#: TensorRT's words for what moves data and comes from no node of the graph.
_NOT_OF_THE_MODEL = re.compile(r"^(Reformatting CopyNode|\[?(HostToDeviceCopy|DeviceToShapeHostCopy)|__)")
_MARKED = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")
_WRAPPED = re.compile(r"^(PWN|PointWiseV2|ForeignNode)?[({]+|[)}]+$")


def trt_origins(name: str, metadata: str = "") -> Tuple[str, ...]:
    """The ONNX nodes that a TensorRT layer was made from: by its metadata (8.6 and later), else by its name.

    A fused layer is named after its parts, joined by ` + `; pointwise chains are `PWN(a, b)`, regions
    `{ForeignNode[a...b]}`, of which the name has only the two ends.
    """
    marked = _MARKED.findall(metadata)
    if marked:
        return tuple(dict.fromkeys(marked))
    if _NOT_OF_THE_MODEL.match(name):
        return ()
    if "ForeignNode[" in name:
        inner = name.partition("ForeignNode[")[2].rpartition("]")[0]
        return tuple(part for part in inner.split("...") if part)
    parts = re.split(r" \+ |, | \|\| ", name)
    plain = [_plain(part) for part in parts if "(Unnamed Layer" not in part]
    return tuple(dict.fromkeys(part for part in plain if part))


#: What kernels' names say of the type they compute in, the most telling first: where nothing else tells.
_KERNEL_TYPES = (
    ("int8", ("imma", "i8i8", "int8", "_s8_")),
    ("tf32", ("tf32",)),
    ("bf16", ("bf16", "bfloat16")),
    ("fp16", ("f16f16", "h884", "h1688", "s1688", "h16816", "s16816", "hmma", "half", "fp16", "_f16_")),
    ("fp32", ("f32f32", "sgemm", "ffma", "scudnn", "float", "fp32")),
)


def kernel_type(name: str) -> Optional[str]:
    """The type that a kernel's name tells, if it tells one."""
    words = name.lower()
    return next((kind for kind, marks in _KERNEL_TYPES if any(mark in words for mark in marks)), None)


def _plain(part: str) -> str:
    before = None
    while before != part:
        before, part = part, _WRAPPED.sub("", part.strip())
    return part
