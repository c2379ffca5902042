# SPDX-License-Identifier: Apache-2.0
"""How much of a model Torch-TensorRT took into engines: operators inside and outside, counted on its graphs.

An operator is a node that computes a tensor: taking an item of a tuple, constants, shapes and no-ops in evaluation are
none.
"""

import operator
from contextlib import contextmanager
from typing import Any, Iterator, List, Set, Tuple

from workers.workflows.partition import Partition

_ENGINE_CALL = "tensorrt::execute_engine"
#: Nodes of TorchScript that do nothing to a model in evaluation, or only hand a tensor on.
_IDLE = {
    "aten::alias", "aten::contiguous", "aten::detach", "aten::dropout", "aten::dropout_", "aten::feature_dropout",
}  # fmt: skip


def fx_operators(module: Any, engines: Set[int]) -> List[str]:
    """Names of the operators of a graph module and of the graph modules in it; `engines` are ids of modules to skip."""
    found = []
    modules = dict(module.named_modules())
    for node in module.graph.nodes:
        if node.op == "call_module":
            inner = modules[node.target]
            if id(inner) in engines:
                continue
            found += fx_operators(inner, engines) if hasattr(inner, "graph") else [type(inner).__name__]
        elif node.op == "call_method" or (node.op == "call_function" and _computes(node.target)):
            found.append(str(node.target))
    return found


def _computes(target: Any) -> bool:
    # Python's own functions work on tuples and sizes, not on tensors.
    return target is not operator.getitem and getattr(target, "__module__", "") not in ("_operator", "builtins", "math")


class Conversions:
    """What the dynamo front end converted: operators of each part, and the ids of the modules made of them."""

    def __init__(self) -> None:
        self.operators = 0
        self.modules: List[Any] = []

    def partition(self, graph_module: Any) -> Partition:
        """The whole, given the compiled graph module."""
        left = tuple(fx_operators(graph_module, {id(module) for module in self.modules}))
        return Partition(len(self.modules), self.operators + len(left), left)


@contextmanager
def watched(compiler: Any) -> Iterator[Conversions]:
    """Count what `compiler.convert_module` is given: the compiled module no longer tells what its engines hold.

    `compiler` is `torch_tensorrt.dynamo._compiler`; the function is there under this name from 2.2 to 2.14.
    """
    seen, original = Conversions(), compiler.convert_module

    def convert(module: Any, *arguments: Any, **keywords: Any) -> Any:
        operators = len(fx_operators(module, set()))
        made = original(module, *arguments, **keywords)
        seen.operators += operators
        seen.modules.append(made)
        return made

    compiler.convert_module = convert
    try:
        yield seen
    finally:
        compiler.convert_module = original


def script_operators(graph: Any) -> List[str]:
    """Names of the operators of a TorchScript graph (take the inlined one) outside of engines."""
    return [
        node.kind()
        for node in _nodes(graph)
        if not node.kind().startswith(("prim::", "tensorrt::")) and node.kind() not in _IDLE and _gives_tensors(node)
    ]


def script_partition(before: Any, after: Any) -> Partition:
    """From the traced graph and the compiled one. The compiled one is lowered, so it may have other operators."""
    left = tuple(script_operators(after))
    return Partition(len(engine_paths(after)), max(len(script_operators(before)), len(left)), left)


def engine_paths(graph: Any) -> List[Tuple[str, ...]]:
    """For each call of an engine in a TorchScript graph, the attribute names that lead to it from the module."""
    calls = [node for node in _nodes(graph) if node.kind() == _ENGINE_CALL]
    return [_path(list(node.inputs())[-1]) for node in calls]


def _path(value: Any) -> Tuple[str, ...]:
    node = value.node()
    if node.kind() != "prim::GetAttr":
        return ()
    return (*_path(next(iter(node.inputs()))), node.s("name"))


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)


def _gives_tensors(node: Any) -> bool:
    types = [output.type() for output in node.outputs()]
    return any(found.kind() == "TensorType" or "Tensor" in str(found) for found in types)
