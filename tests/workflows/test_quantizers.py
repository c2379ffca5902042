# SPDX-License-Identifier: Apache-2.0
"""Both libraries on a small model: ranges by each method, and the exported graph in each of its forms."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.contract.job import Calibration
from workers.workflows import fine_tuning, qdq_graph, qdq_integer, toolkits
from workers.workflows.errors import MissingLibrary, Unsupported, WorkflowError
from workers.workflows.onnx_files import examine, export
from workers.workflows.quantizers import calibrate, mse_amax, quantizers_of, set_ranges

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
for library in toolkits.TOOLKITS:
    pytest.importorskip(library)

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

SHAPE = (3, 16, 16)


class Small(torch.nn.Module):
    """One of each: ReLU and ReLU6 behind BatchNorm, concatenation, addition, depthwise, pooling, matrix products."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.depthwise, self.norm6 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.middle = nn.Conv2d(8, 8, 1)
        self.last, self.last_norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.pool, self.average = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2)
        self.tokens, self.head = nn.Linear(8, 6), nn.Linear(24, 5)

    def forward(self, x: Any) -> Any:
        functional = torch.nn.functional
        x = self.pool(torch.relu(self.norm(self.first(x))))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        x = self.middle(functional.relu6(self.norm6(self.depthwise(x))))
        x = torch.relu(x + self.last_norm(self.last(x)))
        tokens = self.tokens(self.average(x).flatten(2).transpose(1, 2))
        return self.head(tokens.flatten(1))


@pytest.fixture(scope="module")
def small() -> Any:
    """The model, with a BatchNorm that means something: channels that are turned over, and one that is always zero."""
    torch.manual_seed(0)
    module = Small().eval()
    for norm in (module.norm, module.norm6, module.last_norm):
        norm.weight.data = torch.randn(8) * 1.5
        norm.bias.data, norm.running_mean.data = torch.randn(8), torch.randn(8) * 0.1
        norm.running_var.data = torch.rand(8) + 0.2
    module.norm6.weight.data[3] = 0.0
    module.left.weight.data[1] = 0.0
    return module


def _batches(scale: float = 1.0) -> Iterator[Any]:
    rng = np.random.default_rng(1)
    for _ in range(3):
        yield rng.normal(size=(8, *SHAPE)).astype(np.float32) * np.float32(scale)


def _quantised(small: Any, library: str, method: str = "minmax", per_channel: bool = True) -> tuple[Any, Any]:
    tools = toolkits.toolkit(library)
    module = tools.insert(copy.deepcopy(small), per_channel, method != "minmax").eval()
    found = quantizers_of(module, tools.quantizer_class())
    ranges = calibrate(module, found, _batches(), Calibration(method, 24, 8, percentile=99.0))
    set_ranges(found, ranges)
    return module, ranges


@pytest.fixture(scope="module", params=sorted(toolkits.TOOLKITS))
def library(request: pytest.FixtureRequest) -> str:
    """Each library in turn."""
    return str(request.param)


@pytest.fixture(scope="module", params=[True, False], ids=["per_channel", "per_tensor"])
def exported(
    request: pytest.FixtureRequest, small: Any, library: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The small model as each library and granularity exports it."""
    module, _ = _quantised(small, library, per_channel=request.param)
    path = tmp_path_factory.mktemp("qdq") / "model.onnx"
    with toolkits.toolkit(library).exporting():
        export(torch, module, SHAPE, str(path), fallback=False)
    return path


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_each_method_gives_a_range_to_every_quantizer_that_met_something(small: Any, library: str, method: str) -> None:
    module, ranges = _quantised(small, library, method)
    largest = _quantised(small, library)[1]
    met = {name: value for name, value in ranges.items() if value is not None}
    assert len([name for name in met if name.endswith("weight_quantizer")]) == 8
    for name, value in met.items():
        amax, most = np.array(value), np.array(largest[name])
        assert (amax > 0).all()
        assert (amax <= most * 1.001).all(), name
        if name.endswith("weight_quantizer"):
            assert amax.size > 1 and (amax == most).all(), "weights take their maximum"
    clipped = [name for name in met if name.endswith("input_quantizer") and met[name] < 0.99 * largest[name]]
    assert bool(clipped) == (method != "minmax")
    x = torch.from_numpy(next(_batches()))
    with torch.no_grad():
        error = torch.linalg.norm(module(x) - small(x)) / torch.linalg.norm(small(x))
    # Entropy needs more values than the last layers of this model have: with few it keeps the smallest range.
    assert error < (0.7 if method == "entropy" else 0.25)


def test_a_layer_that_the_forward_passes_by_gets_no_quantizer(library: str) -> None:
    class Unused(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    tools = toolkits.toolkit(library)
    module = tools.insert(Unused().eval(), True, False)
    found = quantizers_of(module, tools.quantizer_class())
    ranges = calibrate(module, found, iter([np.ones((2, 4), dtype=np.float32)]), Calibration())
    set_ranges(found, ranges)
    assert [name.split(".")[0] for name, value in ranges.items() if value is None] == ["unused", "unused"]
    assert {name.split(".")[0] for name, _ in quantizers_of(module, tools.quantizer_class())} == {"used"}


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_values_that_are_not_finite_are_refused(small: Any, library: str, method: str) -> None:
    tools = toolkits.toolkit(library)
    module = tools.insert(copy.deepcopy(small), True, method != "minmax").eval()
    batches = iter([np.full((1, *SHAPE), math.nan, dtype=np.float32)])
    with pytest.raises(WorkflowError) as caught:
        calibrate(module, quantizers_of(module, tools.quantizer_class()), batches, Calibration(method, 1, 1))
    assert caught.value.reference == "calibration-failed"


def test_the_mse_search_finds_the_range_that_loses_least() -> None:
    values = np.append(np.abs(np.random.default_rng(0).normal(size=400_000)), 12.0)
    counts, edges = np.histogram(values, bins=2048, range=(0.0, 12.0))
    centres = (edges[1:] + edges[:-1]) / 2

    def loss(amax: float) -> float:
        step = amax / 127
        return float((((np.clip(np.rint(centres / step), -128, 127) * step) - centres) ** 2 * counts).sum())

    found = mse_amax(counts, edges)
    assert found < 8
    assert loss(found) == min(loss(amax) for amax in centres[128:])


def _run(model: Any, optimise: bool = True) -> tuple[Any, Any]:
    """Outputs of a model, and how many operators of each type ONNX Runtime ends with."""
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": np.concatenate(list(_batches()))})[0]


def _after(path: Path, *steps: Callable[[Any], None]) -> Any:
    graph = qdq_graph.Graph(onnx.load(str(path)))
    for step in steps:
        step(graph)
    model = graph.write()
    onnx.checker.check_model(model, full_check=True)
    return model


def _operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_folding_keeps_outputs_and_leaves_int8_weights_and_no_batch_norm(exported: Path) -> None:
    raw, folded = onnx.load(str(exported)), _after(exported, *qdq_graph.FOLDING)
    expected = _run(raw, optimise=False)
    assert np.abs(_run(folded, optimise=False) - expected).max() < 1e-5 * np.abs(expected).max()
    assert not {"Constant", "Cast", "Identity", "BatchNormalization"} & set(_operators(folded))
    codes = [t for t in folded.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert len(codes) == 8
    weights = sum(np.prod(t.dims) for t in codes)
    floats = sum(np.prod(t.dims) for t in folded.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert floats < weights, "no weight is left in fp32"


def test_the_form_for_tensorrt_has_float_weights_with_both_nodes_and_the_same_outputs(exported: Path) -> None:
    folded = _after(exported, *qdq_graph.FOLDING)
    made = _after(exported, *qdq_graph.FOLDING, qdq_graph.float_weights)
    assert np.array_equal(_run(made, optimise=False), _run(folded, optimise=False))
    counts, constants = _operators(made), {t.name: t for t in made.graph.initializer}
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"]
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = onnx.numpy_helper.to_array(constants[node.input[2]])
            assert zero.dtype == np.int8 and not zero.any(), "TensorRT takes int8 and zero points of zero alone"
        if node.op_type == "DequantizeLinear":
            assert node.input[0] not in constants


def test_the_form_for_onnxruntime_has_integer_operators_and_the_same_outputs(exported: Path, tmp_path: Path) -> None:
    folded = _after(exported, *qdq_graph.FOLDING)
    made = _after(exported, *qdq_graph.FOLDING, *qdq_integer.REWRITING)
    expected = _run(folded, optimise=False)
    for optimise in (False, True):
        # A sum on the edge between two codes may fall to either side; nothing else may differ.
        assert np.abs(_run(made, optimise) - expected).max() < 0.02 * np.abs(expected).max()
    counts = _operators(made)
    # Two of six convolutions have the addition behind them, and no quantizer.
    assert (counts["QLinearConv"], counts["Conv"], counts["MatMulInteger"]) == (4, 2, 2)
    onnx.save(made, str(tmp_path / "made.onnx"))
    facts = examine(str(tmp_path / "made.onnx"))
    assert (facts["compute"], facts["compute_quantized"]) == (8, 6)


def test_moving_quantizers_and_their_zero_points_changes_no_output_at_all(exported: Path) -> None:
    folded = _run(_after(exported, *qdq_graph.FOLDING), optimise=False)
    merged = _after(exported, *qdq_graph.FOLDING, qdq_integer.merge_quantizers)
    lifting = (*qdq_graph.FOLDING, qdq_integer.merge_quantizers, qdq_integer.lift_quantizers)
    shifted = _after(exported, *lifting, qdq_integer.unsigned_activations)
    assert np.array_equal(_run(merged, optimise=False), folded)
    assert np.array_equal(_run(_after(exported, *lifting), optimise=False), folded)
    assert np.array_equal(_run(shifted, optimise=False), folded)
    zeros = {t.name: onnx.numpy_helper.to_array(t) for t in shifted.graph.initializer}
    signed = [n for n in shifted.graph.node if n.op_type == "QuantizeLinear" and zeros[n.input[2]].dtype == np.int8]
    assert signed == []


def test_training_is_repeatable_lowers_the_loss_and_leaves_ranges_alone(small: Any, library: str) -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(size=(96, *SHAPE)).astype(np.float32)
    labels = (images.mean(axis=(1, 2, 3)) > 0).astype(np.int64)
    losses, seen = [], []
    for epochs in (1, 6, 6):
        module, _ = _quantised(small, library)
        kind = toolkits.toolkit(library).quantizer_class()
        before = [part.amax.clone() for _, part in quantizers_of(module, kind)]
        losses.append(fine_tuning.fine_tune(module, images, labels, epochs, 0.01, 0, seen.append))
        after = [part.amax for _, part in quantizers_of(module, kind)]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not module.training
    assert losses[1] < losses[0]
    assert losses[1] == losses[2]
    assert seen[-1] == 1.0


def test_training_refuses_classes_that_the_model_lacks_and_a_loss_that_is_not_finite(small: Any) -> None:
    images = np.zeros((40, *SHAPE), dtype=np.float32)
    labels = np.full(40, 7, dtype=np.int64)
    with pytest.raises(Unsupported, match="8 classes and the model 5 outputs"):
        fine_tuning.fine_tune(copy.deepcopy(small), images, labels, 1, 0.1, 0, lambda _: None)
    with pytest.raises(WorkflowError) as caught:
        fine_tuning.fine_tune(
            copy.deepcopy(small), images * np.float32(math.nan), labels % 5, 1, 0.1, 0, lambda _: None
        )
    assert caught.value.reference == "training-diverged"


def test_the_first_library_that_is_there_is_taken_and_a_named_one_must_be() -> None:
    assert toolkits.choose("auto", lambda name: True) == "pytorch_quantization"
    assert toolkits.choose("auto", lambda name: name == "modelopt") == "modelopt"
    assert toolkits.choose("modelopt", lambda name: True) == "modelopt"
    with pytest.raises(MissingLibrary, match="no pytorch_quantization and no modelopt"):
        toolkits.choose("auto", lambda name: False)
    with pytest.raises(MissingLibrary, match="no modelopt"):
        toolkits.choose("modelopt", lambda name: name != "modelopt")
    with pytest.raises(Unsupported, match="torchao"):
        toolkits.choose("torchao")
