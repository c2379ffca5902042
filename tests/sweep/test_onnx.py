# SPDX-License-Identifier: Apache-2.0
"""ONNX files of a sweep: found beside it, whole, and known by their bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from farm.contract.canonical import sha256_file
from farm.errors import UsageError
from farm.sweep import SweepSpec, load_sweep


def write_onnx(path: Path, scale: float = 2.0, *, external: bool = False) -> None:
    weight = numpy_helper.from_array(np.full(256, scale, np.float32), "w")
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])]
    model = helper.make_model(helper.make_graph([node], "g", inputs, outputs, [weight]))
    onnx.save(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)


def load(directory: Path, written: str, **keys: object) -> SweepSpec:
    path = directory / "sweep.yaml"
    extra = "".join(f", {key}: {value}" for key, value in ({"input": "[256]"} | keys).items())
    path.write_text(f"name: a\nmodels:\n  - {{name: mine, onnx: {written!r}{extra}}}\nworkflows: [fake]\n")
    return load_sweep(path)


def problem(directory: Path, written: str, **keys: object) -> str:
    with pytest.raises(UsageError) as caught:
        load(directory, written, **keys)
    (told,) = caught.value.problems
    assert told.startswith(f"{directory}/sweep.yaml: $.models[0]")
    return told


def test_a_file_beside_the_sweep_is_found_and_known_by_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_onnx(tmp_path / "models" / "mine.onnx")
    spec = load(tmp_path, "models/mine.onnx")
    (model,) = spec.models
    digest = sha256_file(str(tmp_path / "models" / "mine.onnx"))
    assert (model.source, model.onnx_sha256, model.input_shape) == ("onnx", digest, (256,))
    assert spec.onnx_files == {digest: tmp_path / "models" / "mine.onnx"}


def test_the_id_follows_the_bytes_and_not_the_path(tmp_path: Path) -> None:
    write_onnx(tmp_path / "a.onnx")
    write_onnx(tmp_path / "b.onnx")
    write_onnx(tmp_path / "c.onnx", scale=3.0)
    ids = [load(tmp_path, name).sweep_id for name in ("a.onnx", "b.onnx", str(tmp_path / "a.onnx"), "c.onnx")]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_a_path_that_leaves_the_sweeps_directory_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write_onnx(tmp_path / "outside.onnx")
    (inside / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    (inside / "up").symlink_to(tmp_path)
    assert "`..`" in problem(inside, "../outside.onnx")
    assert "leads out of the sweep's directory" in problem(inside, "link.onnx")
    assert "leads out of the sweep's directory" in problem(inside, "up/outside.onnx")
    assert load(inside, str(tmp_path / "outside.onnx")).models[0].source == "onnx"


def test_what_is_no_whole_onnx_file_is_refused_with_one_clear_message(tmp_path: Path) -> None:
    write_onnx(tmp_path / "good.onnx")
    good = (tmp_path / "good.onnx").read_bytes()
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_bytes(b"this is no model\n")
    (tmp_path / "cut.onnx").write_bytes(good[: len(good) // 2])
    (tmp_path / "noise.onnx").write_bytes(os.urandom(1000))
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "the file is empty" in problem(tmp_path, "empty.onnx")
    for name in ("text.onnx", "cut.onnx", "noise.onnx"):
        assert "damaged or cut short" in problem(tmp_path, name)
    for name in ("folder.onnx", "pipe.onnx"):
        assert "not a regular file" in problem(tmp_path, name)
    assert "no such file" in problem(tmp_path, "missing.onnx")
    assert "cannot be read" in problem(tmp_path, "x" * 300)


def test_weights_in_other_files_are_refused_since_only_one_file_travels(tmp_path: Path) -> None:
    write_onnx(tmp_path / "split.onnx", external=True)
    assert "keeps weights in other files" in problem(tmp_path, "split.onnx")


def test_an_onnx_model_needs_its_input_and_brings_its_weights(tmp_path: Path) -> None:
    write_onnx(tmp_path / "good.onnx")
    assert "brings its own weights" in problem(tmp_path, "good.onnx", weights="default")
    (tmp_path / "sweep.yaml").write_text("name: a\nmodels: [{name: m, onnx: good.onnx}]\nworkflows: [fake]\n")
    with pytest.raises(UsageError) as caught:
        load_sweep(tmp_path / "sweep.yaml")
    assert "needs `input: [C, H, W]`" in caught.value.problems[0]


def test_without_the_onnx_package_the_first_byte_decides(tmp_path: Path) -> None:
    write_onnx(tmp_path / "good.onnx")
    (tmp_path / "text.onnx").write_bytes(b"this is no model\n")
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from pathlib import Path\nfrom farm.sweep.onnx_file import look_at\n"
        f"here = Path({str(tmp_path)!r})\nprint(look_at('good.onnx', here).checked)\n"
        "try: look_at('text.onnx', here)\nexcept ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["first byte", "not an ONNX model: it does not begin like one"]
