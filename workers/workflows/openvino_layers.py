# SPDX-License-Identifier: Apache-2.0
"""Time per node of a model that OpenVINO compiled, from its own performance counters.

Each is a mean over all inferences since the model was compiled, the slow first one among them: what the later ones took
follows from two readings.
"""

from typing import Any, Dict, List, Sequence, Tuple

from workers.workflows.layers import LayerProfiler, Observed, Rows, Step
from workers.workflows.ort_layers import Node

_TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
#: Decompositions leave the node they began with by the model's name and this.
_PART = "/WithoutBiases"
#: Inferences that settle caches and pages before the first reading.
_SETTLED = 5


class OpenVinoLayers(LayerProfiler):
    """`compiled`, with performance counters, has run nothing yet; `request` is its one, `nodes` are the model's."""

    source = "OpenVINO performance counters"
    coarse = True  # whole microseconds

    def __init__(self, compiled: Any, request: Any, nodes: Sequence[Node]) -> None:
        super().__init__()
        self._request = request
        self._facts = node_facts(compiled)
        # What makes an output of the model has the output's name.
        self._made_by = {output: node[0] for node in nodes for output in node[2]}
        self.notes.append("OpenVINO's counters are means: each time is that of all inferences but the first few")

    def observe(self, step: Step, count: int) -> List[Observed]:
        """Read after the first few steps and after the last."""
        for _ in range(_SETTLED):
            step()
        before = {info.node_name: _mean_ns(info) for info in self._ran()}
        for _ in range(count - _SETTLED):
            step()
        rows = Rows(count)
        for info in self._ran():
            time_ns = later_mean(before.get(info.node_name, 0.0), _SETTLED, _mean_ns(info), count)
            for iteration in range(count):
                rows.add(info.node_name, iteration, time_ns, lambda info=info: self._row(info))  # type: ignore[misc]
        return rows.list()

    def _ran(self) -> List[Any]:
        return [info for info in self._request.profiling_info if str(info.status).endswith("EXECUTED")]

    def _row(self, info: Any) -> Observed:
        facts = self._facts.get(info.node_name, {})
        kind = facts.get("layerType") or info.node_type
        return Observed(
            info.node_name,
            kind,
            "openvino",
            tuple(self._made_by.get(name, name) for name in origins_of(facts.get("originalLayersNames", ""))),
            _TYPES.get(facts.get("runtimePrecision", "").lower()),
            info.exec_type,
        )


def later_mean(early: float, few: int, late: float, count: int) -> float:
    """The mean of the last `count - few` of `count` values, by the means of the first `few` and of all. Pure."""
    return max((late * count - early * few) / (count - few), 0.0)


def _mean_ns(info: Any) -> float:
    return float(info.real_time.total_seconds() * 1e9)


def node_facts(compiled: Any) -> Dict[str, Dict[str, str]]:
    """What the execution graph says of each node, by name."""
    wanted = ("layerType", "originalLayersNames", "runtimePrecision")
    found: Dict[str, Dict[str, str]] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        found[node.get_friendly_name()] = {name: str(facts[name].astype(str)) for name in wanted if name in facts}
    return found


def origins_of(listed: str) -> Tuple[str, ...]:
    """`/conv1/Conv/WithoutBiases,/relu/Relu` as names of the model. Pure."""
    parts = [part.strip() for part in listed.split(",")]
    whole = [part[: -len(_PART)] if part.endswith(_PART) else part for part in parts]
    return tuple(dict.fromkeys(part for part in whole if part))
