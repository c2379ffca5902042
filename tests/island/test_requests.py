# SPDX-License-Identifier: Apache-2.0
"""What goes into a runner is read strictly; what it cannot do is a result, not a crash."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.codec import to_json
from farm.contract.run import RunRequest
from tests.factories import DEVICE
from tests.island.harness import Island, fake_job, find_python, with_protocol


def _document(**changes: Any) -> dict[str, Any]:
    request = RunRequest("run-1", "measure", fake_job(), DEVICE, "/nowhere", 1)
    document: dict[str, Any] = to_json(request)
    return document | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"batch_size": "one"}, "$.batch_size"),
        ({"mode": "guess"}, "no mode 'guess'"),
        ({"batch_size": None}, "no batch size"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_place(
    island: Island, changes: dict[str, Any], said: str
) -> None:
    finished = island.finish(island.start_document(_document(**changes)))
    result = finished.failed("failed", "bad-request")
    assert result.run_id == "run-1"
    assert result.failure is not None
    assert said in result.failure.message


def test_a_request_that_is_no_json_still_gets_a_result(island: Island) -> None:
    result = island.finish(island.start_document('{"run_id": "ru')).failed("failed", "bad-request")
    assert result.failure is not None
    assert (result.failure.stage, result.run_id) == ("start", "")


def test_a_workflow_that_does_not_exist_is_unsupported_and_the_hint_lists_those_that_do(island: Island) -> None:
    result = island.run(replace(fake_job(), workflow="abacus"), 1).failed("unsupported", "unknown-workflow")
    assert result.failure is not None
    assert "onnxruntime_cpu" in (result.failure.hint or "")


def test_a_precision_that_the_workflow_lacks_is_unsupported(island: Island) -> None:
    island.run(replace(fake_job(), precision="tf32"), 1).failed("unsupported", "precision-unsupported")


def test_a_library_that_the_stack_lacks_is_unsupported_with_its_name(island: Island) -> None:
    job = replace(fake_job(), workflow="pytorch", options={}, model=replace(fake_job().model, source="torchvision"))
    job = replace(job, model=replace(job.model, name="resnet18"))
    result = island.run(job, 1).failed("unsupported", "missing-library")
    assert result.failure is not None
    assert "torch" in result.failure.message


def test_threads_are_those_of_the_protocol(island: Island) -> None:
    assert island.run(with_protocol(fake_job(), threads=3), 1).ok().effective["threads"] == 3


def test_an_unknown_boundary_is_refused(island: Island) -> None:
    island.run(with_protocol(fake_job(), boundary="inner"), 1).failed("failed", "bad-request")


def test_wrong_arguments_print_the_usage_and_exit_two(bundle: Path, foreign_python: Path) -> None:
    for arguments in ([], ["--probe"], ["a", "b"], ["--help"]):
        done = subprocess.run(
            [foreign_python, "-I", bundle, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 2
        assert "usage:" in done.stderr


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_an_interpreter_that_is_too_old_says_so_and_exits_97(bundle: Path, version: str, tmp_path: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} here; it is wanted only to see it refused")
    isolated = [] if version == "2.7" else ["-I"]
    done = subprocess.run(
        [python, *isolated, bundle, tmp_path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 97
    assert "needs Python 3.8" in done.stderr
    assert not list(tmp_path.iterdir())
