# SPDX-License-Identifier: Apache-2.0
"""Prepared files that a job pins, with real quantised models: they run as they were recorded, or nothing does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.job import JobSpec
from farm.contract.run import ArtifactFile, PinnedFile
from tests.island.harness import Island, artifact
from workers.workflows.pins import unlike

Given = Callable[..., tuple[JobSpec, Path]]
KIND = "onnx_int8"


def made(island: Island, job: JobSpec, file: Path) -> ArtifactFile:
    """The quantised model that the job makes."""
    return artifact(island.prepare(job, model_file=file), KIND)


def another(of: ArtifactFile, directory: Path) -> PinnedFile:
    """A model that computes the same and has other bytes, as another build of it has, with its manifest."""
    onnx = pytest.importorskip("onnx")
    directory.mkdir()
    path, kept = directory / "model.onnx", directory / "manifest.json"
    model = onnx.load(of.path)
    model.producer_version = "another build"
    onnx.save(model, str(path))
    manifest = json.loads(Path(str(of.manifest)).read_text())
    manifest |= {"sha256": sha256_file(str(path)), "size_bytes": path.stat().st_size, "build_s": 12.5}
    kept.write_text(json.dumps(manifest))
    return PinnedFile(KIND, str(path), manifest["sha256"], str(kept))


@pytest.mark.parametrize("workflow", ["onnxruntime_cpu", "openvino"])
def test_the_pinned_model_runs_and_none_is_built(
    alone: Island, shared: Island, given: Given, tmp_path: Path, workflow: str
) -> None:
    pytest.importorskip(workflow.partition("_")[0])
    job, file = given("int8")
    job = dataclasses.replace(job, workflow=workflow)
    first = made(alone, job, file)
    assert not first.pinned
    pin = another(first, tmp_path / "pinned")
    fresh = Island(alone.bundle, tmp_path / "fresh", alone.python)
    fresh.directory.mkdir()
    prepared = fresh.prepare(job, model_file=file, pinned=[pin])
    measured = fresh.measure(job, model_file=file, pinned=[pin])
    for result in (prepared, measured):
        used = artifact(result, KIND)
        assert (used.sha256, used.pinned, used.cached, used.path) == (pin.sha256, True, True, pin.path)
    assert measured.effective["precision"] == "int8"
    assert measured.effective["quantized_nodes"]["share"] > 0
    assert measured.mismatch
    assert not (fresh.directory / "cache" / KIND).exists()


def test_a_model_that_was_made_for_something_else_is_refused_with_what_differs(
    alone: Island, given: Given, tmp_path: Path
) -> None:
    job, file = given("int8")
    pin = another(made(alone, job, file), tmp_path / "pinned")
    other = dataclasses.replace(job, options={"per_channel": False})
    failed = alone.run(other, model_file=file, pinned=[pin]).failed("failed", "pin-refused")
    assert failed.failure is not None
    assert "per_channel: needed False, there True" in failed.failure.message


@pytest.mark.parametrize("damage", ["bytes", "manifest", "digest"])
def test_a_model_that_is_not_what_was_recorded_is_refused(
    alone: Island, given: Given, tmp_path: Path, damage: str
) -> None:
    job, file = given("int8")
    pin = another(made(alone, job, file), tmp_path / "pinned")
    if damage == "bytes":
        Path(pin.path).write_bytes(Path(pin.path).read_bytes() + b" ")
    elif damage == "manifest":
        Path(pin.manifest).write_text('{"kind": "onnx_int8"}')
    else:
        pin = dataclasses.replace(pin, sha256="0" * 64)
    failed = alone.run(job, model_file=file, pinned=[pin]).failed("failed", "pin-refused")
    assert failed.failure is not None
    assert "cannot be used" in failed.failure.message


def test_only_what_a_build_is_may_differ() -> None:
    key = {"onnx": "aa", "platform": {"driver": "1"}, "recipe": 1, "from": {"recipe": 1}, "rebuild": {"job": "x"}}
    assert unlike(key, {"onnx": "aa", "platform": {"driver": "1"}, "recipe": 2, "from": {"recipe": 3}}) == []
    (part,) = unlike(key, key | {"platform": {"driver": "2"}})
    assert part == ("platform.driver", "1", "2")
