# SPDX-License-Identifier: Apache-2.0
"""Top-1 and top-5 in the runner: counting, the last batch, and what is refused. The fake workflow answers class 0."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.job import AccuracySpec, BatchLadder
from tests.island.harness import Island, fake_job
from workers.runner.accuracy import Tally
from workers.workflows.errors import DataUnavailable

np = pytest.importorskip("numpy")


@pytest.fixture
def here(bundle: Path, tmp_path: Path) -> Island:
    """The island in this interpreter, which has numpy."""
    return Island(bundle, tmp_path, Path(sys.executable))


def evaluated(**fields: Any) -> Any:
    job = fake_job(latency_ms=0.0)
    job = replace(job, model=replace(job.model, input_shape=(3, 8, 8)), batches=BatchLadder((1, 50)))
    return replace(job, **({"data": "digits", "accuracy": AccuracySpec("digits")} | fields))


def test_every_test_image_counts_once_whatever_the_batch_is(here: Island) -> None:
    for size in (1, 50, 400):  # 360 is not a multiple of the second, and less than the third
        found = here.evaluate(evaluated(), size)
        assert found.metrics == {"top1": 0.1, "top5": found.metrics["top5"], "accuracy_samples": 360.0}
        # Classes after 0 share one score: with ties the lower class comes first, so 0 to 4 are the first five.
        assert found.metrics["top5"] == pytest.approx(0.5, abs=0.01)
        assert found.samples == []
        assert (found.effective["classes"], found.effective["nonfinite_rows"]) == (10, 0)
        assert (found.effective["precision"], found.effective["batch_size"]) == ("fp32", size)


def test_progress_is_told_in_a_stage_of_its_own(here: Island) -> None:
    finished = here.run(evaluated(accuracy=AccuracySpec("digits", limit=100)), 50, mode="accuracy")
    told = [event.fraction for event in finished.events if (event.kind, event.stage) == ("progress", "accuracy")]
    assert told == [0.5, 1.0]
    assert finished.ok().metrics["accuracy_samples"] == 100
    assert [stage.name for stage in finished.ok().stages] == ["start", "load_engine", "accuracy", "finish"]


def test_data_without_classes_cannot_be_evaluated(here: Island) -> None:
    here.run(evaluated(data="uniform"), 1, mode="accuracy").failed("unsupported", "data-without-classes")


def test_a_folder_that_is_not_on_the_host_is_a_failure_that_says_so(here: Island, tmp_path: Path) -> None:
    job = evaluated(data="imagenet", data_path=str(tmp_path / "none"))
    here.run(job, 1, mode="accuracy").failed("failed", "data-unavailable")


def test_a_precision_that_is_not_held_is_never_evaluated(here: Island) -> None:
    job = replace(evaluated(), options={"behaviour": "raise", "stage": "accuracy"})
    result = here.run(job, 1, mode="accuracy").failed("failed", "unexpected-error")
    assert result.failure is not None
    assert result.failure.stage == "accuracy"
    assert "top1" not in result.metrics


def tally(rows: list[list[float]], labels: list[int]) -> Tally:
    found = Tally()
    found.add(np.array(rows, dtype=np.float32), np.array(labels))
    return found


def test_ties_go_to_the_lower_class_as_with_argmax() -> None:
    rows = [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]] * 2
    assert tally(rows, [0, 1]).metrics() == {"top1": 0.5, "top5": 1.0, "accuracy_samples": 2.0}
    assert tally(rows, [4, 5]).metrics()["top5"] == 0.5


def test_values_that_are_not_finite_are_wrong_answers_and_counted() -> None:
    rows = [[0.0, 9.0, 0, 0, 0], [float("nan"), 9.0, 0, 0, 0], [float("inf"), 9.0, 0, 0, 0]]
    found = tally(rows, [1, 1, 0])
    assert found.metrics() == {"top1": 1 / 3, "top5": 1 / 3, "accuracy_samples": 3.0}
    assert found.facts() == {"classes": 5, "nonfinite_rows": 2, "right": 1}


def test_fewer_than_five_classes_have_no_top5() -> None:
    assert "top5" not in tally([[0.0, 1.0, 2.0, 3.0]], [3]).metrics()


def test_a_class_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(DataUnavailable, match="the model has 2"):
        tally([[0.0, 1.0]], [2])
