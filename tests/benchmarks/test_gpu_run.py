# SPDX-License-Identifier: Apache-2.0
"""The command for GPU hosts: a stack that needs PYTHONPATH is found in isolated mode, its other variables are kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.contract.catalogue import WORKFLOWS
from farm.contract.fit import unfit
from farm.settings import load_settings
from farm.sweep import load_sweep
from tests.docs.tables import ROOT


@pytest.fixture
def script(load_script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", "")
    return load_script("gpu/gpu_host.py")


def test_a_stack_with_an_environment_file_runs_isolated(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "only_here.py").write_text("ANSWER = 42\n")
    env_file = tmp_path / "env.sh"
    env_file.write_text(f"export PYTHONPATH={site} LD_LIBRARY_PATH='/a b:/c'\n")
    base = getattr(sys, "_base_executable", sys.executable)
    stack = script.stack_settings(f"trt={base},{env_file}", tmp_path)
    name, python, variables = stack
    assert (name, variables["LD_LIBRARY_PATH"]) == ("trt", "/a b:/c")
    assert "PYTHONPATH" not in variables
    done = subprocess.run(
        [python, "-I", "-c", "import only_here; print(only_here.ANSWER)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "42\n"
    monkeypatch.setenv("FARM_CONFIG", "")
    script.write_settings(tmp_path / "home", [stack], ["suspect_retries = 0"])
    settings = load_settings()
    assert (settings.home, settings.suspect_retries) == (tmp_path / "home", 0)
    assert (settings.stacks["trt"].python, settings.stacks["trt"].env) == (python, variables)


def test_a_stack_without_one_is_taken_as_it_is(script: Any, tmp_path: Path) -> None:
    assert script.stack_settings(f"own={sys.executable}", tmp_path) == ("own", sys.executable, {})


def test_large_blobs_and_the_index_stay_behind(script: Any) -> None:
    def member(name: str, size: int) -> Any:
        found = script.tarfile.TarInfo(name)
        found.size = size
        return found

    assert script._kept(member("store/blobs/a", 10), None)
    assert script._kept(member("store/blobs/a", 10), 10)
    assert not script._kept(member("store/blobs/a", 11), 10)
    assert not script._kept(member("store/index/runs.parquet", 1), None)


SWEEPS = sorted((ROOT / "benchmarks/gpu").glob("*/*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_for_gpu_hosts_can_be_read_and_its_cells_are_possible(path: Path) -> None:
    spec = load_sweep(path)
    for choice in spec.workflows:
        info = WORKFLOWS[choice.name]
        assert unfit(info, "gpu", choice.options, spec.protocol) is None
        assert "gpu" in info.device_kinds
