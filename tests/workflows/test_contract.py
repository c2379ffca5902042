# SPDX-License-Identifier: Apache-2.0
"""What every workflow must do, run for each one in the registry, in each precision that it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import JobSpec, ModelSpec
from farm.contract.metrics import METRICS
from farm.contract.run import STAGES, RunResult
from tests.island.harness import COMPILED, NOTHING, Island, model_job, with_protocol
from workers.workflows.registry import TABLE

pytestmark = [pytest.mark.long, pytest.mark.models]
#: In a stack of its own: test_tensorflow.
_APART = ("tensorflow",)
_CASES = [
    (name, precision)
    for name in sorted(TABLE)
    if "cpu" in WORKFLOWS[name].device_kinds and name not in _APART
    for precision in WORKFLOWS[name].precisions_on("cpu")
]
_MEASURED = ("start", "load_engine", "first_inference", "warm_up", "measure", "outputs", "finish")


def _job(workflow: str, precision: str) -> JobSpec:
    apart = {"fake": NOTHING, "torch_compile": COMPILED}
    model = apart.get(workflow, ModelSpec("squeezenet1_1", input_shape=(3, 64, 64)))
    return model_job(model, workflow, precision)


@pytest.fixture(scope="module", params=_CASES, ids=["-".join(case) for case in _CASES])
def case(request: pytest.FixtureRequest, shared: Island) -> tuple[JobSpec, RunResult, RunResult]:
    """A job, its preparation and one measured point."""
    job = _job(*request.param)
    return job, shared.prepare(job), shared.measure(job, 1)


Case = tuple[JobSpec, RunResult, RunResult]


def test_stages_are_the_contracts_in_order(case: Case) -> None:
    _, prepared, measured = case
    assert tuple(stage.name for stage in measured.stages) == _MEASURED
    order = [STAGES.index(stage.name) for stage in prepared.stages]
    assert order == sorted(order)
    assert not {"warm_up", "measure"} & {stage.name for stage in prepared.stages}


def test_what_runs_is_what_was_asked_for(case: Case) -> None:
    job, _, measured = case
    effective = measured.effective
    assert effective["precision"] == job.precision
    assert effective["threads"] >= 1
    assert effective["batch_size"] == 1
    assert effective["provider"]
    assert effective["input_count"] >= 1
    assert (effective["timed_iterations"], effective["timed_ended_by"]) == (5, "minima")


def test_metrics_are_in_the_table_and_positive(case: Case) -> None:
    _, _, measured = case
    assert set(measured.metrics) <= set(METRICS)
    for name in ("throughput_per_s", "first_inference_ms", "load_ms", "engine_bytes", "host_rss_bytes"):
        assert measured.metrics[name] > 0, name


def test_every_artifact_is_in_the_cache_as_described(case: Case, shared: Island) -> None:
    _, prepared, measured = case
    assert prepared.artifacts
    for artifact in (*prepared.artifacts, *measured.artifacts):
        path = Path(artifact.path)
        assert path.is_relative_to(shared.directory / "cache")
        assert (sha256_file(str(path)), path.stat().st_size) == (artifact.sha256, artifact.size_bytes)
        assert artifact.build_s is not None
    assert all(artifact.cached for artifact in measured.artifacts)


def test_preparing_again_makes_nothing(case: Case, shared: Island) -> None:
    job, prepared, _ = case
    again = shared.prepare(job)
    assert all(artifact.cached for artifact in again.artifacts)
    kept = {a.path: a.sha256 for a in prepared.artifacts}
    assert {a.path: a.sha256 for a in again.artifacts}.items() <= kept.items()
    assert not {"torch", "onnx"} & set(again.environment["libraries"]), "what is cached needs no library"


def test_outputs_are_those_of_the_reference_within_the_precision(case: Case) -> None:
    job, _, measured = case
    if job.workflow == "fake":
        assert measured.mismatch == []
        return
    (found,) = measured.mismatch
    assert found.nonfinite_count == 0
    assert found.element_count == (16 * 128 if job.model == COMPILED else 1000)
    effective = measured.effective
    made_by = [effective["reference_" + key] for key in ("workflow", "precision", "device", "threads")]
    assert made_by == ["pytorch", "fp32", "cpu", effective["threads"]]
    assert set(effective["reference_versions"]) == {"torch", "numpy"}
    assert measured.metrics["cosine_similarity"] == found.cosine_similarity
    assert found.cosine_similarity is not None and found.cosine_similarity > 0.99
    assert measured.metrics["relative_l2_error"] == found.relative_l2_error
    assert found.relative_l2_error < {"fp32": 1e-5, "bf16": 0.05, "int8": 0.1}[job.precision]
    assert (measured.metrics["mismatch_1e-3_pct"] == 0) == (job.precision == "fp32")


def test_two_requests_in_flight_give_the_same_outputs(case: Case, shared: Island) -> None:
    job, _, measured = case
    if "streams" not in WORKFLOWS[job.workflow].scenarios:
        shared.run(with_protocol(job, scenario="streams", streams=2), 1).failed("unsupported", "scenario-unsupported")
        return
    found = shared.measure(with_protocol(job, scenario="streams", streams=2, min_iterations=6, max_iterations=6))
    assert sum(found.effective["lane_counts"]) == 6
    if job.workflow != "openvino":  # which was compiled for other threads, and may add in another order
        assert found.effective.get("outputs_sha256") == measured.effective.get("outputs_sha256")
    assert [m.nonfinite_count for m in found.mismatch] == [m.nonfinite_count for m in measured.mismatch]


def test_an_option_that_it_lacks_is_refused(case: Case, shared: Island) -> None:
    job, _, _ = case
    refused = replace(job, options={"colour": "red"})
    shared.run(refused, 1).failed("unsupported", "unknown-option")


def test_measuring_what_was_never_prepared_is_refused(case: Case, alone: Island) -> None:
    """The fake workflow needs no preparation; every real one does."""
    job, _, _ = case
    if job.workflow == "fake":
        alone.measure(job)
        return
    result = alone.run(job, 1).failed("failed", "not-prepared")
    assert result.failure is not None
    assert result.failure.stage == "load_engine"
    assert not (alone.directory / "cache").exists()
