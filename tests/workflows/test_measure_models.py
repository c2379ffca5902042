# SPDX-License-Identifier: Apache-2.0
"""Real models through prepare and measure, each in processes of its own."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from farm.contract.job import BatchLadder, Calibration, ModelSpec
from farm.contract.quantiles import relative_half_width
from tests.island.harness import Island, artifact, model_job, with_protocol
from workers.runner.steady import SteadyState

pytestmark = pytest.mark.models


@pytest.mark.parametrize(("name", "most_pct"), [("resnet18", 1.0), ("mobilenet_v2", 3.0)])
def test_fp32_outputs_of_onnxruntime_match_pytorch_at_every_batch_size(
    shared: Island, name: str, most_pct: float
) -> None:
    job = model_job(name, "onnxruntime_cpu", batches=BatchLadder(sizes=(1, 3)))
    shared.prepare(job)
    for batch_size in job.batches.sizes:
        measured = shared.measure(job, batch_size)
        assert measured.metrics["mismatch_1e-3_pct"] < most_pct
        assert measured.metrics["top1_agreement"] == 1.0
        assert 0 < measured.metrics["relative_l2_error"] < 1e-4
        assert measured.mismatch[0].element_count == 1000 * batch_size
        assert measured.effective["reference"] == "pytorch fp32"


def test_pytorch_fp32_matches_itself_and_bf16_does_not(shared: Island) -> None:
    fp32, bf16 = (model_job("resnet18", "pytorch", precision) for precision in ("fp32", "bf16"))
    shared.prepare(fp32)
    shared.prepare(bf16)
    exact, rough = shared.measure(fp32), shared.measure(bf16)
    assert exact.metrics["mismatch_1e-4_pct"] == 0.0
    assert exact.metrics["relative_l2_error"] < 1e-6
    assert 1e-4 < rough.metrics["relative_l2_error"] < 0.05
    assert (exact.effective["tf32"], exact.effective["fp32_matmul_precision"]) == (False, "highest")
    assert exact.metrics["engine_bytes"] == artifact(exact, "weights").size_bytes
    assert "build_s" not in exact.metrics


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_int8_runs_in_int8_with_each_calibration(shared: Island, method: str) -> None:
    # Samples of no other test's, so that every part is made here.
    job = model_job(
        "resnet18", "onnxruntime_cpu", "int8", calibration=Calibration(method, samples=12, batch=4, percentile=99.9)
    )
    prepared, measured = shared.prepare(job), shared.measure(job)
    nodes = measured.effective["quantized_nodes"]
    assert nodes["quantize"] > 0
    assert nodes["dequantize"] > 0
    assert nodes["share"] == 1.0
    assert measured.effective["calibration"]["method"] == method
    assert 1e-3 < measured.metrics["relative_l2_error"] < 0.2
    fp32 = artifact(prepared, "onnx")
    assert measured.metrics["engine_bytes"] < 0.3 * fp32.size_bytes
    parts = [artifact(prepared, kind) for kind in ("onnx", "onnx_preprocessed", "calibration", "onnx_int8")]
    assert measured.metrics["build_s"] == pytest.approx(sum(part.build_s or 0.0 for part in parts))


def test_calibrations_and_options_make_different_int8_files(shared: Island) -> None:
    base = model_job("resnet18", "onnxruntime_cpu", "int8", calibration=Calibration("minmax", samples=8, batch=4))
    variants = [
        base,
        replace(base, options={"per_channel": False}),
        replace(base, options={"activation_type": "qint8"}),
        replace(base, calibration=Calibration("percentile", samples=8, batch=4, percentile=99.0)),
    ]
    files = {artifact(shared.prepare(job), "onnx_int8").sha256 for job in variants}
    assert len(files) == len(variants)
    signed = shared.measure(variants[2])
    assert signed.effective["activation_type"] == "qint8"
    assert signed.metrics["relative_l2_error"] < 0.2


def test_a_measuring_process_of_onnxruntime_loads_neither_torch_nor_onnx(shared: Island) -> None:
    job = model_job("resnet18", "onnxruntime_cpu")
    shared.prepare(job)
    measured = shared.measure(job)
    assert set(measured.environment["libraries"]) == {"numpy", "onnxruntime"}
    assert measured.effective["provider"] == "CPUExecutionProvider"


def test_switches_of_the_protocol_are_held_and_told(shared: Island) -> None:
    for workflow in ("pytorch", "onnxruntime_cpu"):
        job = with_protocol(
            model_job("squeezenet1_1", workflow), threads=1, boundary="end_to_end", inputs="warm", rtols=(1e-3,)
        )
        shared.prepare(job)
        measured = shared.measure(job)
        effective = measured.effective
        assert (effective["threads"], effective["boundary"], effective["input_count"]) == (1, "end_to_end", 1)
        assert set(measured.mismatch[0].percent) == {"1e-3"}
        assert measured.metrics["mismatch_1e-3_pct"] == 0.0
        assert measured.metrics["cpu_utilisation"] < 1.5


def test_channels_last_is_taken_by_the_model(shared: Island) -> None:
    job = model_job("squeezenet1_1", "pytorch", options={"channels_last": True})
    shared.prepare(job)
    measured = shared.measure(job)
    assert measured.effective["channels_last"] is True
    assert measured.metrics["relative_l2_error"] < 1e-5


def test_files_of_one_model_are_shared_between_workflows(shared: Island) -> None:
    eager = shared.prepare(model_job("resnet18", "pytorch"))
    session = shared.prepare(model_job("resnet18", "onnxruntime_cpu"))
    for kind in ("weights", "reference"):
        assert artifact(eager, kind).path == artifact(session, kind).path


def test_a_damaged_prepared_file_is_refused_by_measure_and_mended_by_prepare(alone: Island) -> None:
    job = model_job("squeezenet1_1", "onnxruntime_cpu")
    made = artifact(alone.prepare(job), "onnx")
    damaged = bytearray(Path(made.path).read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    Path(made.path).write_bytes(damaged)
    alone.run(job, 1).failed("failed", "not-prepared")
    mended = artifact(alone.prepare(job), "onnx")
    assert not mended.cached
    assert mended.path == made.path
    alone.measure(job)


def test_a_job_of_another_seed_is_not_served_by_this_ones_files(shared: Island) -> None:
    job = model_job(ModelSpec("squeezenet1_1", input_shape=(3, 64, 64)), "onnxruntime_cpu")
    shared.prepare(job)
    shared.run(replace(job, seed=1), 1).failed("failed", "not-prepared")
    shared.run(replace(job, model=replace(job.model, weights="random:1")), 1).failed("failed", "not-prepared")


def test_preparation_tells_how_far_calibration_is(shared: Island) -> None:
    job = model_job(
        "squeezenet1_1", "onnxruntime_cpu", "int8", calibration=Calibration("percentile", samples=12, batch=4)
    )
    finished = shared.run(job)
    finished.ok()
    told = [e.fraction for e in finished.events if e.kind == "progress" and e.stage == "calibrate"]
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])


def test_a_real_model_is_warmed_up_until_steady_and_timed_until_its_median_is_known(shared: Island) -> None:
    """On a busy machine warm-up may reach its limit; then it says so, and what it says fits the samples it left."""
    job = with_protocol(
        model_job("squeezenet1_1", "onnxruntime_cpu"),
        warmup_rule="steady",
        warmup_max_s=10.0,
        target_half_width=0.1,
        min_iterations=20,
        max_iterations=20000,
        max_s=10.0,
    )
    shared.prepare(job)
    finished = shared.run(job, 1)
    said = finished.ok().effective
    assert said["warm_up_windows"] >= 1
    if said["warm_up_ended_by"] == "steady":
        assert SteadyState().ended_by(array("q", finished.samples("warm_up"))) == "steady"
    else:
        assert (said["warm_up_ended_by"], said["warm_up_wall_ns"] > 9.5e9) == ("max_s", True)
    latency = sorted(finished.samples())
    half_width = relative_half_width(latency)
    assert said["timed_ended_by"] == "target"
    assert half_width is not None
    assert half_width <= 0.1
    assert 20 <= len(latency) < 20000
    assert said["timed_asking_ns"] <= 0.05 * said["timed_wall_ns"] + 5_000_000
