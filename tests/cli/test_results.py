# SPDX-License-Identifier: Apache-2.0
"""`farm results` and what watchers see, where points were measured in several processes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from farm.api import Farm
from farm.cli.live import running_line
from farm.cli.main import cli
from farm.contract.outcome import Outcome
from farm.contract.record import BlobRef, Interval, ProcessFacts
from farm.progress import Running
from farm.settings import Settings
from scheduler.predict import predicted_s
from tests.compare.stored import put, sweep
from tests.factories import make_job

Type = Callable[..., Result]


@pytest.fixture
def run(settings: Settings) -> Type:
    def type_(*args: str) -> Result:
        given = ["--home", str(settings.home), *args]
        done = CliRunner(env={"COLUMNS": "300"}).invoke(cli, given, standalone_mode=False)
        assert done.exception is None
        return done

    return type_


@pytest.fixture
def farm(settings: Settings) -> Farm:
    """A point of one process, and one of three with their samples."""
    made = Farm(settings)
    made.store.create()
    span = Interval(8.0, 8.5, 0.95, "order statistics", "within this run")
    put(made, sweep("alone", batch="1"), 8.25, intervals={"latency_ms": span})
    between = Interval(8.0, 8.6, 0.75, "range of 3 medians", "between 3 processes")
    kept = [made.store.blobs.put_bytes(i.to_bytes(8, "little")) for i in (1, 2, 3)]
    refs = [BlobRef("samples:latency", info.sha256, 8, unit="ns", count=1, process=i) for i, info in enumerate(kept, 1)]
    facts = [ProcessFacts(i, Outcome.OK, "a", "b") for i in (1, 2, 3)]
    put(
        made,
        sweep("three", batch="2"),
        8.25,
        intervals={"latency_ms": between},
        processes=facts,
        samples=refs,
    )
    return made


def test_results_tell_how_many_processes_and_what_the_intervals_cover(farm: Farm, run: Type) -> None:
    shown = run("results").output
    assert "processes" in shown.splitlines()[0]
    assert "75 % between 3 processes, 95 % within this run" in shown.splitlines()[-1]
    rows = list(csv.DictReader(io.StringIO(run("results", "--format", "csv").output)))
    told = {row["sweep"]: (row["processes"], row["latency_scope"], row["latency_confidence"]) for row in rows}
    assert told == {"alone": ("1", "within this run", "0.95"), "three": ("3", "between 3 processes", "0.75")}


def test_results_of_single_processes_are_labelled_as_such(farm: Farm, run: Type) -> None:
    shown = run("results", "alone").output.splitlines()
    assert "processes" not in shown[0]
    assert shown[-1] == "latency_low_ms to latency_high_ms: 95 % within this run"


def test_the_samples_of_all_processes_are_read_and_listed_with_their_number(farm: Farm, run: Type) -> None:
    (record,) = farm.records("three")
    assert farm.samples(record) == [1, 2, 3]  # type: ignore[arg-type]
    listed = run("artifacts", "ls", "three").output
    assert all(f"samples:latency ({i})" in listed for i in (1, 2, 3))
    rows = json.loads(run("artifacts", "ls", "three", "--format", "json").output)
    assert [row["process"] for row in rows] == [1, 2, 3]


def test_watchers_see_which_process_is_made() -> None:
    at = Running("j", "resnet18/pytorch/fp32", "box-cpu", "measure", 2, 2, 3, None, 0.4, "process 3 of 5")
    assert running_line(at) == "resnet18/pytorch/fp32 on box-cpu: batch 2 (2 of 3), process 3 of 5, measure 40%"
    assert "process" not in running_line(replace(at, process=None))


def test_a_point_of_several_processes_is_expected_to_take_as_long_as_all_of_them() -> None:
    one = make_job()
    five = make_job(protocol=replace(one.protocol, processes=5))
    bare = predicted_s(replace(one, batches=replace(one.batches, sizes=())))
    assert predicted_s(five) - bare == pytest.approx(5 * (predicted_s(one) - bare))
