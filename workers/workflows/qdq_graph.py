# SPDX-License-Identifier: Apache-2.0
"""A quantised ONNX graph as its exporter left it, made one that a runtime can fuse: constants, weights, BatchNorm.

Nothing here changes what the graph computes, apart from the last bit of rounding. Needs `onnx`; used in prepare only.
"""

from typing import Any, Dict, List, Optional

_FLOAT = 1
_CODES = {"int8": (-128, 127), "uint8": (0, 255)}


class Graph:
    """A model's graph with its constants as arrays by name; `write` puts what was changed back into the model."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.model = model
        self.nodes: List[Any] = list(model.graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}

    def producer(self, name: str) -> Any:
        """The node that makes a tensor; None for inputs and constants."""
        return next((node for node in self.nodes if name in node.output), None)

    def consumers(self, name: str) -> List[Any]:
        """The nodes that take a tensor."""
        return [node for node in self.nodes if name in node.input]

    def only_consumer(self, name: str) -> Any:
        """The one node that takes a tensor; None where there are more, or it is an output of the model."""
        found = self.consumers(name)
        return found[0] if len(found) == 1 and name not in self.outputs else None

    def fresh(self, stem: str) -> str:
        """A name that no tensor has yet."""
        taken = set(self.constants).union(*(node.output for node in self.nodes))
        return next(name for name in (stem + "_" * n for n in range(len(taken) + 1)) if name not in taken)

    def add(self, stem: str, array: Any) -> str:
        """Keep a constant under a fresh name; returns it."""
        name = self.fresh(stem)
        self.constants[name] = array
        return name

    def insert(self, before: Any, node: Any) -> None:
        """Put a node in front of another one."""
        self.nodes.insert(self._index(before), node)

    def bypass(self, node: Any) -> None:
        """Take a node out: what took its output takes its first input."""
        for other in self.nodes:
            _rename(other.input, node.output[0], node.input[0])
        del self.nodes[self._index(node)]

    def remove(self, node: Any) -> None:
        """Take a node out whose output nobody takes any more."""
        del self.nodes[self._index(node)]

    def write(self) -> Any:
        """The model, with the nodes and the constants that they use."""
        from onnx import numpy_helper

        graph = self.model.graph
        used = {name for node in self.nodes for name in node.input} | self.outputs
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        kept = ((name, array) for name, array in self.constants.items() if name in used)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in kept)
        return self.model

    def _index(self, node: Any) -> int:
        return next(i for i, other in enumerate(self.nodes) if other is node)


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute of a node."""
    import onnx

    found = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


def fold_constants(graph: Graph) -> None:
    """Turn constants, casts of them and quantised weights into initialisers, and take casts out that change nothing.

    TensorRT takes a zero point only as an initialiser, and exporters leave a cast of one.
    """
    floats = _float_tensors(graph.model)
    for node in list(graph.nodes):
        if node.op_type == "Transpose":
            _fold_transpose(graph, node)
            continue
        if node.op_type == "Cast" and attribute(node, "to", 0) == _FLOAT and node.input[0] in floats:
            if node.output[0] not in graph.outputs:
                graph.bypass(node)
            continue
        value = _constant_value(graph, node)
        if value is not None and node.output[0] not in graph.outputs:
            graph.remove(node)
            graph.constants[node.output[0]] = value


def fold_batch_norm(graph: Graph) -> None:
    """Fold BatchNorm after a convolution into the scales of its int8 weights and its bias.

    Exact for any granularity of the weights' scales: BatchNorm multiplies whole channels, and so only their scales and
    signs. In the layer's training graph it stays, as the libraries recommend.
    """
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        convolution = graph.producer(norm.input[0])
        if convolution is None or convolution.op_type != "Conv" or graph.only_consumer(norm.input[0]) is not norm:
            continue
        weight = graph.producer(convolution.input[1])
        bias = convolution.input[2] if len(convolution.input) > 2 and convolution.input[2] else None
        constants = [*norm.input[1:5], *([bias] if bias else []), *(weight.input if weight is not None else [])]
        fits = weight is not None and weight.op_type == "DequantizeLinear" and graph.only_consumer(weight.output[0])
        if fits and all(name in graph.constants for name in constants):
            _fold_one(graph, norm, convolution, weight, graph.constants[bias] if bias else 0.0)


def float_weights(graph: Graph) -> None:
    """Give every int8 weight its float form again, with a QuantizeLinear that makes the same codes.

    TensorRT 8 expects weights in fp32 with both nodes behind them, as NVIDIA's libraries export them.
    """
    import onnx

    for node in [n for n in graph.nodes if n.op_type == "DequantizeLinear" and n.input[0] in graph.constants]:
        stem = node.output[0]
        pair = [graph.add(stem + "_weight", dequantized(graph, node)), *node.input[1:]]
        codes = graph.fresh(stem + "_codes")
        quantize = onnx.helper.make_node("QuantizeLinear", pair, [codes], name=codes)
        quantize.attribute.extend(node.attribute)
        graph.insert(node, quantize)
        node.input[0] = codes


def quantized(array: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    """QuantizeLinear in numpy: round to even, then saturate; codes of the zero point's type."""
    import numpy as np

    shape = along(scale, array.ndim, axis)
    low, high = _CODES[zero_point.dtype.name]
    codes = np.rint(array / scale.reshape(shape)) + zero_point.astype(np.float32).reshape(shape)
    return np.clip(codes, low, high).astype(zero_point.dtype)


def dequantized(graph: Graph, node: Any) -> Any:
    """What a DequantizeLinear of constants gives, with zero points of zero; float32."""
    codes, scale = graph.constants[node.input[0]], graph.constants[node.input[1]]
    return codes.astype(scale.dtype) * scale.reshape(along(scale, codes.ndim, attribute(node, "axis", 1)))


def along(scale: Any, rank: int, axis: int) -> Any:
    """The shape in which a scale or zero point broadcasts against an array: along `axis`, or as one number."""
    if scale.size == 1:
        return (1,) * rank
    shape = [1] * rank
    shape[axis] = scale.size
    return tuple(shape)


def _fold_one(graph: Graph, norm: Any, convolution: Any, weight: Any, bias: Any) -> None:
    import numpy as np

    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    codes, scale = graph.constants[weight.input[0]], graph.constants[weight.input[1]]
    per_channel = np.broadcast_to(scale.astype(np.float64).reshape(-1), factor.shape)
    signs = np.sign(factor).reshape((-1,) + (1,) * (codes.ndim - 1))
    stem = norm.output[0]
    # A factor of zero has no scale: its codes are all zero, and any scale will do.
    scales = np.where(factor == 0, per_channel, per_channel * np.abs(factor)).astype(np.float32)
    made = {
        "codes": np.clip(codes * signs, -127, 127).astype(codes.dtype) if (signs < 1).any() else codes,
        "scale": scales,
        "zero": np.zeros(factor.shape, dtype=codes.dtype),
        "bias": (beta + (bias - mean) * factor).astype(np.float32),
    }
    names = {key: graph.add("{}_{}".format(stem, key), array) for key, array in made.items()}
    weight.input[:] = [names["codes"], names["scale"], names["zero"]]
    _set_axis(weight, 0)
    convolution.input[:] = [*convolution.input[:2], names["bias"]]
    graph.remove(norm)
    convolution.output[0] = norm.output[0]


def _fold_transpose(graph: Graph, node: Any) -> None:
    """Transpose the codes of a weight instead of the weight, as exporters do for matrix products."""
    import numpy as np

    weight = graph.producer(node.input[0])
    if weight is None or weight.op_type != "DequantizeLinear" or graph.only_consumer(node.input[0]) is not node:
        return
    if weight.input[0] not in graph.constants:
        return
    codes = graph.constants[weight.input[0]]
    order = list(attribute(node, "perm", None) or reversed(range(codes.ndim)))
    weight.input[0] = graph.add(node.output[0] + "_codes", np.ascontiguousarray(codes.transpose(order)))
    if graph.constants[weight.input[1]].size > 1:
        _set_axis(weight, order.index(attribute(weight, "axis", 1) % codes.ndim))
    weight.output[0] = node.output[0]
    graph.remove(node)


def _set_axis(node: Any, axis: int) -> None:
    import onnx

    kept = [a for a in node.attribute if a.name != "axis"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("axis", axis)])


def _constant_value(graph: Graph, node: Any) -> Optional[Any]:
    """What a node makes of constants alone; None where it is not one of those that exporters leave."""
    import onnx

    known = graph.constants
    if node.op_type == "Constant":
        value = attribute(node, "value", None)
        return None if value is None else onnx.numpy_helper.to_array(value)
    if not node.input or any(name not in known for name in node.input):
        return None
    if node.op_type == "Identity":
        return known[node.input[0]]
    if node.op_type == "Cast":
        return known[node.input[0]].astype(onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to", 0)))
    if node.op_type == "QuantizeLinear" and len(node.input) == 3:
        return quantized(*(known[name] for name in node.input), attribute(node, "axis", 1))
    return None


def _float_tensors(model: Any) -> Dict[str, Any]:
    """The float32 tensors between nodes."""
    import onnx

    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {value.name: value for value in values if value.type.tensor_type.elem_type == _FLOAT}


def _rename(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new


#: What every runtime's file has in common.
FOLDING = (fold_constants, fold_batch_norm)
