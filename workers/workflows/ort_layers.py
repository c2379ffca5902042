# SPDX-License-Identifier: Apache-2.0
"""Time per node of an ONNX Runtime session, from the profile that it writes itself. Pure but for the one file."""

import json
import os
import re
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from workers.workflows.layers import LayerProfiler, Observed, Rows, Step

#: ONNX Runtime's words for types, in the order in which one is preferred as the type that a node computes in.
_TYPES = {
    "int8": "int8",
    "uint8": "int8",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float": "fp32",
    "int64": "int64",
    "int32": "int32",
    "bool": "bool",
}
_NODE_END = "_kernel_time"
#: What optimisers add to the name of the tensor or node that they began with.
_ADDED = re.compile("(_nchwc|_quant|_QuantizeLinear|_DequantizeLinear|_token(_[0-9]+)?)$")
_OUTPUT = "_output_"

#: Operators that a fused node named after what follows them has in it.
_FORWARD = ("Conv", "ConvTranspose", "Gemm", "MatMul", "DequantizeLinear")

#: Operators that are gone before anything runs.
_CONSTANT = ("Identity", "Constant")

#: A node of the model: name, inputs, outputs, operator.
Node = Tuple[str, Sequence[str], Sequence[str], str]


def profile_prefix(control_dir: str) -> str:
    """Where a profiled session writes."""
    return os.path.join(control_dir, "ort_profile")


class OrtLayers(LayerProfiler):
    """`session` was opened with a profile; `nodes` are those of the model's file, none where it cannot be read."""

    source = "ONNX Runtime profile"
    coarse = True  # whole microseconds

    def __init__(self, session: Any, nodes: Sequence[Node]) -> None:
        super().__init__()
        self._session, self._nodes = session, nodes
        if not nodes:
            self.notes.append("the stack has no `onnx` to read the model with: fused nodes have one origin each")

    def observe(self, step: Step, count: int) -> List[Observed]:
        """The session profiles all along; the last `count` runs of its profile are the steps."""
        for _ in range(count):
            step()
        with open(self._session.end_profiling(), encoding="utf-8") as stream:
            return rows_of(stream.read(), count, self._nodes)


def model_nodes(path: str) -> List[Node]:
    """The nodes of an ONNX file; empty where this stack has no `onnx`."""
    try:
        import onnx
    except ImportError:
        return []
    graph = onnx.load(path, load_external_data=False).graph
    return [(node.name, list(node.input), list(node.output), node.op_type) for node in graph.node]


def rows_of(text: str, count: int, nodes: Sequence[Node]) -> List[Observed]:
    """The rows of the last `count` runs in a profile."""
    events = [event for event in json.loads(text) if isinstance(event, dict)]
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")[-count:]
    found = sorted((e for e in events if _is_node(e)), key=lambda e: e["ts"])
    groups = origins(dict.fromkeys(_name(e) for e in found), nodes)
    rows, run = Rows(count), 0
    for event in found:
        while run < len(runs) and event["ts"] > runs[run][1]:
            run += 1
        if run < len(runs) and event["ts"] >= runs[run][0]:
            name = _name(event)
            args = event["args"]
            rows.add(name, run, event["dur"] * 1e3, lambda: _row(name, args, groups.get(name, ())))  # noqa: B023
    return rows.list()


def _is_node(event: Dict[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event.get("name")).endswith(_NODE_END) and "args" in event


def _name(event: Dict[str, Any]) -> str:
    return str(event["name"])[: -len(_NODE_END)]


def _row(name: str, args: Dict[str, Any], made_from: Tuple[str, ...]) -> Observed:
    place = str(args.get("provider", "")).replace("ExecutionProvider", "").lower()
    return Observed(name, str(args.get("op_name", "")), place or "unknown", made_from, _precision(args))


def _precision(args: Dict[str, Any]) -> Optional[str]:
    """The narrowest type among a node's inputs: what a product of int8 with an fp32 scale computes in is int8."""
    told = args.get("input_type_shape") or args.get("output_type_shape") or []
    there = {kind for entry in told if isinstance(entry, dict) for kind in entry}
    return next((word for kind, word in _TYPES.items() if kind in there), None)


def origins(rows: Iterable[str], nodes: Sequence[Node]) -> Dict[str, Tuple[str, ...]]:
    """Which nodes of the model each row stands for; `rows` in the order in which they ran.

    ONNX Runtime names a fused node after its first node, or after the tensor that its last node makes. Of the nodes
    without a row, those that compute belong to the row behind them (a convolution to the activation that the row is
    named after), and the others to the row before them (an activation, an addition), of several to the last that ran.
    """
    listed, names = list(rows), {node[0] for node in nodes}
    anchors = {row: _anchor(row, names) for row in listed}
    if not nodes:
        return {row: (anchor,) for row, anchor in anchors.items()}
    order = {row: index for index, row in enumerate(listed)}
    owner = {anchor: row for row, anchor in anchors.items() if anchor in names}
    before, behind = _neighbours(nodes)
    for name, _, _, _ in reversed([node for node in nodes if node[3] in _FORWARD]):
        _adopt(owner, name, behind[name], order)
    for node in nodes:
        _adopt(owner, node[0], before[node[0]], order)
    for node in reversed(nodes):
        _adopt(owner, node[0], behind[node[0]], order)
    groups: Dict[str, List[str]] = {}
    for node in nodes:
        if node[0] in owner and node[3] not in _CONSTANT:
            groups.setdefault(owner[node[0]], []).append(node[0])
    return {row: tuple(found) for row, found in groups.items()}


def _adopt(owner: Dict[str, str], name: str, neighbours: Sequence[str], order: Dict[str, int]) -> None:
    rows = [owner[each] for each in neighbours if each in owner]
    if name not in owner and rows:
        owner[name] = max(rows, key=lambda row: order[row])


def _neighbours(nodes: Sequence[Node]) -> Tuple[Dict[str, List[str]], Dict[str, List[str]]]:
    """The nodes before and behind each, by name."""
    made_by = {output: node[0] for node in nodes for output in node[2]}
    before = {node[0]: [made_by[value] for value in node[1] if value in made_by] for node in nodes}
    behind: Dict[str, List[str]] = {node[0]: [] for node in nodes}
    for name, sources in before.items():
        for source in sources:
            behind[source].append(name)
    return before, behind


def _anchor(row: str, names: Iterable[str]) -> str:
    """The node of the model that a row is named after: `/relu/Relu_output_0_nchwc` is `/relu/Relu`."""
    known, found = set(names), row
    while True:
        if found in known:
            return found
        shorter = _ADDED.sub("", found)
        if shorter == found:
            break
        found = shorter
    head, mark, number = found.rpartition(_OUTPUT)
    return head if mark and number.isdigit() else found
