# SPDX-License-Identifier: Apache-2.0
"""A Q/DQ graph with symmetric int8 activations, rewritten for ONNX Runtime on a CPU: same codes, integer operators.

Libraries for TensorRT put QuantizeLinear only before what takes int8. ONNX Runtime's CPU provider has a fast int8
convolution only where one follows as well; elsewhere it would dequantise the weights anew at each inference. It is also
slow with signed activations. So QuantizeLinear is moved up past what only selects or limits values; int8 with zero
point 0 becomes uint8 with 128 on the same grid; products of codes become QLinearConv and MatMulInteger; a convolution
that no QuantizeLinear follows (before an addition, say) keeps its quantised weights as fp32 numbers and runs in fp32.
What is computed stays the same up to the rounding of fp32 sums.
"""

from typing import Any, List, Optional, Tuple

from workers.workflows.qdq_graph import Graph, attribute, dequantized

#: What is added to the codes of a signed tensor.
SHIFT = 128
_ONE_INPUT = ("Relu", "Clip", "MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
_INT32 = 2**31 - 1


def merge_quantizers(graph: Graph) -> None:
    """Let one QuantizeLinear serve all that take the same tensor on the same grid."""
    kept: List[Tuple[Any, Any, Any]] = []
    for node in [node for node in graph.nodes if node.op_type == "QuantizeLinear"]:
        if not _has_grid(graph, node) or node.output[0] in graph.outputs:
            continue
        grid = _grid(graph, node)
        same = next((other for name, g, other in kept if name == node.input[0] and g == grid), None)
        if same is None:
            kept.append((node.input[0], grid, node))
            continue
        for consumer in graph.consumers(node.output[0]):
            for i, name in enumerate(consumer.input):
                if name == node.output[0]:
                    consumer.input[i] = same.output[0]
        graph.remove(node)


def lift_quantizers(graph: Graph) -> None:
    """Move each QuantizeLinear up past operators that commute with it, so that it stands behind what computes.

    Rounding to a grid is monotonous, so it may come before a maximum or a limit as well as after; Relu becomes a limit
    of the codes.
    """
    moved = True
    while moved:
        moved = any(_lift(graph, node) for node in list(graph.nodes) if node.op_type == "QuantizeLinear")


def unsigned_activations(graph: Graph) -> None:
    """Write int8 activations with zero point 0 as uint8 with zero point 128: every code grows by 128."""
    import numpy as np

    shifted = set()
    zero = graph.add("unsigned_zero_point", np.array(SHIFT, dtype=np.uint8))
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and _has_grid(graph, node):
            node.input[2] = zero
            shifted.add(node.output[0])
        elif any(name in shifted for name in node.input):
            if node.op_type == "DequantizeLinear":
                node.input[2] = zero
                continue
            if node.op_type == "Clip":
                _shift_limits(graph, node)
            # Only what lift_quantizers lets codes through is here: it gives codes again.
            shifted.add(node.output[0])


def integer_operators(graph: Graph) -> None:
    """Turn what multiplies dequantised activations with dequantised weights into operators on the codes."""
    for node in list(graph.nodes):
        pair = _codes_of(graph, node)
        if pair is None:
            continue
        if node.op_type == "Conv":
            follower = graph.only_consumer(node.output[0])
            followed = follower is not None and follower.op_type == "QuantizeLinear" and _has_grid(graph, follower)
            if not followed or not _to_qlinear(graph, node, pair, follower):
                _to_float(graph, node, pair[1])
        elif node.op_type == "MatMul" or _plain(node):
            _to_integer(graph, node, pair)
    _drop_unused(graph)


def _lift(graph: Graph, quantize: Any) -> bool:
    import onnx

    above = graph.producer(quantize.input[0])
    commutes = above is not None and (above.op_type in _ONE_INPUT or above.op_type == "Concat")
    if not commutes or not _has_grid(graph, quantize) or graph.only_consumer(above.output[0]) is not quantize:
        return False
    limits = _code_limits(graph, above, quantize)
    if above.op_type in ("Relu", "Clip") and limits is None:
        return False
    data = list(above.input) if above.op_type == "Concat" else [above.input[0]]
    for i, name in enumerate(data):
        code = graph.fresh(quantize.output[0] + "_lifted")
        made = onnx.helper.make_node("QuantizeLinear", [name, *quantize.input[1:]], [code], name=code)
        graph.insert(above, made)
        above.input[i] = code
    if limits is not None:
        _make_clip(graph, above, limits)
    above.output[0] = quantize.output[0]
    graph.remove(quantize)
    return True


def _code_limits(graph: Graph, node: Any, quantize: Any) -> Optional[Tuple[Any, Any]]:
    """The codes between which an activation keeps values; None where it is none, or its limits are not constant."""
    import numpy as np

    scale = graph.constants[quantize.input[1]]
    if node.op_type == "Relu":
        return np.int8(0), np.int8(127)
    if node.op_type != "Clip" or any(name and name not in graph.constants for name in node.input[1:3]):
        return None
    given = [graph.constants.get(name) if name else None for name in [*node.input[1:3], "", ""][:2]]
    low, high = (-128.0 if given[0] is None else given[0] / scale), (127.0 if given[1] is None else given[1] / scale)
    return tuple(np.clip(np.rint(v), -128, 127).astype(np.int8).reshape(()) for v in (low, high))  # type: ignore


def _make_clip(graph: Graph, node: Any, limits: Tuple[Any, Any]) -> None:
    stem = node.output[0]
    names = [graph.add("{}_{}".format(stem, end), limit) for end, limit in zip(("low", "high"), limits)]
    node.op_type = "Clip"
    del node.attribute[:]
    node.input[:] = [node.input[0], *names]


def _shift_limits(graph: Graph, node: Any) -> None:
    import numpy as np

    for i in (1, 2):
        shifted = graph.constants[node.input[i]].astype(np.int16) + SHIFT
        node.input[i] = graph.add(node.input[i] + "_unsigned", shifted.astype(np.uint8))


def _has_grid(graph: Graph, node: Any) -> bool:
    """Whether a quantizer of activations has one constant scale, and zero point 0 in int8 or 128 in uint8."""
    known = graph.constants
    if len(node.input) != 3 or node.input[0] in known or any(name not in known for name in node.input[1:]):
        return False
    zero = known[node.input[2]]
    middle = {"int8": 0, "uint8": SHIFT}.get(zero.dtype.name)
    return bool(known[node.input[1]].size == 1 and (zero == middle).all())


def _grid(graph: Graph, node: Any) -> float:
    return float(graph.constants[node.input[1]].reshape(()))


def _codes_of(graph: Graph, node: Any) -> Optional[Tuple[Any, Any]]:
    """The two DequantizeLinear nodes that feed a product, of activations and of constant weights."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    activation, weight = (graph.producer(name) for name in node.input[:2])
    if activation is None or weight is None or {activation.op_type, weight.op_type} != {"DequantizeLinear"}:
        return None
    if weight.input[0] not in graph.constants or activation.input[0] in graph.constants:
        return None
    if node.op_type != "Conv" and graph.constants[weight.input[0]].ndim != 2:
        return None
    if len(node.input) > 2 and node.input[2] not in graph.constants:
        return None
    fits = _has_grid(graph, activation) and _per_output(graph, node, weight)
    return (activation, weight) if fits else None


def _per_output(graph: Graph, node: Any, weight: Any) -> bool:
    """Whether the weights have one scale, or one for each output channel."""
    if graph.constants[weight.input[1]].size == 1:
        return True
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    outputs = 0 if node.op_type == "Conv" or transposed else 1
    return bool(attribute(weight, "axis", 1) % graph.constants[weight.input[0]].ndim == outputs)


def _plain(node: Any) -> bool:
    unscaled = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    return bool(unscaled and not attribute(node, "transA", 0))


def _to_qlinear(graph: Graph, node: Any, pair: Tuple[Any, Any], quantize: Any) -> bool:
    """Exchange a convolution and the QuantizeLinear behind it for one operator; False where its bias does not fit."""
    import numpy as np
    import onnx

    activation, weight = pair
    step = _steps(graph, activation, weight)
    inputs = [*activation.input, *_weights(graph, weight), *quantize.input[1:]]
    if len(node.input) > 2:
        bias = np.rint(graph.constants[node.input[2]] / step)
        if np.abs(bias).max() > _INT32:
            return False
        inputs.append(graph.add(node.output[0] + "_bias_codes", bias.astype(np.int32)))
    made = onnx.helper.make_node("QLinearConv", inputs, [quantize.output[0]], name=node.output[0] + "_qlinear")
    made.attribute.extend(node.attribute)
    graph.insert(node, made)
    graph.remove(node)
    graph.remove(quantize)
    return True


def _to_float(graph: Graph, node: Any, weight: Any) -> None:
    """Give a convolution its weights as numbers: the same values, without a node that makes them at each inference."""
    node.input[1] = graph.add(node.output[0] + "_weight", dequantized(graph, weight))


def _to_integer(graph: Graph, node: Any, pair: Tuple[Any, Any]) -> None:
    """Exchange a matrix product for one that gives sums of codes, and what makes numbers of them."""
    import numpy as np
    import onnx

    activation, weight = pair
    stem, name = node.output[0], weight.input[0]
    codes = graph.constants[name]
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        name = graph.add(stem + "_weight_codes", np.ascontiguousarray(codes.T))
    zero = graph.add("signed_zero_point", np.array(0, dtype=codes.dtype))
    product = [activation.input[0], name, activation.input[2], zero]
    step = graph.add(stem + "_step", _steps(graph, activation, weight).astype(np.float32))
    parts = [stem + suffix for suffix in ("_sums", "_float", "_scaled")]
    make = onnx.helper.make_node
    made = [
        make("MatMulInteger", product, [parts[0]], name=parts[0]),
        make("Cast", [parts[0]], [parts[1]], name=parts[1], to=onnx.TensorProto.FLOAT),
        make("Mul", [parts[1], step], [stem], name=parts[2]),
    ]
    if len(node.input) > 2:
        made[2].output[0] = parts[2]
        made.append(make("Add", [parts[2], node.input[2]], [stem], name=stem + "_biased"))
    for part in made:
        graph.insert(node, part)
    graph.remove(node)


def _steps(graph: Graph, activation: Any, weight: Any) -> Any:
    """What one unit of a sum of products of codes is worth, for each output channel or for all."""
    import numpy as np

    return _grid(graph, activation) * graph.constants[weight.input[1]].astype(np.float64).reshape(-1)


def _weights(graph: Graph, weight: Any) -> List[str]:
    """Codes, scale and zero point of weights; QLinearConv wants both as scalars, or one of each for each channel."""
    scale, zero = (graph.constants[name] for name in weight.input[1:])
    if scale.size > 1:
        return list(weight.input)
    scalars = (scale.reshape(()), zero.reshape(-1)[0].reshape(()))
    return [weight.input[0], *(graph.add(weight.input[0] + "_scalar", array) for array in scalars)]


def _drop_unused(graph: Graph) -> None:
    """Take nodes out whose outputs nobody takes."""
    dropped = True
    while dropped:
        used = {name for node in graph.nodes for name in node.input} | graph.outputs
        unused = [node for node in graph.nodes if not any(name in used for name in node.output)]
        for node in unused:
            graph.remove(node)
        dropped = bool(unused)


#: All of it, in the order in which it works.
REWRITING = (merge_quantizers, lift_quantizers, unsigned_activations, integer_operators)
