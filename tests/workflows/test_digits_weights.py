# SPDX-License-Identifier: Apache-2.0
"""Weights `digits:SEED`: trained for real, once, and then evaluated through PyTorch and ONNX Runtime, fp32 and int8."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farm.contract.job import AccuracySpec, BatchLadder, Calibration, JobSpec, ModelSpec
from farm.contract.protocols import PROTOCOLS, stage_limits_s
from tests.factories import make_job
from tests.island.harness import Island, model_job, stage_bundle
from workers.workflows import digits_recipe
from workers.workflows.errors import WorkflowError

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]
torch = pytest.importorskip("torch")
MODEL = ModelSpec("resnet18", input_shape=(3, 32, 32), weights="digits:0")


def job_of(workflow: str, precision: str = "fp32", **fields: Any) -> JobSpec:
    given = {"data": "digits", "accuracy": AccuracySpec("digits"), "batches": BatchLadder((64,))} | fields
    return model_job(MODEL, workflow, precision, **given)


@pytest.fixture(scope="module")
def island(digits_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Island:
    """A runner whose cache has the trained weights."""
    directory = tmp_path_factory.mktemp("digits")
    shutil.copytree(digits_weights, directory / "cache" / "weights")
    return Island(stage_bundle(directory / "bundle"), directory, Path(sys.executable))


def evaluated(island: Island, job: JobSpec) -> dict[str, float]:
    island.prepare(job)
    found = island.evaluate(job, 64)
    assert found.effective["precision"] == job.precision
    assert found.metrics["accuracy_samples"] == 360
    return found.metrics


def test_the_model_reaches_what_the_recipe_promises_and_says_so(island: Island) -> None:
    (path,) = (island.directory / "cache" / "weights").glob("*/manifest.json")
    facts = json.loads(path.read_text())["facts"]
    assert facts["top1"] >= digits_recipe.LEAST_TOP1
    assert (facts["epochs"], facts["training_images"], facts["test_images"]) == (6, 1437, 360)


def test_pytorch_and_onnxruntime_tell_the_same_in_fp32_and_int8_loses_little(island: Island) -> None:
    fp32 = evaluated(island, job_of("pytorch"))
    assert fp32["top1"] >= 0.97
    assert fp32["top5"] >= 0.99
    exported = evaluated(island, job_of("onnxruntime_cpu"))
    assert exported["top1"] == pytest.approx(fp32["top1"], abs=1 / 360)
    for calibration in (Calibration("minmax", 64, 16), Calibration("entropy", 64, 16)):
        int8 = evaluated(island, job_of("onnxruntime_cpu", "int8", calibration=calibration))
        assert abs(int8["top1"] - fp32["top1"]) <= 0.02, calibration


def test_every_run_names_the_weights_that_it_ran_with(island: Island) -> None:
    made = island.prepare(job_of("pytorch"))
    (weights,) = [a for a in made.artifacts if a.kind == "weights"]
    assert weights.cached
    assert Path(weights.path).is_relative_to(island.directory / "cache")
    measured = island.measure(job_of("pytorch"), 64)
    assert weights.sha256 in {a.sha256 for a in measured.artifacts}
    assert measured.mismatch[0].element_count == 64 * 10


def test_published_weights_do_not_fit_the_digits(island: Island) -> None:
    job = replace(job_of("pytorch"), model=replace(MODEL, weights="default"))
    island.run(job).failed("unsupported", "classes-unsupported")


def test_a_state_dict_of_ten_classes_is_taken_with_the_digits(island: Island, digits_weights: Path) -> None:
    (file,) = digits_weights.glob("*/weights.pt")
    sha256 = json.loads((file.parent / "manifest.json").read_text())["sha256"]
    job = replace(job_of("pytorch"), model=replace(MODEL, weights="sha256:" + sha256))
    island.prepare(job, model_file=file)
    assert island.evaluate(job, 64, model_file=file).metrics["top1"] >= 0.97
    other = replace(job, data="uniform", accuracy=None)
    island.run(other, model_file=file).failed("failed", "damaged-model")


# The recipe itself, with a model that is trained in a moment

Train = Callable[..., dict[str, Any]]


def tiny() -> Any:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 10))


def context(name: str, told: list[float]) -> Any:
    job = make_job(model=ModelSpec(name, input_shape=(3, 8, 8), weights="digits:3"), data="digits")
    return SimpleNamespace(job=job, progress=told.append)


def trained(name: str, seed: int, told: list[float] | None = None) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(seed)
    module = tiny()
    return module, digits_recipe.train(context(name, [] if told is None else told), torch, module, seed)


def test_a_seed_trains_the_same_weights_and_progress_is_told_by_batch() -> None:
    told: list[float] = []
    (one, facts), (two, _), (other, _) = trained("alexnet", 3, told), trained("alexnet", 3), trained("alexnet", 4)
    assert torch.equal(one[1].weight, two[1].weight)
    assert not torch.equal(one[1].weight, other[1].weight)
    assert len(told) == facts["epochs"] * (1437 // 64)
    assert told == sorted(told)
    assert told[-1] == 1
    assert facts["top1"] > 0.5


def test_a_model_of_the_table_that_misses_its_accuracy_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(digits_recipe.TABLE, "resnet18", digits_recipe.Training(epochs=1, learning_rate=1e-6))
    with pytest.raises(WorkflowError, match="less than 97%") as caught:
        trained("resnet18", 3)
    assert caught.value.reference == "training-missed-accuracy"
    assert "digits:4" in (caught.value.hint or "")


def test_images_are_shifted_one_by_one_and_nothing_is_invented() -> None:
    images = torch.arange(8 * 3 * 32 * 32, dtype=torch.float32).reshape(8, 3, 32, 32) + 1
    moved = digits_recipe._shifted(torch, images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    assert all(set(m[m > 0].tolist()) <= set(i.flatten().tolist()) for m, i in zip(moved, images, strict=True))


def test_training_has_the_time_it_needs_unless_the_sweep_says_otherwise() -> None:
    job = job_of("pytorch", protocol=PROTOCOLS["quick"])
    assert (stage_limits_s(job)["load_model"], stage_limits_s(job)["accuracy"]) == (3600, 3600)
    assert "load_model" not in stage_limits_s(replace(job, model=ModelSpec("resnet18")))
    own = replace(PROTOCOLS["quick"], stage_limits_s={"load_model": 5.0, "default": 300.0})
    assert stage_limits_s(replace(job, protocol=own))["load_model"] == 5
    short = replace(PROTOCOLS["quick"], stage_limits_s={"default": 7.0})
    assert stage_limits_s(replace(job, protocol=short)) == {"default": 7.0}
