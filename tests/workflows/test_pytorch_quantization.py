# SPDX-License-Identifier: Apache-2.0
"""Quantised in PyTorch by both libraries, on digits; and the steps for a GPU with stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import json
import shutil
import sys
import venv
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from farm.contract.codec import from_json, to_json
from farm.contract.device import DeviceInfo
from farm.contract.job import Calibration, JobSpec, ModelSpec
from farm.contract.run import RunRequest, RunResult
from tests.island.harness import Island, artifact, model_job
from workers.workflows import datasets
from workers.workflows.toolkits import TOOLKITS

np = pytest.importorskip("numpy")
ort = pytest.importorskip("onnxruntime")
for library in TOOLKITS:
    pytest.importorskip(library)

pytestmark = [
    pytest.mark.long,
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),  # the weights may have to be trained first
]

RESNET = ModelSpec("resnet18", input_shape=(3, 32, 32), weights="digits:0")
SQUEEZENET = ModelSpec("squeezenet1_1", input_shape=(3, 64, 64))
GPU = DeviceInfo("box-gpu0", "nvidia-x", "gpu", "box", "X", {"uuid": "GPU-0", "compute_capability": "9.0"})


def _job(model: ModelSpec = RESNET, method: str = "minmax", data: str = "digits", **options: Any) -> JobSpec:
    calibration = Calibration(method, 64 if data == "digits" else 16, 16)
    return model_job(model, "pytorch_quantization", "int8", calibration=calibration, data=data, options=options)


def _top1(path: str, job: JobSpec) -> float:
    """Top-1 of an ONNX file on the test part of the job's data, in percent."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = total = 0
    for images, labels in datasets.labelled_test(job):
        right += int((session.run(None, {"input": images})[0].argmax(axis=1) == labels).sum())
        total += len(labels)
    return 100.0 * right / total


@pytest.fixture(scope="module")
def fp32_top1(shared: Island, digits_weights: Path) -> float:
    """Top-1 of the model before quantisation, which was trained already."""
    shutil.copytree(digits_weights, shared.directory / "cache" / "weights", dirs_exist_ok=True)
    job = model_job(RESNET, "onnxruntime_cpu", data="digits")
    return _top1(artifact(shared.prepare(job), "onnx").path, job)


@pytest.mark.parametrize("library", sorted(TOOLKITS))
def test_ptq_and_qat_keep_the_accuracy_and_the_record_says_how(shared: Island, fp32_top1: float, library: str) -> None:
    ptq, qat = _job(library=library), _job(library=library, mode="qat", epochs=1)
    prepared = shared.prepare(ptq)
    trained = shared.prepare(qat)
    assert fp32_top1 > 97
    assert _top1(artifact(prepared, "onnx_qdq").path, ptq) > fp32_top1 - 2
    assert _top1(artifact(trained, "onnx_qdq").path, qat) > fp32_top1 - 1
    assert artifact(trained, "calibration").cached, "training starts from the same ranges"
    for job, mode in ((ptq, "ptq"), (qat, "qat")):
        effective = shared.measure(job).effective
        name = {"modelopt": "nvidia-modelopt"}.get(library, "pytorch-quantization")
        assert effective["library"].startswith(name + " ")
        assert effective["mode"] == mode
        assert effective["quantized_nodes"]["compute"] == 21
        assert effective["quantized_nodes"]["compute_quantized"] >= 9
        assert ("training" in effective) == (mode == "qat")
    assert set(shared.measure(ptq).environment["libraries"]) == {"numpy", "onnxruntime"}, "measuring needs no more"


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_histograms_calibrate_every_layer(shared: Island, method: str) -> None:
    job = _job(SQUEEZENET, method, "uniform")
    shared.prepare(job)
    measured = shared.measure(job)
    assert measured.effective["calibration"]["method"] == method
    assert measured.effective["quantized_nodes"]["share"] == 1.0
    assert measured.metrics["relative_l2_error"] < 0.1
    assert measured.metrics["engine_bytes"] < 2e6, "weights are int8"


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"options": {"mode": "qat"}, "data": "uniform"}, "data-without-classes"),
        ({"workflow": "onnxruntime_cpu", "calibration": Calibration("mse", 8, 4)}, "calibration-unsupported"),
        ({"options": {"library": "torchao"}}, "unknown-option"),
        ({"model": ModelSpec("mine", "onnx", (3, 8, 8), onnx_sha256="0" * 64)}, "source-unsupported"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    alone: Island, changes: dict[str, Any], reference: str
) -> None:
    alone.run(replace(_job(), **changes)).failed("unsupported", reference)
    assert not (alone.directory / "cache").exists()


def test_a_stack_without_either_library_is_told_what_to_install(alone: Island, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    island = replace(alone, python=tmp_path / "bare" / "bin" / "python")
    result = island.run(_job()).failed("unsupported", "missing-library")
    assert result.failure is not None
    assert "no pytorch_quantization and no modelopt" in result.failure.message
    assert "nvidia-modelopt" in (result.failure.hint or "")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, shared: Island, tmp_path: Path) -> Any:
    """Prepare (no batch) or measure in this process, with stand-ins for TensorRT and CUDA."""
    from tests.workflows import standin_trt
    from workers.runner.stages import run_request

    driver, package = standin_trt.pycuda_driver(), ModuleType("pycuda")
    vars(package).update(driver=driver, __path__=[])
    for name, module in (("tensorrt", standin_trt.tensorrt()), ("pycuda", package), ("pycuda.driver", driver)):
        module.__spec__ = ModuleSpec(name, None)  # torch asks for it when it exports
        monkeypatch.setitem(sys.modules, name, module)

    def run(job: JobSpec, batch: int | None = None) -> RunResult:
        control = tmp_path / f"run-{batch}"
        control.mkdir()
        mode = "prepare" if batch is None else "measure"
        request = RunRequest("r", mode, job, GPU, str(shared.directory / "cache"), batch)
        (control / "request.json").write_text(json.dumps(to_json(request)))
        run_request(str(control))
        result = from_json(RunResult, json.loads((control / "result.json").read_text()))
        assert result.outcome == "ok", result.failure
        return result

    return run


def test_on_a_gpu_the_engine_is_built_from_the_graph_without_a_calibration_table(on_gpu: Any) -> None:
    onnx = pytest.importorskip("onnx")
    job = _job(SQUEEZENET, "percentile", "uniform", optimization_level=1)
    prepared = on_gpu(job)
    kinds = [made.kind for made in prepared.artifacts]
    assert kinds.count("engine") == 1
    assert "trt_calibration" not in kinds
    graph = onnx.load(artifact(prepared, "onnx_qdq").path).graph
    types = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= types
    assert not {"QLinearConv", "Constant", "Cast", "BatchNormalization"} & types
    measured = on_gpu(job, 1)
    effective = measured.effective
    assert (effective["precision"], effective["provider"], effective["mode"]) == ("int8", "tensorrt", "ptq")
    assert (effective["optimization_level"], effective["quantized_nodes"]["share"]) == (1, 1.0)
    assert measured.metrics["relative_l2_error"] < 0.1
