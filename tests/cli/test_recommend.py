# SPDX-License-Identifier: Apache-2.0
"""`farm recommend` as a person types it, on a real store: text, JSON, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from farm.api import Farm
from farm.cli.main import cli
from farm.errors import UsageError
from farm.settings import Settings
from tests.compare.stored import put_repeats, sweep

Type = Callable[..., Result]


@pytest.fixture
def run(settings: Settings) -> Type:
    """A store with five processes of two ways, 8 ms and 9.6 ms at batch 1."""
    farm = Farm(settings)
    put_repeats(farm, sweep("openvino", workflow="openvino"), 8.0)
    put_repeats(farm, sweep("onnxruntime"), 9.6, hour=0.5)

    def type_(*args: str) -> Result:
        given = ["--home", str(settings.home), "recommend", "--model", "resnet18", "--device", "cpu-test", *args]
        return CliRunner().invoke(cli, given, standalone_mode=False)

    return type_


def test_the_answer_names_the_way_the_margin_and_the_runner_up(run: Type) -> None:
    done = run("--max-latency-ms", "9", "--batch", "1")
    assert done.exception is None and done.return_value == 0
    first, margin, *rest = done.output.splitlines()
    assert first.startswith("decided: openvino fp32, batch 1: 8.016 ms")
    assert "at most 9 ms: 10.9 %" in margin
    assert "ruled out: 1 by latency" in rest


@pytest.mark.parametrize(("limit", "status"), [("1", "nothing fits"), ("8.02", "undecided")])
def test_what_cannot_be_decided_ends_with_one(run: Type, limit: str, status: str) -> None:
    done = run("--max-latency-ms", limit, "--batch", "1")
    assert done.return_value == 1 and done.output.startswith(status)


def test_json_has_everything(run: Type) -> None:
    found = json.loads(run("--batch", "1", "--format", "json").output)
    assert found["decided"] is True and found["goal"] == "latency"
    assert found["chosen"]["workflow"] == "openvino" and len(found["chosen"]["readings"]["latency"]["runs"]) == 5
    assert found["runner_up"]["candidate"]["workflow"] == "onnxruntime_cpu"
    assert found["runner_up"]["worse"] == pytest.approx(0.2, abs=0.01)


def test_only_the_sweeps_that_are_named_are_looked_at(run: Type) -> None:
    found = json.loads(run("onnxruntime", "--batch", "1", "--format", "json").output)
    assert found["chosen"]["workflow"] == "onnxruntime_cpu" and found["runner_up"] is None


def test_a_model_that_is_not_there_is_named_with_the_nearest(run: Type) -> None:
    error = run("--model", "resnet19").exception
    assert isinstance(error, UsageError) and "resnet18" in str(error.hint)
