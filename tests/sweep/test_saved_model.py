# SPDX-License-Identifier: Apache-2.0
"""SavedModels and models of Keras in a sweep: found, packed, known by their bytes, and never torchvision's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from farm.contract.canonical import sha256_file
from farm.sweep import SweepSpec, load_sweep, parse_sweep

Faults = Callable[..., list[str]]


def write(directory: Path, graph: bytes = b"\x08\x01graph") -> Path:
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(graph)
    (directory / "variables/variables.index").write_bytes(b"index")
    (directory / "variables/variables.data-00000-of-00001").write_bytes(b"weights")
    return directory


def load(directory: Path, written: str) -> SweepSpec:
    path = directory / "sweep.yaml"
    model = f"{{name: mine, saved_model: {written!r}, input: [8, 8, 3]}}"
    path.write_text(f"name: a\nmodels: [{model}]\nworkflows: [tensorflow]\n")
    return load_sweep(path)


def test_a_directory_is_packed_and_known_by_its_bytes_and_not_by_its_place_or_dates(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name)
    os.utime(tmp_path / "two/saved_model.pb", (0, 0))
    write(tmp_path / "three", b"\x08\x01another graph")
    specs = [load(tmp_path, name) for name in ("one", "two", "three")]
    (model,) = specs[0].models
    assert (model.source, model.input_shape) == ("saved_model", (8, 8, 3))
    assert model.weights == f"sha256:{model.onnx_sha256}"
    ((digest, path),) = specs[0].onnx_files.items()
    assert digest == model.onnx_sha256 == sha256_file(str(path))
    assert specs[0].sweep_id == specs[1].sweep_id != specs[2].sweep_id


def test_what_is_no_saved_model_is_told_at_its_key(tmp_path: Path, faults: Faults) -> None:
    def told(written: str, **more: object) -> str:
        keys = {"name": "mine", "saved_model": written, "input": [8, 8, 3]} | more
        (problem,) = faults(models=[{key: value for key, value in keys.items() if value is not None}])
        return problem

    good = str(write(tmp_path / "good"))
    (tmp_path / "empty").mkdir()
    (write(tmp_path / "cut") / "variables/variables.index").unlink()
    (write(tmp_path / "link") / "outside").symlink_to("/etc/hostname")
    assert "no such file" in told(str(tmp_path / "nowhere"))
    assert "a directory, and this is none" in told(good + "/saved_model.pb")
    assert "has no saved_model.pb" in told(str(tmp_path / "empty"))
    assert "it is cut short" in told(str(tmp_path / "cut"))
    assert "leads out of the directory" in told(str(tmp_path / "link"))
    assert "needs `input: [H, W, C]`" in told(good, input=None)
    assert "brings its own weights" in told(good, weights="random:1")
    assert "either `onnx` or `saved_model`" in told(good, onnx="a.onnx").splitlines()[0]


def test_a_model_of_keras_has_a_name_and_a_source_of_its_own(faults: Faults) -> None:
    text = "name: a\nmodels: [keras_resnet50, keras_inception_v3, resnet50]\nworkflows: [tensorflow, pytorch]\n"
    models = parse_sweep(text, "here").models
    assert [(m.name, m.source) for m in models] == [
        ("keras_resnet50", "keras"), ("keras_inception_v3", "keras"), ("resnet50", "torchvision"),
    ]  # fmt: skip
    assert [m.input_shape[1] for m in models] == [224, 299, 224]
    (problem,) = faults(models=[{"name": "keras_vgg16", "weights": "default"}])
    assert "`random:SEED` alone" in problem
    (unknown,) = faults(models=["keras_resnet18"])
    assert "keras_" in unknown


@pytest.mark.parametrize("option", ["workspace_mib", "minimum_segment_size"])
def test_options_of_tf_trt_have_a_lower_limit(faults: Faults, option: str) -> None:
    (problem,) = faults(models=["keras_vgg16"], workflows=[{"name": "tf_trt", option: 0}])
    assert option in problem
