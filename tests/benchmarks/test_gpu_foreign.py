# SPDX-License-Identifier: Apache-2.0
"""The check of a foreign process on a GPU: its judgement, and how the process is handled. No GPU is claimed here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from farm.contract.outcome import Failure, Outcome
from farm.contract.record import Flag, Record
from farm.contract.run import StageTime
from farm.sweep import parse_sweep
from tests.factories import make_record

STAGE = StageTime("measure", 10**10, 3 * 10**10)
FOREIGN = Flag("foreign_process", "invalid", "2 processes had the GPU in use")
#: As the check's own, with the processor for a GPU.
ON_CPU = """
import sys, time
if not sys.stdin.readline():
    sys.exit("never told")
print(time.monotonic_ns(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def script(load_script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", "")
    return load_script("gpu/foreign.py")


def record(script: Any, **changes: Any) -> Record:
    """A run on a GPU that nothing speaks against."""
    sound = {
        "outcome": Outcome.OK,
        "flags": [],
        "stages": [STAGE],
        "metrics": {"energy_per_input_j": 0.02, "energy_trace_per_input_j": 0.021},
        "provenance": {"telemetry": {"channels": list(script.CHANNELS)}},
    }
    return make_record(**(sound | changes))


def test_a_sound_run_alone_and_an_invalid_one_disturbed_are_as_they_should_be(script: Any) -> None:
    assert script.problems_alone(record(script)) == []
    assert script.problems_disturbed(record(script, flags=[FOREIGN]), 2 * 10**10) == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"flags": [FOREIGN]}, "flag foreign_process"),
        ({"flags": [Flag("foreign_process", "suspect", "x")]}, "flag foreign_process"),
        ({"flags": [Flag("settings_changed", "invalid", "x")]}, "flag settings_changed"),
        ({"provenance": {"telemetry": {"channels": ["load"]}}}, "no telemetry of processes"),
        ({"metrics": {}, "withheld": {"energy_per_input_j": "the stage took 2 s"}}, "the stage took 2 s"),
        ({"outcome": Outcome.FAILED, "failure": Failure("load", "x", "no torch", None)}, "no torch"),
    ],
)
def test_what_is_wrong_with_a_run_alone_is_named(script: Any, changes: dict[str, Any], part: str) -> None:
    assert part in "\n".join(script.problems_alone(record(script, **changes)))


@pytest.mark.parametrize(
    ("flags", "at_work_ns", "part"),
    [
        ([], 2 * 10**10, "flag foreign_process is absent"),
        ([Flag("foreign_process", "suspect", "x")], 2 * 10**10, "flag foreign_process is suspect"),
        ([FOREIGN], None, "not at work"),
        ([FOREIGN], 10**10 - 1, "not at work"),
        ([FOREIGN], 3 * 10**10 - 10**9, "not at work"),
    ],
)
def test_a_disturbed_run_must_be_invalid_for_a_process_within_its_timed_stage(
    script: Any, flags: list[Flag], at_work_ns: int | None, part: str
) -> None:
    (problem,) = script.problems_disturbed(record(script, flags=flags), at_work_ns)
    assert part in problem


def test_the_foreign_process_begins_when_it_is_told_to_and_ends_with_its_input(script: Any) -> None:
    before = time.monotonic_ns()
    foreign = script.Foreign(sys.executable, {}, ON_CPU)
    foreign.begin()
    foreign.begin()
    at_work_ns, complaint = foreign.end()
    assert before < at_work_ns < time.monotonic_ns()
    assert complaint == ""


def test_a_foreign_process_that_never_worked_says_why(script: Any) -> None:
    assert script.Foreign(sys.executable, {}, ON_CPU).end() == (None, "never told\n")
    broken = script.Foreign(sys.executable, {}, "raise SystemExit('no CUDA here')")
    broken.begin()
    assert broken.end() == (None, "no CUDA here\n")


def test_its_sweep_is_one_and_tells_of_everything(script: Any) -> None:
    spec = parse_sweep(script.SWEEP.format(name="alone", device="box-gpu0123"), "x")
    assert spec.protocol.min_s > script.SEEN_WITHIN_NS / 1e9 + 10
    lines = "\n".join(script.told("alone", record(script, flags=[FOREIGN])))
    assert "foreign_process (invalid)" in lines
    assert "energy counter over integrated power: 0.952" in lines
    assert "telemetry.channels" in lines
