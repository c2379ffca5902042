# SPDX-License-Identifier: Apache-2.0
"""fp16 as a graph: an fp32 ONNX file with its weights and operators converted, its inputs and outputs left in fp32."""

import heapq
import importlib
import importlib.util
import warnings
from typing import Any, Callable, Dict, List, Set

from workers.workflows.base import Context, versions
from workers.workflows.cache import CachedFile
from workers.workflows.errors import MissingLibrary, PrecisionNotHeld, Unsupported, is_out_of_memory
from workers.workflows.onnx_files import examine

RECIPE = 1
#: Module of the converter, by the library that has it. The first that the stack has is taken.
_CONVERTERS = (
    ("onnxruntime", "onnxruntime.transformers.float16"),
    ("onnxconverter_common", "onnxconverter_common.float16"),
)
_COMPUTE = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


class HalfModel:
    """The fp16 model of one job. `source` has `key()` and `onnx()`, the fp32 file, called only to make something."""

    def __init__(self, ctx: Context, source: Any) -> None:
        self._ctx, self._source = ctx, source

    def model(self) -> CachedFile:
        """The fp16 file. Its facts are those of `onnx_files.examine`, with `converter` and `compute_half`."""
        return self._ctx.cached(
            "onnx_fp16",
            self._key(),
            "model.onnx",
            self._convert,
            ready=self._source.onnx,
            upstream_s=lambda: self._source.onnx().total_build_s,
        )

    def _key(self) -> Dict[str, Any]:
        library, _ = _converter()
        return {"onnx": self._source.key(), "versions": versions(library, "onnx"), "recipe": RECIPE}

    def _convert(self, path: str) -> Dict[str, Any]:
        import onnx

        library, module = _converter()
        source = self._source.onnx()
        convert: Callable[..., Any] = importlib.import_module(module).convert_float_to_float16
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a line for each weight that fp16 rounds to 0
                model = convert(onnx.load(source.path), keep_io_types=True)
            sort_nodes(model.graph)
            onnx.save(model, path)
        except Exception as error:  # a boundary: the converter fails on some graphs in any way
            if is_out_of_memory(error):
                raise
            raise Unsupported(
                "the model cannot be converted to fp16: {}: {}".format(type(error).__name__, error),
                "Use a workflow that converts by itself (`pytorch`, `onnx_tensorrt`), or measure it in fp32.",
                "conversion-failed",
            ) from error
        return dict(examine(path), converter=library, compute_half=_half_count(path))


def assert_fp16(facts: Dict[str, Any]) -> None:
    """Raise PrecisionNotHeld unless every convolution and matrix product of a file is fp16."""
    if "FLOAT16" not in facts["float_types"] or facts["compute_half"] < facts["compute"]:
        raise PrecisionNotHeld(
            "of {} convolutions and matrix products of the converted file, {} are fp16".format(
                facts["compute"], facts["compute_half"]
            ),
            "The converter keeps some operators in fp32 and could not convert around them.",
        )


def _converter() -> Any:
    for library, module in _CONVERTERS:
        if importlib.util.find_spec(library) is not None:
            return library, module
    raise MissingLibrary(
        "this stack has no library that converts ONNX files to fp16",
        "Install onnxruntime or onnxconverter-common into the stack's interpreter.",
    )


def sort_nodes(graph: Any) -> None:
    """Put a graph's nodes after those that they need, else in their order: converters add theirs at the end.

    Method: A. B. Kahn, "Topological sorting of large networks", CACM 5 (1962), with the lowest index first.
    """
    nodes = list(graph.node)
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs = [{maker[name] for name in _read_by(node) if name in maker} - {i} for i, node in enumerate(nodes)]
    users: List[List[int]] = [[] for _ in nodes]
    for i, needed in enumerate(needs):
        for j in needed:
            users[j].append(i)
    ready, left = [i for i, needed in enumerate(needs) if not needed], [len(needed) for needed in needs]
    order: List[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in users[order[-1]]:
            left[i] -= 1
            if not left[i]:
                heapq.heappush(ready, i)
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def _read_by(node: Any) -> Set[str]:
    """What a node takes, also by the graphs inside of it (`If`, `Loop`)."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                found |= _read_by(inner)
    return found


def _half_count(path: str) -> int:
    """How many convolutions and matrix products give fp16."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    values = (*graph.value_info, *graph.output)
    half = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    return sum(node.op_type in _COMPUTE and node.output[0] in half for node in graph.node)
