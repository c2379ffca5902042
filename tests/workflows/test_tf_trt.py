# SPDX-License-Identifier: Apache-2.0
"""TF-TRT without a GPU: what is counted and asserted, what is refused, and how the converter is called."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from farm.contract.catalogue import KERAS_MODELS, TORCHVISION_MODELS
from farm.contract.device import StackInfo
from farm.contract.job import Calibration, JobSpec, ModelSpec
from farm.devices import Refusal, choose_stack
from tests.factories import DEVICE
from tests.island.harness import Island, model_job, stage_bundle
from workers.workflows import keras_models, tf_trt_build, tf_trt_compat
from workers.workflows.errors import BuildOutOfMemory, PrecisionNotHeld, Unsupported, WorkflowError
from workers.workflows.tensorflow_graph import MAIN, Functions, Node, engines, partition, product_types

FIXTURE = Path(__file__).parent.parent / "fixtures/tf-trt-2.14-int8.json"
GPU = replace(DEVICE, device_id="box-gpu", device_class="gpu-test", kind="gpu")
FIRST, SECOND = "TRTEngineOp_000_000", "TRTEngineOp_000_001"


@pytest.fixture
def recorded() -> Functions:
    """What TF-TRT made of conv, relu, conv, relu, lgamma, mean, matmul, add, relu: it has no lgamma."""
    found = json.loads(FIXTURE.read_text())["functions"]
    return {name: [Node(n[0], n[1], tuple(n[2]), n[3], n[4]) for n in nodes] for name, nodes in found.items()}


def test_operators_in_engines_and_those_left_are_counted(recorded: Functions) -> None:
    assert sorted((node.name, node.precision) for node in engines(recorded)) == [(FIRST, "INT8"), (SECOND, "INT8")]
    whole = partition(recorded, frozenset([FIRST, SECOND]))
    assert [name.rpartition("(")[2] for name in whole.left] == ["Lgamma)"]
    assert whole.engines == 2
    assert whole.facts("tensorflow")["operators_in_engines"] + 1 == whole.total
    assert whole.share_left() == pytest.approx(1 / whole.total)


def test_the_segment_of_an_engine_that_was_not_built_is_left(recorded: Functions) -> None:
    whole, part, none = (partition(recorded, frozenset(b)) for b in ([FIRST, SECOND], [FIRST], []))
    assert whole.total == part.total == none.total
    assert len(whole.left) < len(part.left) < len(none.left) == none.total
    assert none.share_left() == 1.0


def test_products_outside_of_segments_have_types() -> None:
    nodes = {
        MAIN: [Node("call", "StatefulPartitionedCall", ("inner",)), Node("again", "PartitionedCall", ("inner",))],
        "inner": [Node("a", "Conv2D", dtype="float16"), Node("b", "MatMul", dtype="float32"), Node("c", "Relu")],
        "never_called": [Node("d", "Conv2D", dtype="float64")],
    }
    assert product_types(nodes) == {"float16": 1, "float32": 1}


def test_no_engine_is_a_failure_and_another_precision_is_one(recorded: Functions) -> None:
    built = frozenset([FIRST, SECOND])
    tf_trt_build.check(recorded, partition(recorded, built), built, "INT8")
    with pytest.raises(PrecisionNotHeld, match=r"FP16 was asked for, and TRTEngineOp_000_00. is INT8"):
        tf_trt_build.check(recorded, partition(recorded, built), built, "FP16")
    with pytest.raises(WorkflowError, match="2 could not be built") as caught:
        tf_trt_build.check(recorded, partition(recorded, frozenset()), frozenset(), "INT8")
    assert caught.value.reference == "no-engine"


@pytest.mark.parametrize(
    ("linked", "loaded", "problem"),
    [
        ((8, 4, 3), (8, 5, 3), None),
        ((8, 4, 3), (0, 0, 0), "the libraries of TensorRT 8.4.3 do not load"),
        ((8, 4, 3), (8, 4, 2), "with TensorRT 8.4.3, and 8.4.2 loads"),
        ((8, 6, 1), (10, 0, 1), "with TensorRT 8.6.1, and 10.0.1 loads"),
    ],
)
def test_the_tensorrt_that_loads_must_be_one_that_tensorflow_takes(
    linked: tuple[int, ...], loaded: tuple[int, ...], problem: str | None
) -> None:
    found = tf_trt_compat.mismatch(linked, loaded)
    assert found is None if problem is None else problem in (found or "")


def test_settings_leave_the_librarys_defaults_alone() -> None:
    plain = tf_trt_build.settings("tf32", {})
    assert plain == {
        "precision_mode": "FP32",
        "maximum_cached_engines": 1,
        "use_calibration": False,
        "allow_build_at_runtime": False,
    }
    asked = tf_trt_build.settings("int8", {"minimum_segment_size": 5, "workspace_mib": 2})
    assert (asked["precision_mode"], asked["use_calibration"]) == ("INT8", True)
    assert (asked["minimum_segment_size"], asked["max_workspace_size_bytes"]) == (5, 2 << 20)


class _Converter:
    """Stands in for `TrtGraphConverterV2`, whose engines need a GPU. Keeps what it was asked, and may fail."""

    error: Exception | None = None
    calls: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, **arguments: Any) -> None:
        self.calls.append(("new", arguments))

    def convert(self, **more: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.calls.append(("convert", {name: list(function()) for name, function in more.items()}))
        return SimpleNamespace(graph=SimpleNamespace(as_graph_def=lambda: None))

    def build(self, input_fn: Any) -> None:
        self.calls.append(("build", list(input_fn())))

    def save(self, target: str, save_gpu_specific_engines: bool) -> None:
        self.calls.append(("save", (target, save_gpu_specific_engines)))


def _convert(monkeypatch: pytest.MonkeyPatch, recorded: Functions, precision: str) -> dict[str, Any]:
    monkeypatch.setattr(_Converter, "calls", [])
    monkeypatch.setattr(tf_trt_build, "functions_of", lambda tf, graph: recorded)
    monkeypatch.setattr(tf_trt_build, "plan_bytes", lambda tf, directory: {FIRST: 10, SECOND: 20})

    def shown() -> Iterator[str]:
        yield "shown"

    def data() -> Iterator[str]:
        yield from ("one", "two")

    arguments = tf_trt_build.settings(precision, {})
    modules = SimpleNamespace(constant=str.upper), SimpleNamespace(TrtGraphConverterV2=_Converter)
    return tf_trt_build.convert(*modules, "in", "out", arguments, shown, data)


def test_int8_is_calibrated_then_built_for_one_shape_and_saved(
    monkeypatch: pytest.MonkeyPatch, recorded: Functions
) -> None:
    facts = _convert(monkeypatch, recorded, "int8")
    (_, arguments), *rest = _Converter.calls
    assert arguments["input_saved_model_dir"] == "in"
    assert rest == [
        ("convert", {"calibration_input_fn": [("ONE",), ("TWO",)]}), ("build", [("SHOWN",)]), ("save", ("out", True)),
    ]  # fmt: skip
    assert facts["plan_bytes"] == {FIRST: 10, SECOND: 20}
    assert facts["nodes_of_engines"] == [FIRST, SECOND]
    assert 0 < facts["fallback_node_share"] < 1


def test_other_precisions_are_not_calibrated(monkeypatch: pytest.MonkeyPatch, recorded: Functions) -> None:
    with pytest.raises(PrecisionNotHeld):  # the recorded graph is int8's
        _convert(monkeypatch, recorded, "fp16")
    assert ("convert", {}) in _Converter.calls


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's own."""


@pytest.mark.parametrize(
    ("error", "kind", "reference"),
    [
        (RuntimeError("Incompatible TensorRT major version"), WorkflowError, "build-failed"),
        (ResourceExhaustedError("OOM when allocating"), BuildOutOfMemory, "out-of-memory-build"),
    ],
)
def test_what_the_converter_raises_is_explained(
    monkeypatch: pytest.MonkeyPatch, recorded: Functions, error: Exception, kind: type[WorkflowError], reference: str
) -> None:
    monkeypatch.setattr(_Converter, "error", error)
    with pytest.raises(kind, match=str(error)) as caught:
        _convert(monkeypatch, recorded, "fp32")
    assert caught.value.reference == reference


def _stack(**features: Any) -> StackInfo:
    libraries = {"tensorflow": "2.18.0", "numpy": "1.26.4"}
    return StackInfo("tf", "/tf/bin/python", "3.10.13", libraries, {}, features)


def test_a_stack_is_taken_by_what_its_probe_found() -> None:
    chosen = choose_stack("tf_trt", "int8", GPU, [_stack(tf_trt=False), replace(_stack(tf_trt=True), name="old")])
    assert isinstance(chosen, StackInfo) and chosen.name == "old"
    found = choose_stack("tf_trt", "int8", GPU, [_stack(tf_trt=False, tf_trt_problem="built without TensorRT")])
    assert isinstance(found, Refusal)
    assert found.reference == "feature-missing"
    assert "(tensorflow 2.18.0, numpy 1.26.4) has no TF-TRT (built without TensorRT)" in found.reason
    on_cpu = choose_stack("tf_trt", "fp32", DEVICE, [_stack(tf_trt=True)])
    assert isinstance(on_cpu, Refusal) and on_cpu.reference == "device-kind-unsupported"


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> Island:
    directory = tmp_path_factory.mktemp("tf-trt")
    return Island(stage_bundle(directory / "bundle"), directory, Path(sys.executable))


def _job(workflow: str = "tf_trt", precision: str = "fp32", **model: Any) -> JobSpec:
    spec = ModelSpec(**{"name": "keras_resnet50", "source": "keras", "input_shape": (3, 32, 32)} | model)
    return model_job(spec, workflow, precision, calibration=Calibration("entropy", samples=4, batch=2))


def test_a_cpu_and_a_missing_library_are_refused_by_the_runner(island: Island) -> None:
    island.run(_job()).failed("unsupported", "device-kind-unsupported")
    island.run(_job("tensorflow"), 1).failed("unsupported", "missing-library")
    island.run(_job("tensorflow", "fp16")).failed("unsupported", "precision-unsupported")


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        ({"name": "keras_resnet18"}, "unknown-model"),
        ({"weights": "default"}, "unknown-weights"),
        ({"weights": "digits:0"}, "unknown-weights"),
        ({"input_shape": (1, 32, 32)}, "input-shape-unsupported"),
    ],
)
def test_models_that_keras_does_not_have_are_refused_before_anything_is_imported(
    model: dict[str, Any], reference: str
) -> None:
    with pytest.raises(Unsupported) as caught:
        keras_models.check(_job(**model).model)
    assert caught.value.reference == reference


def test_other_sources_and_images_for_a_given_model_are_refused(island: Island) -> None:
    torchvision = model_job("resnet18", "tensorflow")
    island.run(torchvision).failed("unsupported", "source-unsupported")
    given = _job("tensorflow", source="saved_model", name="mine", onnx_sha256="0" * 64)
    island.run(replace(given, data="digits")).failed("unsupported", "data-unsupported")
    island.run(_job("pytorch")).failed("unsupported", "source-unsupported")


def test_every_model_of_keras_has_a_class_and_a_namesake_in_torchvision() -> None:
    names = [name[len(keras_models.KERAS_PREFIX) :] for name in KERAS_MODELS]
    assert set(names) == set(keras_models._CLASSES)
    assert set(names) <= set(TORCHVISION_MODELS)
