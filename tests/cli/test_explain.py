# SPDX-License-Identifier: Apache-2.0
"""`farm explain`: runs by id and by words, what has no table, both forms of output."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from farm.api import Farm
from farm.cli.main import cli
from farm.contract.codec import to_json
from farm.contract.layers import LAYERS_ARTIFACT, TENSORRT, LayerTable
from farm.contract.record import PIPELINE, BlobRef
from farm.errors import UsageError
from farm.settings import Settings
from farm.store.records import RecordStore
from tests.compare.stored import put, sweep
from tests.explain.tables import layer, table
from tests.report.test_pipeline import result as study_result

Type = Callable[..., Result]


@pytest.fixture
def run(settings: Settings) -> Type:
    def type_(*args: str) -> Result:
        given = ["--home", str(settings.home), *args]
        return CliRunner(env={"COLUMNS": "300"}).invoke(cli, given, standalone_mode=False)

    return type_


@pytest.fixture
def farm(settings: Settings) -> Farm:
    return Farm(settings=settings)


@pytest.fixture
def store(farm: Farm) -> Callable[..., str]:
    """Store a sweep of one or two batches whose records have this table; return its id."""

    def do(name: str, made: LayerTable | None, batch: str = "1", **fields: Any) -> str:
        farm.store.create()
        if made is not None:
            kept = farm.store.blobs.put_bytes(json.dumps(to_json(made)).encode())
            fields["artifacts"] = [BlobRef(LAYERS_ARTIFACT, kept.sha256, kept.size_bytes)]
        return put(farm, sweep(name, batch=batch), 1.0, **fields)

    return do


SLOW = table(layer("/c/Conv", 900, "/c/Conv", tactic="sgemm"), layer("/r/Relu", 100, "/r/Relu"), notes=("noted",))
FAST = table(layer("/c/Conv + /r/Relu", 200, "/c/Conv", "/r/Relu", precision="fp16", place=TENSORRT))


def test_a_run_is_shown_with_its_sum_its_notes_and_its_longest_rows(run: Type, store: Callable[..., str]) -> None:
    store("slow", SLOW)
    done = run("explain", "slow", "--top", "1")
    assert done.exception is None
    assert "rows together 1 ms, 1.000 times the measured median of 1 ms: within 10 %" in done.output
    assert "note: noted" in done.output
    assert "The 1 longest of 2 rows" in done.output
    assert "/r/Relu" not in done.output
    assert "outside of TensorRT" not in done.output


def test_two_runs_are_matched_and_what_differs_is_said(run: Type, store: Callable[..., str]) -> None:
    store("slow", SLOW)
    store("fast", FAST)
    done = run("explain", "slow", "fast")
    assert done.exception is None
    assert "new takes -0.8 ms; 100 % of the time is in matched parts" in done.output
    assert "2 rows fused into 1 in new; fp32 -> fp16" in done.output
    assert "outside of TensorRT: 0.0 %" in run("explain", "fast").output


def test_both_have_json_for_other_programs(run: Type, store: Callable[..., str], farm: Farm) -> None:
    store("slow", SLOW)
    store("fast", FAST)
    one = json.loads(run("explain", "slow", "--format", "json").output)
    assert (one["rows"], one["total"]["close"], one["top"][0]["name"]) == (2, True, "/c/Conv")
    two = json.loads(run("explain", "slow", "fast", "--format", "json").output)
    assert two["explaining"] == ["/c/Conv + 1 more"]
    assert two["parts"][0]["change_ns"] == -800e3
    assert farm.explain("slow", "fast").change_ns == -800e3
    assert farm.layers(one["run"]).table.sum_ns == 1e6


def test_words_single_out_a_run_of_a_sweep(run: Type, store: Callable[..., str]) -> None:
    store("both", SLOW, batch="1, 2")
    several = run("explain", "both").exception
    assert isinstance(several, UsageError)
    assert "stands for 2 profiled runs" in several.message
    assert len(several.problems) == 2
    assert several.hint is not None
    assert "both:onnxruntime_cpu:b1" in several.hint
    assert "batch 2" in run("explain", "both:b2").output


def test_a_run_without_a_table_says_why(run: Type, store: Callable[..., str]) -> None:
    failed = {"outcome": "unsupported", "failure": {"message": "it cannot tell"}}
    store("none", None, provenance={"profiles": {"layers": failed}})
    error = run("explain", "none").exception
    assert isinstance(error, UsageError)
    assert "unsupported, it cannot tell" in error.problems[0]
    assert error.hint is not None
    assert "profile: layers" in error.hint
    assert isinstance(run("explain", "nothing").exception, UsageError)


def test_a_study_of_the_pipeline_is_shown_by_stage(run: Type, farm: Farm) -> None:
    fields = {"point": PIPELINE, "effective": {"pipeline": to_json(study_result())}, "metrics": {}}
    put(farm, sweep("study", batch="1, 2"), 1.0, **fields)
    shown = run("explain", "study:b2").output
    assert "The bottleneck is inference" in shown
    assert "infer has 40 % of the time" in shown
    assert "at 120 images/s (120 % of capacity): overloaded" in shown
    assert "copy out" in shown and "queue in front" in shown
    told = json.loads(run("explain", "study:b2", "--format", "json").output)
    assert told["pipeline"]["overlapped"]["bottleneck"]["stage"] == "infer"
    several = run("explain", "study").exception
    assert isinstance(several, UsageError)
    assert "stands for 2 pipelines" in several.message and several.hint is not None


def test_the_records_of_a_sweep_are_read_once(
    run: Type, store: Callable[..., str], farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("slow", SLOW)
    read: list[object] = []
    whole = RecordStore.iterate
    monkeypatch.setattr(RecordStore, "iterate", lambda *given, **more: read.append(given) or whole(*given, **more))
    assert run("explain", "slow").exception is None
    assert len(read) == 1
