# SPDX-License-Identifier: Apache-2.0
"""What a TensorFlow graph holds: the types of its products, and how much of it TF-TRT took into engines.

An operator is a node that computes a tensor: constants, inputs, variables, calls of functions and nodes that only hand
a tensor on are none.
"""

from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

from workers.workflows.partition import Partition

ENGINE = "TRTEngineOp"
#: The graph itself, among its functions.
MAIN = ""
_IDLE = {
    "Arg", "AssignVariableOp", "Const", "HostConst", "Identity", "IdentityN", "NoOp", "PartitionedCall", "Placeholder",
    "PlaceholderWithDefault", "ReadVariableOp", "RestoreV2", "Retval", "SaveV2", "StatefulPartitionedCall",
    "StopGradient", "VarHandleOp", "VariableV2", "_Arg", "_Retval",
}  # fmt: skip
_PRODUCTS = (
    "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Einsum", "MatMul",
    "_FusedConv2D", "_FusedMatMul",
)  # fmt: skip


class Node(NamedTuple):
    """A node: its name and operator, the functions that it names, the type `T` of its tensors, an engine's precision.

    `functions` of an engine are its segment: what TensorFlow would run in its place.
    """

    name: str
    op: str
    functions: Tuple[str, ...] = ()
    dtype: Optional[str] = None
    precision: Optional[str] = None


#: The nodes of a graph (`MAIN`) and of every function in its library.
Functions = Dict[str, List[Node]]


def functions_of(tf: Any, graph_def: Any) -> Functions:
    """A GraphDef as plain data."""
    found = {MAIN: [_node(tf, node) for node in graph_def.node]}
    for function in graph_def.library.function:
        found[function.signature.name] = [_node(tf, node) for node in function.node_def]
    return found


def _node(tf: Any, node: Any) -> Node:
    names = []
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            names.append(value.func.name)
        elif value.WhichOneof("value") == "list":
            names += [function.name for function in value.list.func]
    dtype = tf.dtypes.as_dtype(node.attr["T"].type).name if node.attr["T"].type else None
    precision = node.attr["precision_mode"].s.decode() if node.op == ENGINE else None
    return Node(node.name, node.op, tuple(name for name in names if name), dtype, precision)


def product_types(functions: Functions) -> Dict[str, int]:
    """How many convolutions and matrix products there are in each type, outside of engines' segments."""
    found: Dict[str, int] = {}
    for node in _reached(functions):
        if node.op in _PRODUCTS and node.dtype is not None:
            found[node.dtype] = found.get(node.dtype, 0) + 1
    return found


def engines(functions: Functions) -> List[Node]:
    """The nodes that run an engine."""
    return [node for node in _reached(functions) if node.op == ENGINE]


def canonical(name: str) -> str:
    """What TF-TRT calls the engine of a node, whatever scope the node is in."""
    return name.rsplit("/", 1)[-1]


def partition(functions: Functions, built: FrozenSet[str]) -> Partition:
    """How much of a converted graph runs in engines. `built` are the canonical names of those that exist.

    Where TensorRT could not build an engine, TensorFlow runs the segment: its operators are left.
    """
    left, inside, count = [], 0, 0
    for node in _reached(functions):
        if node.op != ENGINE:
            left += _told([node])
            continue
        segment = _told(_reached(functions, node.functions))
        if canonical(node.name) in built:
            count, inside = count + 1, inside + len(segment)
        else:
            left += segment
    return Partition(count, inside + len(left), tuple(left))


def _told(nodes: Any) -> List[str]:
    return ["{} ({})".format(node.name, node.op) for node in nodes if node.op not in _IDLE]


def _reached(functions: Functions, roots: Tuple[str, ...] = (MAIN,)) -> Iterator[Node]:
    """Every node of these functions and of those that they call, each function once, segments of engines left out."""
    waiting: List[str] = list(roots)
    seen: Set[str] = set()
    while waiting:
        name = waiting.pop(0)
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name]:
            yield node
            if node.op != ENGINE:
                waiting += node.functions
