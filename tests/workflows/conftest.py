# SPDX-License-Identifier: Apache-2.0
"""The island in this interpreter, which has torch and ONNX Runtime, with one cache for the whole session."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.job import JobSpec, ModelSpec
from tests.island.harness import Island, model_job, stage_bundle
from tests.once import made_once, run_directory
from tests.workflows.onnx_models import save_model

GiveModel = Callable[..., JobSpec]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Island:
    """One cache for all tests of real models, in all processes: preparing a model twice would only cost time."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    directory = tmp_path_factory.mktemp("models")
    cache = made_once(run_directory(tmp_path_factory) / "models-cache", Path.mkdir)
    (directory / "cache").symlink_to(cache)
    return Island(stage_bundle(directory / "bundle"), directory, Path(sys.executable))


@pytest.fixture
def alone(shared: Island, tmp_path: Path) -> Island:
    """The same bundle with an empty cache."""
    return Island(shared.bundle, tmp_path, shared.python)


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., tuple[JobSpec, Path]]:
    """Write an ONNX file and make the job that runs it: `given(precision=..., input_shape=..., **what to write)`."""

    def give(precision: str = "fp32", input_shape: tuple[int, ...] = (3, 16, 16), **what: Any) -> tuple[JobSpec, Path]:
        path = save_model(tmp_path / "given.onnx", **what)
        model = ModelSpec("mine", "onnx", input_shape, onnx_sha256=sha256_file(str(path)))
        return model_job(model, "onnxruntime_cpu", precision), path

    return give
