# SPDX-License-Identifier: Apache-2.0
"""The probe tells what an interpreter has, and survives whatever it finds there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from farm.contract.codec import from_json
from farm.contract.device import StackInfo
from tests.island.harness import require_python

_BROKEN = {
    "onnx": "raise ImportError('libfancy.so.9: cannot open shared object file\\nsecond line: the cause')",
    "openvino": "import sys; sys.exit('this library ends the process')",
    "tensorrt": "__version__ = '8.5.2'",
    "torch": "import sys; print('hello from a library'); __version__ = '1.0'",
    "onnxruntime": "__version__ = '1.19.2'\ndef get_available_providers(): return ['CPUExecutionProvider']",
}


def _probe(python: Path, bundle: Path, out: Path) -> tuple[StackInfo, subprocess.CompletedProcess[str]]:
    done = subprocess.run(
        [python, "-I", bundle, "--probe", out], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return from_json(StackInfo, json.loads(out.read_text())), done


@pytest.fixture(scope="module")
def odd_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of its own whose libraries are odd in several ways."""
    home = tmp_path_factory.mktemp("stack")
    subprocess.run([require_python("3.8"), "-m", "venv", "--without-pip", home], check=True, timeout=120)
    (site,) = home.glob("lib/python3.8/site-packages")
    for name, text in _BROKEN.items():
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(text)
    (site / "pycuda").mkdir()
    return home / "bin/python"


def test_a_bare_interpreter_has_no_libraries_and_no_problems(
    bundle: Path, foreign_python: Path, tmp_path: Path
) -> None:
    info, _ = _probe(foreign_python, bundle, tmp_path / "out.json")
    assert (info.libraries, info.problems) == ({}, {})
    assert info.python == str(foreign_python)
    assert info.python_version.startswith(("3.8.", "3.10."))
    assert info.features["cpu_count"] >= 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_libraries_have_the_version_they_say_themselves(bundle: Path, odd_stack: Path, tmp_path: Path) -> None:
    info, _ = _probe(odd_stack, bundle, tmp_path / "out.json")
    assert info.libraries == {"tensorrt": "8.5.2", "torch": "1.0", "onnxruntime": "1.19.2"}
    assert info.features["onnxruntime_providers"] == ["CPUExecutionProvider"]


def test_a_library_that_cannot_be_imported_is_a_problem_with_its_last_line(
    bundle: Path, odd_stack: Path, tmp_path: Path
) -> None:
    info, _ = _probe(odd_stack, bundle, tmp_path / "out.json")
    assert info.problems["onnx"] == "ImportError: second line: the cause"
    assert info.problems["openvino"] == "SystemExit: this library ends the process"
    assert "only a folder" in info.problems["pycuda"]
    assert "torch features" in info.problems, "this torch has no cuda module to ask"


def test_what_libraries_print_stays_out_of_standard_output(bundle: Path, odd_stack: Path, tmp_path: Path) -> None:
    _, done = _probe(odd_stack, bundle, tmp_path / "out.json")
    assert done.stdout == ""
    assert "hello from a library" in done.stderr


_GPU_RUNTIME = """
import os, sys
__version__ = "1.20.0"
class InferenceSession:
    def __init__(self, model, options=None, providers=None):
        self._enable_fallback = True
        self._create_inference_session(providers)
    def _create_inference_session(self, providers):
        name = providers[0][0]
        if name.startswith("Tensorrt"):
            os.kill(os.getpid(), 11)
        os.write(2, b"[E] Failed to load library libcuda_part.so with error: libcublas.so.12: cannot open\\n")
        self._providers = ["CPUExecutionProvider"]
    def get_providers(self):
        return self._providers
def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
"""


def test_providers_that_are_listed_and_do_not_load_are_told_apart_and_cannot_end_the_probe(
    bundle: Path, tmp_path: Path
) -> None:
    home = tmp_path / "stack"
    subprocess.run([require_python("3.8"), "-m", "venv", "--without-pip", home], check=True, timeout=120)
    (site,) = home.glob("lib/python3.8/site-packages")
    (site / "onnxruntime").mkdir()
    (site / "onnxruntime/__init__.py").write_text(_GPU_RUNTIME)
    info, _ = _probe(home / "bin/python", bundle, tmp_path / "out.json")
    assert info.features["onnxruntime_providers_loadable"] == ["CPUExecutionProvider"]
    assert info.features["onnxruntime_providers_loadable_problems"] == {
        "CUDAExecutionProvider": ("Failed to load library libcuda_part.so with error: libcublas.so.12: cannot open"),
        "TensorrtExecutionProvider": "loading it ended the process with code -11",
    }
    assert info.problems == {}, "CPU workflows of the stack still run"
