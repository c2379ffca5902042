# SPDX-License-Identifier: Apache-2.0
"""`farm compare` as a person types it, on a real store: tables, JSON, CSV, exit codes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from farm.api import Farm
from farm.cli.main import cli
from farm.errors import UsageError
from farm.settings import Settings
from tests.compare.stored import put, put_repeats, sweep
from tests.factories import make_flag

Type = Callable[..., Result]


@pytest.fixture
def farm(settings: Settings) -> Farm:
    """A store with two sweeps of five processes each; the second is slower."""
    made = Farm(settings)
    put_repeats(made, sweep("before"), 8.0)
    put_repeats(made, sweep("after"), 9.6, hour=0.5)
    return made


@pytest.fixture
def run(settings: Settings) -> Type:
    def type_(*args: str) -> Result:
        given = ["--home", str(settings.home), "compare", *args]
        return CliRunner().invoke(cli, given, standalone_mode=False)

    return type_


def test_the_table_says_what_is_compared_and_what_came_of_it(farm: Farm, run: Type) -> None:
    done = run("before", "after", "--repeats")
    assert done.exception is None
    lines = done.output.splitlines()
    assert lines[0] == "treatment: none: the same twice"
    assert lines[1] == "same software on both sides"
    assert "box-cpu" in lines
    (row,) = [line for line in lines if "resnet18/onnxruntime_cpu/fp32 b1" in line]
    assert row.split()[1:6] == ["b1", "8.016", "(5)", "9.619", "(5)"]
    assert row.rstrip().endswith("SLOWER")
    assert done.return_value == 0


@pytest.mark.parametrize(("sides", "code"), [(("before", "after"), 1), (("after", "before"), 0)])
def test_fail_on_slower_is_the_exit_code(farm: Farm, run: Type, sides: tuple[str, str], code: int) -> None:
    assert run(*sides, "--repeats", "--fail-on", "slower").return_value == code


def test_words_behind_a_sweep_stand_for_some_of_its_runs(farm: Farm, run: Type) -> None:
    whole = json.loads(run("before", "after", "--repeats", "--format", "json").output)["cells"]
    told = json.loads(run("before:b2", "after:b2:resnet18", "--repeats", "--format", "json").output)["cells"]
    assert (len(whole), len(told)) == (2, 1)
    both = [cell for cell in whole if cell["base"] == told[0]["base"]]
    assert [cell["new"] for cell in both] == [told[0]["new"]]
    assert both != whole


def test_words_that_no_run_has_are_an_error(farm: Farm, run: Type) -> None:
    failure = run("before:b3", "after").exception
    assert isinstance(failure, UsageError)
    assert failure.message == "'before:b3' has no runs to compare"
    assert "SWEEP:MODEL:WORKFLOW:PRECISION:bN:DEVICE" in str(failure.hint)


def test_one_process_each_is_unclear(farm: Farm, run: Type) -> None:
    done = run("before", "after", "--fail-on", "slower")
    assert "UNCLEAR" in done.output
    assert "one process each" in done.output
    assert done.return_value == 0


def test_json_has_every_process(farm: Farm, run: Type) -> None:
    told = json.loads(run("before", "after", "--repeats", "--format", "json").output)
    assert told["regressed"] is True
    cell = told["cells"][0]
    assert cell["verdict"] == "SLOWER"
    assert len(cell["base"]["processes"]) == 5
    assert cell["ratio"]["low"] < 1.2 < cell["ratio"]["high"]


def test_csv_has_one_line_a_cell(farm: Farm, run: Type) -> None:
    rows = list(csv.DictReader(io.StringIO(run("before", "after", "--repeats", "--format", "csv").output)))
    assert [(row["batch"], row["verdict"], row["base_processes"]) for row in rows] == [
        ("1", "SLOWER", "5"),
        ("2", "SLOWER", "5"),
    ]
    assert float(rows[0]["ratio"]) == pytest.approx(1.2)


def test_flags_show_as_flags_and_can_be_accepted(settings: Settings, run: Type) -> None:
    farm = Farm(settings)
    put_repeats(farm, sweep("before"), 8.0)
    put_repeats(farm, sweep("after"), 9.6, hour=0.5, flags=[make_flag("host_busy")])
    flagged = run("before", "after", "--repeats")
    assert "9.619* (5)" in flagged.output
    assert "no process of new is without a flag (host_busy)" in flagged.output
    accepted = run("before", "after", "--repeats", "--accept", "host_busy")
    assert "SLOWER" in accepted.output
    assert "taken as sound in spite of these flags: host_busy" in accepted.output


def test_what_is_left_out_is_listed_with_its_reason(farm: Farm, run: Type) -> None:
    put(farm, sweep("more", batch="1, 2, 4"), 8.0, hour=9)
    output = run("before", "more").output
    assert "Not compared" in output
    assert "only in new; the nearest in base differs in batch (4 here, 1 there)" in output


def test_a_cell_that_broke_fails_too(farm: Farm, run: Type) -> None:
    from farm.contract.outcome import Outcome

    put(farm, sweep("broken"), 8.0, hour=9, outcome=Outcome.CRASHED)
    done = run("before", "broken", "--fail-on", "slower")
    assert "new crashed: it did not work" in done.output
    assert done.return_value == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("before", "after", "--metric", "latency"), "no metric"),
        (("before", "after", "--threshold", "0"), "threshold"),
        (("before", "after", "--treatment", "batch"), "cannot be the treatment"),
        (("before", "after.yaml"), "after.yaml is a file"),
        (("a.yaml", "b.yaml", "--measure", "--repeats"), "nothing to choose"),
        (("nope.yaml", "b.yaml", "--measure"), "nope.yaml"),
    ],
)
def test_mistakes_are_named(farm: Farm, run: Type, args: tuple[str, ...], told: str) -> None:
    done: Any = run(*args)
    assert isinstance(done.exception, UsageError)
    assert told in done.exception.message
