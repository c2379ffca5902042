# SPDX-License-Identifier: Apache-2.0
"""Small ONNX files, made by hand: convolution, ReLU, mean, linear; and what may be odd about a person's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_model(
    path: Path,
    *,
    batch: int | str = "batch",
    channels: int = 3,
    inputs: int = 1,
    input_type: str = "FLOAT",
    opset: int = 17,
    quantized: bool = False,
    external: bool = False,
    half_weights: bool = False,
    determinant: bool = False,
) -> Path:
    """Write a classifier of 10 classes for inputs of (batch, channels, height, width), any height and width."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.3, (8, channels, 3, 3)).astype(np.float32)
    linear = rng.normal(0, 0.5, (8, 10)).astype(np.float32)
    constants = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(linear, "linear")]
    if half_weights:
        constants.append(numpy_helper.from_array(linear.astype(np.float16), "spare"))
    kind = getattr(TensorProto, input_type)
    shape: list[Any] = [batch, channels, "height", "width"]
    values = [helper.make_tensor_value_info(f"image{i or ''}", kind, shape) for i in range(inputs)]
    nodes = [*_feed(inputs, input_type), *_body(quantized, constants)]
    if determinant:  # an operator that ONNX Runtime has and OpenVINO lacks
        nodes[-1].output[0] = "product"
        constants.append(numpy_helper.from_array(np.eye(2, dtype=np.float32), "unit"))
        nodes += [helper.make_node("Det", ["unit"], ["one"]), helper.make_node("Mul", ["product", "one"], ["scores"])]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])
    graph = helper.make_graph(nodes, "small", values, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    extra = {"save_as_external_data": True, "size_threshold": 0, "location": "weights.bin"} if external else {}
    onnx.save(model, str(path), **extra)
    return path


def _feed(inputs: int, input_type: str) -> list[Any]:
    from onnx import TensorProto, helper

    if inputs > 1:
        return [helper.make_node("Add", ["image", "image1"], ["x"])]
    if input_type != "FLOAT":
        return [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)]
    return [helper.make_node("Identity", ["image"], ["x"])]


def _body(quantized: bool, constants: list[Any]) -> list[Any]:
    import numpy as np
    from onnx import helper, numpy_helper

    nodes = []
    if quantized:
        constants.append(numpy_helper.from_array(np.float32(1 / 255), "scale"))
        constants.append(numpy_helper.from_array(np.uint8(0), "zero"))
        nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]))
    return [
        *nodes,
        helper.make_node("Conv", ["d" if quantized else "x", "kernel"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=0, name="mean"),
        helper.make_node("MatMul", ["m", "linear"], ["scores"], name="linear"),
    ]
