# SPDX-License-Identifier: Apache-2.0
"""ONNX files from people: run if they can be, and refused with what to do if not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.job import BatchLadder, JobSpec, ModelSpec
from tests.island.harness import Island, artifact, model_job
from workers.workflows.errors import InputShapeMismatch, Unsupported
from workers.workflows.onnx_files import check_batch, check_input
from workers.workflows.onnx_session import output_shape

Given = Callable[..., tuple[JobSpec, Path]]


@pytest.mark.models
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_is_measured_against_its_own_fp32_outputs(alone: Island, given: Given, precision: str) -> None:
    job, path = given(precision)
    job = replace(job, batches=BatchLadder(sizes=(1, 4)))
    alone.prepare(job, model_file=path)
    path.unlink()  # measuring takes the file from the cache
    for batch_size in (1, 4):
        measured = alone.measure(job, batch_size)
        assert measured.effective["reference"] == "onnxruntime_cpu fp32 on the original file"
        assert measured.mismatch[0].output == "scores"
        assert measured.mismatch[0].element_count == 10 * batch_size
        assert measured.metrics["relative_l2_error"] < (1e-6 if precision == "fp32" else 0.1)
        assert ("build_s" in measured.metrics) == (precision == "int8")


@pytest.mark.models
def test_the_file_that_runs_in_fp32_is_the_file_that_was_given(alone: Island, given: Given) -> None:
    job, path = given()
    prepared = alone.prepare(job, model_file=path)
    assert artifact(prepared, "onnx").sha256 == sha256_file(str(path))
    assert "torch" not in prepared.environment["libraries"]


@pytest.mark.models
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_fixed_batch_runs_at_that_batch_and_is_unsupported_at_others(
    alone: Island, given: Given, precision: str
) -> None:
    job, path = given(precision, batch=2)
    job = replace(job, batches=BatchLadder(sizes=(1, 2)))
    alone.prepare(job, model_file=path)
    assert alone.measure(job, 2).mismatch[0].element_count == 20
    refused = alone.run(job, 1).failed("unsupported", "fixed-batch")
    assert refused.failure is not None
    assert "fixed batch of 2" in refused.failure.message
    assert "[2]" in (refused.failure.hint or "")


@pytest.mark.models
@pytest.mark.parametrize(
    ("precision", "what", "outcome", "reference"),
    [
        ("fp32", {"inputs": 2}, "unsupported", "input-count"),
        ("fp32", {"input_type": "INT64"}, "unsupported", "input-type"),
        ("fp32", {"quantized": True}, "unsupported", "not-an-fp32-model"),
        ("int8", {"quantized": True}, "unsupported", "not-an-fp32-model"),
        ("fp32", {"half_weights": True}, "unsupported", "not-an-fp32-model"),
        ("fp32", {"external": True}, "unsupported", "external-data"),
        ("int8", {"opset": 12}, "unsupported", "opset-too-old"),
        ("fp32", {"channels": 1}, "failed", "input-shape-mismatch"),
    ],
)
def test_a_file_that_cannot_be_run_as_asked_says_why_and_what_to_do(
    alone: Island, given: Given, precision: str, what: dict[str, Any], outcome: str, reference: str
) -> None:
    job, path = given(precision, **what)
    result = alone.run(job, model_file=path).failed(outcome, reference)
    assert result.failure is not None
    assert result.failure.hint


@pytest.mark.models
def test_the_older_opset_runs_with_one_scale_per_tensor(alone: Island, given: Given) -> None:
    job, path = given("int8", opset=12)
    job = replace(job, options={"per_channel": False})
    alone.prepare(job, model_file=path)
    assert alone.measure(job).effective["per_channel"] is False


@pytest.mark.models
def test_a_wrong_shape_names_both_shapes(alone: Island, given: Given) -> None:
    job, path = given(channels=1)
    failure = alone.run(job, model_file=path).failed("failed", "input-shape-mismatch").failure
    assert failure is not None
    assert "(any, 1, any, any)" in failure.message
    assert "(batch, 3, 16, 16)" in failure.message


@pytest.mark.models
@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "text"])
def test_a_file_that_is_not_onnx_is_damaged(alone: Island, given: Given, damage: str) -> None:
    _, path = given()
    whole = path.read_bytes()
    path.write_bytes({"garbage": bytes(range(256)) * 8, "truncated": whole[:-100], "empty": b""}.get(damage, b"onnx?"))
    job = model_job(ModelSpec("mine", "onnx", (3, 16, 16), onnx_sha256=sha256_file(str(path))), "onnxruntime_cpu")
    failure = alone.run(job, model_file=path).failed("failed", "damaged-model").failure
    assert failure is not None
    assert failure.hint
    assert failure.stage == "load_model"


@pytest.mark.models
def test_a_file_with_another_digest_is_damaged_and_is_not_kept(alone: Island, given: Given) -> None:
    job, path = given()
    path.write_bytes(path.read_bytes() + b"\0")
    failure = alone.run(job, model_file=path).failed("failed", "damaged-model").failure
    assert failure is not None
    assert "sha256" in failure.message
    assert not list((alone.directory / "cache").rglob("model.onnx"))


@pytest.mark.models
def test_a_file_that_was_not_fetched_is_missing(alone: Island, given: Given) -> None:
    job, _ = given()
    alone.run(job).failed("failed", "model-file-missing")


@pytest.mark.models
def test_pytorch_refuses_an_onnx_file(alone: Island, given: Given) -> None:
    job, path = given()
    result = alone.run(replace(job, workflow="pytorch"), model_file=path).failed("unsupported", "source-unsupported")
    assert result.failure is not None
    assert "onnxruntime_cpu" in (result.failure.hint or "")


@pytest.mark.parametrize(
    ("declared", "fits"),
    [
        ([None, 3, 16, 16], True),
        ([4, 3, None, None], True),
        ([None, 3, 16], False),
        ([None, 1, 16, 16], False),
        ([None, 3, 16, 16, 1], False),
        ([], False),
    ],
)
def test_a_declared_shape_fits_or_not(declared: list[int | None], fits: bool) -> None:
    facts = {"input": "x", "input_shape": declared}
    if fits:
        check_input(facts, (3, 16, 16))
        return
    with pytest.raises(InputShapeMismatch):
        check_input(facts, (3, 16, 16))


def test_a_fixed_batch_takes_itself_only() -> None:
    check_batch({"input_shape": [None, 3]}, 7)
    check_batch({"input_shape": [7, 3]}, 7)
    with pytest.raises(Unsupported):
        check_batch({"input_shape": [7, 3]}, 8)


@pytest.mark.parametrize(
    ("declared", "shape"),
    [(["batch", 10], [4, 10]), ([4, 10], [4, 10]), ([1, 10], None), (["batch", "n"], None), ([], None)],
)
def test_an_output_is_allocated_once_only_where_its_shape_follows(declared: list[Any], shape: Any) -> None:
    assert output_shape(declared, 4) == shape
