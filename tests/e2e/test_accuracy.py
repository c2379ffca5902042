# SPDX-License-Identifier: Apache-2.0
"""An accuracy sweep through the whole farm: real images, a trained model, fp32 and int8, to the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.api import Farm
from farm.broker.jobs import JobState
from farm.cli.summary import finish
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.local import LocalFarm
from farm.settings import Settings
from tests.e2e.conftest import STACKS

pytestmark = [pytest.mark.long, pytest.mark.models, pytest.mark.timeout(900)]

SWEEP = """
name: told-rightly
protocol: {base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0, threads: 1}
models: [{name: resnet18, input: [3, 32, 32]}]
weights: digits:0
workflows: [onnxruntime_cpu]
precisions: [fp32, int8]
batch: [1, 32]
calibration: {method: [minmax, entropy], samples: 32, batch: 16}
accuracy: {dataset: digits}
"""
FAKE = """
name: fake-answers
protocol: {base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0}
models: [{name: resnet18, input: [3, 8, 8]}]
weights: digits:0
workflows: [{name: fake, behaviour: raise, stage: accuracy}]
batch: [1, 2]
accuracy: {dataset: digits}
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, digits_weights: Path) -> Iterator[Farm]:
    """A running farm whose cache has the trained weights already."""
    base = tmp_path_factory.mktemp("farm")
    settings = Settings(home=base / "home", lock_dir=base / "locks", lease_s=30, idle_wait_s=0, suspect_retries=0)
    shutil.copytree(digits_weights, settings.cache_dir / "prepared" / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_STACKS", STACKS)
        with LocalFarm(settings):
            yield Farm(settings)


def records(farm: Farm, text: str, tmp_path: Path) -> tuple[str, list[Record]]:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    sweep_id = farm.submit(path).sweep_id
    for _ in farm.watch(sweep_id, limit_s=600):
        pass
    return sweep_id, [r for r in farm.records(sweep_id) if isinstance(r, Record)]


def test_a_sweep_with_accuracy_gives_one_evaluation_for_each_job_and_a_table(
    farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_id, found = records(farm, SWEEP, tmp_path)
    assert [r.outcome for r in found] == [Outcome.OK] * 9, [r.failure for r in found]
    taken = {r.run_id: r for r in found if r.point == "accuracy"}
    assert len(taken) == 3
    shares = {(r.job.calibration.method if r.job.calibration else "fp32"): r.metrics["top1"] for r in taken.values()}
    assert (shares["fp32"] or 0) >= 0.97
    assert all(abs((share or 0) - (shares["fp32"] or 0)) <= 0.02 for share in shares.values())
    assert all("weights" in {ref.kind for ref in r.artifacts} for r in found)
    progress = farm.progress(sweep_id)
    assert (progress.total, progress.done, progress.finished) == (9, 9, True)
    table = farm.results(sweep_id, where="point = 'accuracy' and top1_low < top1").select(["top1", "calibration"])
    assert sorted(str(c) for _, c in table.rows) == [
        "None",
        "entropy, 32 samples, batch 16",
        "minmax, 32 samples, batch 16",
    ]
    files = farm.report(sweep_id, out_dir=tmp_path / "report")
    assert "Against fp32" in files.html.read_text()
    assert finish(farm, farm.submit(tmp_path / "sweep.yaml"), tmp_path / "again") == 0
    assert "onnxruntime_cpu  int8 (entropy, 32 samples, batch 16)" in capsys.readouterr().out.partition("Accuracy")[2]


def test_an_accuracy_that_failed_is_taken_again_on_its_own_terms(farm: Farm, tmp_path: Path) -> None:
    sweep_id, found = records(farm, FAKE, tmp_path)
    assert sorted((r.point, str(r.outcome)) for r in found) == [
        ("accuracy", "failed"),
        ("latency", "ok"),
        ("latency", "ok"),
    ]
    (view,) = farm.status(sweep_id)
    assert view.state is JobState.FAILED
    assert farm.retry(sweep_id) == 1
    for _ in farm.watch(sweep_id, limit_s=240):
        pass
    again = [r for r in farm.records(sweep_id) if isinstance(r, Record) and r.job.generation == 1]
    assert sorted((r.point, r.batch_size) for r in again) == [("accuracy", 2), ("latency", 2)]
    rows = farm.results(sweep_id).select(["point", "batch_size", "generation"]).rows
    assert sorted(rows) == [("accuracy", 2, 1), ("latency", 1, 0), ("latency", 2, 1)]
