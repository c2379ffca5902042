# SPDX-License-Identifier: Apache-2.0
"""The study of a pipeline, with real JPEG files: real models on this CPU, and files that are none."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farm.contract.codec import from_json
from farm.contract.job import BatchLadder, JobSpec, ModelSpec
from farm.contract.pipeline import STAGES, ArrivalSpec, PipelineResult, PipelineSpec
from farm.contract.run import RunResult
from tests.island.harness import Island, artifact, fake_job, model_job, with_protocol
from workers.workflows import jpeg_files
from workers.workflows.tensorflow import TensorFlow

pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

SMALL = PipelineSpec(count=6, width=96, height=80, duration_s=0.3)
RATES = ArrivalSpec(of_capacity=(0.4, 3.0), max_wait_ms=5.0, duration_s=0.5)


def jpeg(width: int = 64, height: int = 48, mode: str = "RGB") -> bytes:
    """One small JPEG file."""
    kept = io.BytesIO()
    jpeg_files.picture((1, 2), width, height).convert(mode).save(kept, "JPEG")
    return kept.getvalue()


def nothing(spec: PipelineSpec, batch: int = 4, shape: tuple[int, ...] = (3, 32, 32), **options: Any) -> JobSpec:
    """A job without a model: inference takes 5 ms."""
    job = fake_job(latency_ms=5.0, **options)
    model = ModelSpec(name="nothing", source="fake", input_shape=shape)
    return replace(job, model=model, pipeline=spec, batches=BatchLadder(sizes=(batch,)))


def study(island: Island, job: JobSpec, batch: int) -> tuple[RunResult, PipelineResult]:
    island.prepare(job)
    result = island.run(job, batch, mode="pipeline").ok()
    return result, from_json(PipelineResult, result.effective["pipeline"])


def check_passes(result: RunResult, found: PipelineResult, batch: int) -> None:
    assert found.serial is not None and found.overlapped is not None
    assert (found.batch_size, found.images, len(found.images_sha256)) == (batch, 6, 64)
    assert "Pillow" in found.decoder and "no copy" in found.copy
    assert [stage.name for stage in found.serial.stages] == list(STAGES)
    assert found.serial.images == found.serial.batches * batch
    assert sum(s.share for s in found.serial.stages) + found.serial.between_share == pytest.approx(1.0)
    assert all(0 <= load.utilisation <= 1.01 for load in found.overlapped.workers)
    assert found.overlapped.images >= 5 * batch
    assert found.overlapped.speed_up == pytest.approx(found.overlapped.per_s / found.serial.per_s)
    counts = {file.name: file.count for file in result.samples}
    assert counts["pipeline_decode"] == found.serial.images
    assert counts["pipeline_infer"] == counts["pipeline_batch"] == found.serial.batches
    metrics = result.metrics
    assert metrics["pipeline_serial_per_s"] == found.serial.per_s
    assert metrics["pipeline_overlapped_per_s"] == found.overlapped.per_s
    assert not any(name.startswith(("latency", "throughput", "top1")) for name in metrics)


@pytest.mark.models
@pytest.mark.parametrize(("workflow", "batch"), [("pytorch", 1), ("onnxruntime_cpu", 2)])
def test_a_real_model_goes_through_all_stages(shared: Island, workflow: str, batch: int) -> None:
    spec = replace(SMALL, arrival=ArrivalSpec(of_capacity=(0.3,), duration_s=0.5))
    job = model_job("squeezenet1_1", workflow, pipeline=spec, batches=BatchLadder(sizes=(batch,)))
    result, found = study(shared, with_protocol(job, threads=1), batch)
    check_passes(result, found, batch)
    shares = {stage.name: stage.share for stage in found.serial.stages} if found.serial else {}
    assert shares["infer"] > 0 and shares["decode"] > 0
    (load,) = found.loads
    assert load.arrivals - load.unfinished == load.batches * load.mean_batch
    assert artifact(result, "pipeline_images").size_bytes > 0


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, shared: Island) -> tuple[RunResult, PipelineResult]:
    """A study whose inference alone is slow, at two rates."""
    island = Island(shared.bundle, tmp_path_factory.mktemp("pipeline"), shared.python)
    return study(island, nothing(replace(SMALL, arrival=RATES)), 4)


def test_what_takes_longest_is_the_bottleneck(loaded: tuple[RunResult, PipelineResult]) -> None:
    result, found = loaded
    check_passes(result, found, 4)
    assert found.overlapped is not None
    assert (found.overlapped.bottleneck.worker, found.overlapped.bottleneck.stage) == ("device", "infer")
    assert [stage.name for stage in result.stages][-3:] == ["warm_up", "pipeline", "finish"]


def test_a_rate_above_capacity_is_an_overload_and_one_below_is_none(loaded: tuple[RunResult, PipelineResult]) -> None:
    result, found = loaded
    low, high = found.loads
    assert (low.of_capacity, high.of_capacity) == (pytest.approx(0.4), pytest.approx(3.0))
    assert high.overloaded and (high.p50_ns, high.p95_ns, high.p99_ns) == (None, None, None)
    assert (low.unfinished, low.first_ns is None) == (0, False)
    assert low.first_ns is not None and low.first_ns > 5e6, "an inference alone takes 5 ms"
    counts = {file.name: file.count for file in result.samples}
    assert counts["pipeline_load_0"] == low.arrivals - low.unfinished
    assert low.mean_batch < high.mean_batch <= 4


def test_one_pass_alone_and_rates_in_images_a_second(alone: Island) -> None:
    serial = nothing(replace(SMALL, mode="serial"))
    result, found = study(alone, serial, 4)
    assert found.overlapped is None and "pipeline_overlapped_per_s" not in result.metrics
    at = ArrivalSpec(per_s=(50.0,), process="uniform", duration_s=0.5)
    spec = replace(SMALL, mode="overlapped", decode_workers=3, preprocess_workers=2, arrival=at)
    result, found = study(alone, nothing(spec), 4)
    assert found.serial is None and found.overlapped is not None
    assert found.overlapped.speed_up is None and found.overlapped.bottleneck.confirmed is None
    assert {load.name: load.threads for load in found.overlapped.workers}["decode"] == 3
    assert (found.loads[0].offered_per_s, found.loads[0].arrivals) == (50.0, 25)


def test_a_folder_is_taken_as_it_lies_there(alone: Island, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for index, mode in enumerate(("RGB", "L", "CMYK")):
        (folder / f"class-{index}").mkdir(parents=True)
        (folder / f"class-{index}" / f"{index}.JPG").write_bytes(jpeg(40 + 20 * index, 60, mode))
    (folder / "notes.txt").write_text("not asked for")
    job = nothing(PipelineSpec(images=str(folder), count=6, mode="serial", duration_s=0.2), batch=2)
    _, found = study(alone, job, 2)
    assert found.images == 3
    assert found.images_bytes == sum(path.stat().st_size for path in folder.rglob("*.JPG"))


def is_png(folder: Path) -> None:
    jpeg_files.picture((1, 2), 32, 32).convert("RGB").save(folder / "b.jpg", "PNG")


def is_text(folder: Path) -> None:
    (folder / "b.jpg").write_text("hello")


def is_cut(folder: Path) -> None:
    (folder / "b.jpg").write_bytes(jpeg()[:-200])


def is_gone(folder: Path) -> None:
    (folder / "b.jpg").symlink_to(folder / "nowhere")


def is_empty(folder: Path) -> None:
    (folder / "b.jpg").write_bytes(b"")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a PNG": (is_png, "it is PNG, not JPEG"),
    "text": (is_text, "cannot identify"),
    "cut short": (is_cut, "truncated"),
    "a link to nothing": (is_gone, "No such file"),
    "empty": (is_empty, "cannot identify"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_a_file_that_is_no_jpeg_is_one_error_that_names_it(what: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    make, said = BAD[what]
    make(tmp_path)
    listed = sorted(str(path) for path in tmp_path.iterdir())
    with pytest.raises(jpeg_files.DataUnavailable, match=said) as found:
        jpeg_files.JpegFiles(listed)
    assert found.value.reference == "image-unreadable"
    assert str(tmp_path / "b.jpg") in found.value.message
    assert found.value.hint


@pytest.mark.parametrize(
    ("content", "reference", "said"),
    [
        ({}, "no-jpeg-files", "holds no JPEG file"),
        ({"a.png": b"x"}, "no-jpeg-files", "holds no JPEG file"),
        (None, "data-unavailable", "is not there"),
        ({"a.jpg": b"x"}, "image-unreadable", "a.jpg"),
    ],
)
def test_a_folder_that_cannot_be_used_ends_prepare(
    alone: Island, tmp_path: Path, content: dict[str, bytes] | None, reference: str, said: str
) -> None:
    folder = tmp_path / "photos"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    done = alone.run(nothing(PipelineSpec(images=str(folder))))
    result = done.failed("failed", reference)
    assert result.failure is not None
    assert said in result.failure.message and result.failure.stage == "images" and result.failure.hint


def test_what_cannot_be_an_image_is_refused(alone: Island) -> None:
    for shape in ((1, 8, 8), (16,)):
        alone.run(nothing(SMALL, shape=shape)).failed("unsupported", "input-shape-unsupported")


@pytest.mark.parametrize(("mode", "turned"), [("pipeline", True), ("accuracy", True), ("measure", False)])
def test_tensorflow_takes_the_farms_images_with_their_channels_last(mode: str, turned: bool) -> None:
    """Inputs that the farm measures with come to it turned already; images of a pipeline and of a test do not."""
    workflow: Any = TensorFlow.__new__(TensorFlow)
    workflow.ctx = SimpleNamespace(request=SimpleNamespace(mode=mode))
    workflow._source = SimpleNamespace(feed=lambda batch: [*batch, "turned"])
    workflow._tf = SimpleNamespace(constant=lambda batch: batch)
    assert workflow.to_device(["image"]) == (["image", "turned"] if turned else ["image"])


def test_a_failure_within_a_stage_is_the_runs(alone: Island) -> None:
    job = nothing(SMALL, behaviour="raise", stage="pipeline")
    alone.prepare(job)
    failed = alone.run(job, 4, mode="pipeline").result
    assert failed is not None and failed.failure is not None
    assert (str(failed.outcome), failed.failure.stage) == ("failed", "pipeline")


def test_the_made_pictures_are_the_same_each_time_and_as_large_as_photographs() -> None:
    first, again = jpeg_files.picture((0, 1), 500, 375), jpeg_files.picture((0, 1), 500, 375)
    assert first.tobytes() == again.tobytes() != jpeg_files.picture((0, 2), 500, 375).tobytes()
    kept = io.BytesIO()
    first.save(kept, "JPEG", quality=90)
    assert 0.3 < len(kept.getvalue()) / (500 * 375) < 0.7
