# SPDX-License-Identifier: Apache-2.0
"""The Q/DQ graph made for TensorRT, held against what its parser takes. Real quantizer, no TensorRT."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.job import BatchLadder, Calibration, ModelSpec
from farm.contract.run import RunRequest
from tests.factories import DEVICE
from tests.island.harness import model_job
from workers.workflows.base import Context
from workers.workflows.cache import Cache
from workers.workflows.onnx_source import GivenModel
from workers.workflows.trt_graph import TensorRTInt8

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]


def save_residual(path: Path) -> Path:
    """Convolutions with biases, a residual addition, pooling, a linear layer with a bias."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (10, 8), "b3": (10,)}
    constants = [numpy_helper.from_array(rng.normal(0, 0.2, s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"], name="add"),
        helper.make_node("Relu", ["s"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], name="linear", transB=1),
    ]
    shape: list[Any] = ["batch", 3, 16, 16]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "residual", [image], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def quantized(tmp_path: Path) -> Callable[[str], Any]:
    """The quantised graph by a calibration method."""
    path = save_residual(tmp_path / "given.onnx")

    def make(method: str) -> Any:
        spec = ModelSpec("mine", "onnx", (3, 16, 16), onnx_sha256=sha256_file(str(path)))
        job = model_job(
            spec, "onnx_tensorrt", "int8", batches=BatchLadder((2,)), calibration=Calibration(method, 16, 4)
        )
        request = RunRequest("r", "prepare", job, DEVICE, str(tmp_path / "cache"), None, str(path))
        cache = Cache(str(tmp_path / "cache"), True, time.perf_counter_ns)
        ctx = Context(
            request, str(tmp_path), cache, 1, lambda _name: nullcontext(), lambda: "build", lambda _part: None
        )
        source = GivenModel(ctx)
        return TensorRTInt8(ctx, source.key(), source.onnx).model()

    return make


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_the_graph_is_one_that_tensorrt_takes(quantized: Callable[[str], Any], method: str) -> None:
    import numpy as np
    from onnx import numpy_helper

    entry = quantized(method)
    graph = onnx.load(entry.path).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        scale, zero = (constants[name] for name in node.input[1:3])
        assert (scale > 0).all()
        assert zero.dtype == np.int8
        assert not zero.any()
        if node.op_type == "DequantizeLinear":
            assert makers[node.input[0]].op_type == "QuantizeLinear", "int8 constants are for newer versions alone"
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert constants[node.input[2]].dtype == np.float32
    assert entry.facts["compute_quantized"] == entry.facts["compute"] == 3


def test_what_follows_a_convolution_can_be_fused_with_it(quantized: Callable[[str], Any]) -> None:
    graph = onnx.load(quantized("minmax").path).graph
    takers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node.op_type)
    after = {node.name: takers[node.output[0]] for node in graph.node if node.op_type in ("Conv", "Add")}
    assert sorted(after.values()) == [["Add"], ["Relu"], ["Relu"]]
    # The other side of the addition comes from Q/DQ nodes, so that TensorRT adds in the convolution's kernel.
    (add,) = (node for node in graph.node if node.op_type == "Add")
    makers = {name: node.op_type for node in graph.node for name in node.output}
    assert sorted(makers[name] for name in add.input) == ["Conv", "DequantizeLinear"]


def test_the_weights_have_one_scale_per_channel_and_the_outputs_are_near(
    quantized: Callable[[str], Any], tmp_path: Path
) -> None:
    import numpy as np
    from onnx import numpy_helper

    path = quantized("minmax").path
    scales = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if "scale" in t.name}
    assert sorted(scale.size for scale in scales.values() if scale.size > 1) == [8, 8, 10]
    data = np.random.default_rng(2).random((4, 3, 16, 16), dtype=np.float32)
    got, want = (
        ort.InferenceSession(str(p), providers=["CPUExecutionProvider"]).run(None, {"image": data})[0]
        for p in (path, tmp_path / "given.onnx")
    )
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.05
