# SPDX-License-Identifier: Apache-2.0
"""The control directory as files: events, samples, the result."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from farm.contract.outcome import Outcome
from farm.contract.run import RunResult
from workers.runner.control import Control, write_json


def _lines(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


def test_a_stage_that_fails_is_ended_too_and_named(tmp_path: Path) -> None:
    control = Control(str(tmp_path))
    with pytest.raises(KeyError), control.stage("build"):
        raise KeyError("x")
    assert control.failed_stage == "build"
    assert [(line["kind"], line["stage"]) for line in _lines(tmp_path)] == [
        ("stage_start", "build"),
        ("stage_end", "build"),
    ]


def test_the_first_stage_that_failed_keeps_the_blame(tmp_path: Path) -> None:
    control = Control(str(tmp_path))
    for name in ("export", "finish"):
        with pytest.raises(ValueError, match=name), control.stage(name):
            raise ValueError(name)
    assert control.failed_stage == "export"


def test_events_are_on_disk_as_soon_as_they_happen(tmp_path: Path) -> None:
    control = Control(str(tmp_path))
    with control.stage("calibrate"):
        assert _lines(tmp_path)[-1]["kind"] == "stage_start"
        control.progress(0.25)
        assert _lines(tmp_path)[-1] == _lines(tmp_path)[-1] | {"kind": "progress", "fraction": 0.25}


def test_progress_outside_of_stages_is_not_told(tmp_path: Path) -> None:
    control = Control(str(tmp_path))
    control.progress(0.5)
    assert _lines(tmp_path) == []


@pytest.mark.parametrize("name", ["lunch", ""])
def test_stages_have_the_contracts_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="stage"), Control(str(tmp_path)).stage(name):
        pass


def test_stages_do_not_nest(tmp_path: Path) -> None:
    control = Control(str(tmp_path))
    with control.stage("build"), pytest.raises(ValueError, match="inside 'build'"), control.stage("export"):
        pass


def test_samples_are_little_endian_64_bit_integers(tmp_path: Path) -> None:
    file = Control(str(tmp_path)).write_samples("latency", array("q", [1, -2, 2**40]))
    data = (tmp_path / file.path).read_bytes()
    assert data == b"".join(n.to_bytes(8, "little", signed=True) for n in (1, -2, 2**40))
    assert (file.name, file.count, file.unit) == ("latency", 3, "ns")


def test_a_result_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    control = Control(str(tmp_path))
    for outcome in (Outcome.FAILED, Outcome.OK):
        control.write_result(RunResult("r", outcome))
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "ok"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "result.json"]


def test_a_value_that_json_has_no_word_for_never_reaches_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(str(tmp_path / "result.json"), {"latency": float("nan")})
    assert not (tmp_path / "result.json").exists()
