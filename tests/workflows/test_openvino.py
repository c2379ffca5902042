# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: the precision asked for is the one that its kernels run, and nothing is sent to anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from farm.contract.codec import from_json
from farm.contract.device import StackInfo
from farm.contract.job import Calibration, JobSpec
from tests.island.harness import Island, artifact, model_job, with_protocol
from tests.workflows.onnx_models import save_model
from workers.workflows import openvino as workflow
from workers.workflows.errors import PrecisionNotHeld, SettingNotHeld, Unsupported
from workers.workflows.openvino_setup import import_openvino

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed"),
]
Given = Callable[..., tuple[JobSpec, Path]]


def _int8(method: str = "minmax", **more: Any) -> JobSpec:
    calibration = Calibration(method, samples=8, batch=4, percentile=99.9)
    return model_job("squeezenet1_1", "openvino", "int8", calibration=calibration, **more)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_int8_runs_int8_kernels_with_each_calibration(shared: Island, method: str) -> None:
    shared.prepare(_int8(method))
    measured = shared.measure(_int8(method))
    effective = measured.effective
    assert effective["int8_kernel_share"] == 1.0
    assert set(effective["compute_precisions"]) <= {"u8", "i8"}
    assert (effective["calibration"]["method"], effective["inference_precision"]) == (method, "f32")
    assert 1e-3 < measured.metrics["relative_l2_error"] < 0.2


def test_int8_is_the_file_that_onnxruntime_runs(shared: Island) -> None:
    other = replace(_int8(), workflow="onnxruntime_cpu")
    assert artifact(shared.prepare(_int8()), "onnx_int8").path == artifact(shared.prepare(other), "onnx_int8").path


def test_signed_activations_are_refused(shared: Island) -> None:
    job = _int8(options={"activation_type": "qint8"})
    for batch_size in (None, 1):
        failure = shared.run(job, batch_size).failed("unsupported", "activation-type-unsupported").failure
        assert failure is not None
        assert "wrong results" in failure.message


def test_fp32_runs_f32_kernels_with_the_settings_of_the_protocol(shared: Island) -> None:
    job = with_protocol(model_job("squeezenet1_1", "openvino"), threads=1, boundary="end_to_end", inputs="warm")
    shared.prepare(job)
    measured = shared.measure(job)
    effective = measured.effective
    assert set(effective["compute_precisions"]) == {"f32"}
    assert (effective["threads"], effective["streams"], effective["performance_hint"]) == (1, 1, "LATENCY")
    assert (effective["provider"], effective["shape"]) == ("OpenVINO CPU", "static")
    assert measured.metrics["mismatch_1e-3_pct"] == 0.0
    assert measured.metrics["build_s"] > 0
    assert set(measured.environment["libraries"]) == {"numpy", "openvino"}


def test_more_threads_than_openvino_takes_are_no_silent_fewer(shared: Island) -> None:
    job = with_protocol(model_job("squeezenet1_1", "openvino"), threads=4 * (os.cpu_count() or 1))
    shared.prepare(job)
    shared.run(job, 1).failed("failed", "setting-not-held")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_of_any_size_runs_at_the_size_of_the_sweep(alone: Island, given: Given, precision: str) -> None:
    job, path = given(precision)
    job = replace(job, workflow="openvino")
    alone.prepare(job, model_file=path)
    measured = alone.measure(job, 1, model_file=path)
    assert measured.effective["reference"] == "onnxruntime_cpu fp32 on the original file"
    assert measured.metrics["relative_l2_error"] < (1e-5 if precision == "fp32" else 0.1)


def test_an_operator_that_openvino_lacks_is_unsupported(alone: Island, given: Given) -> None:
    job, path = given(determinant=True, input_shape=(3, 16, 16))
    job = replace(job, workflow="openvino")
    alone.prepare(job, model_file=path)
    failure = alone.run(job, 1, model_file=path).failed("unsupported", "operator-unsupported").failure
    assert failure is not None
    assert "Det" in failure.message


def _compiled(path: Path, **settings: Any) -> Any:
    ov = import_openvino()
    core = ov.Core()
    model = core.read_model(path)
    model.reshape([1, 3, 16, 16])
    asked = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    return core.compile_model(model, "CPU", asked | {"INFERENCE_NUM_THREADS": 1} | settings)


def test_kernels_of_another_precision_are_found_out(tmp_path: Path) -> None:
    plain = workflow.compute_precisions(_compiled(save_model(tmp_path / "plain.onnx")))
    assert plain == {"f32": 2}
    with pytest.raises(PrecisionNotHeld, match="in int8, but: 2 x f32"):
        workflow._assert_precisions(plain, "int8")
    with pytest.raises(PrecisionNotHeld, match="1 x bf16, 1 x f32"):
        workflow._assert_precisions({"bf16": 1, "f32": 1}, "fp32")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"PERFORMANCE_HINT": "THROUGHPUT"}, SettingNotHeld),
        ({"INFERENCE_NUM_THREADS": 2}, SettingNotHeld),
        ({"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 2}, SettingNotHeld),
        ({"INFERENCE_PRECISION_HINT": "bf16"}, PrecisionNotHeld),
        ({"INFERENCE_PRECISION_HINT": "f16"}, PrecisionNotHeld),
    ],
)
def test_a_setting_that_was_not_taken_is_found_out(tmp_path: Path, settings: Any, error: type[Exception]) -> None:
    ov, path = import_openvino(), save_model(tmp_path / "plain.onnx")
    workflow._assert_held(ov, _compiled(path), 1, 1)
    changed = _compiled(path, **settings)
    if error is PrecisionNotHeld and changed.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32:
        pytest.skip("this CPU has no kernels of a lower precision to fall into")
    with pytest.raises(error):
        workflow._assert_held(ov, changed, 1, 1)


def test_what_openvino_says_becomes_the_right_failure() -> None:
    assert isinstance(workflow._explained(RuntimeError("bad_alloc"), "m", "1"), RuntimeError)
    words = "OpenVINO does not support the following ONNX operations: Det"  # as older versions put it
    assert isinstance(workflow._explained(RuntimeError(words), "m", "1"), Unsupported)
    other = workflow._explained(RuntimeError("no idea"), "m", "1")
    assert getattr(other, "reference", None) == "session-failed"


def test_importing_openvino_sends_nothing_and_writes_no_id(shared: Island, tmp_path: Path) -> None:
    """Its own import does both; the package falls back to its stub where `openvino_telemetry` is not importable."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from workers.workflows.openvino_setup import import_openvino\n"
        "print(type(import_openvino().tools.ovc.telemetry).__module__)"
    )
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, shared.bundle], capture_output=True, text=True, timeout=120, env=home
    )
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_probe_lists_openvino_and_writes_no_id(shared: Island, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out.json"
    home.mkdir()
    subprocess.run(
        [sys.executable, "-I", shared.bundle, "--probe", out],
        check=True, timeout=120, env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )  # fmt: skip
    info = from_json(StackInfo, json.loads(out.read_text()))
    assert info.libraries["openvino"][:2] == "20"
    assert not (home / "intel").exists()
