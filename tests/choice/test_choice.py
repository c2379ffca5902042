# SPDX-License-Identifier: Apache-2.0
"""What is recommended under limits, by which margins, and when nothing can be: made-up records only."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from farm.choice import Limits, Recommendation, Status, candidates_of, front, recommend, worlds_of
from farm.choice import words as choice_words
from farm.contract.job import ModelSpec
from farm.contract.record import Record
from farm.errors import UsageError
from tests.factories import make_flag, make_ref
from tests.findings.made import GPU, SMALL, evaluated, timed

STEADY = [0.998, 0.999, 1.0, 1.001, 1.002]
MODEL = ModelSpec("resnet18", weights="default")


def way(ms: float, batch: int = 1, *, mb: float | None = 500.0, joule: float | None = None, **given: Any) -> Record:
    """Five steady processes of one way, with its throughput, memory and energy."""
    metrics = {"throughput_per_s": 1000 * batch / ms, "energy_per_input_j": joule}
    if mb is not None:
        metrics |= {"gpu_memory_before_bytes": 1e8, "gpu_memory_peak_bytes": 1e8 + mb * 1e6}
    values = [ms * share for share in STEADY]
    return timed(values, batch=batch, metrics=metrics, **({"model": MODEL} | given))


def fp16(ms: float, batch: int = 1, **given: Any) -> Record:
    return way(ms, batch, **{"workflow": "onnx_tensorrt", "precision": "fp16"} | given)


def fp32(ms: float, batch: int = 1, **given: Any) -> Record:
    return way(ms, batch, **{"workflow": "pytorch", "precision": "fp32"} | given)


def top1(right: int, workflow: str, precision: str, **given: Any) -> Record:
    return evaluated(right, workflow=workflow, precision=precision, at=500, **given)


def ask(records: list[Record], **given: Any) -> Recommendation:
    return recommend(records, Limits(**{"model": "resnet18", "device": "big"} | given))


def test_the_fastest_that_fits_is_named_with_margin_and_runner_up() -> None:
    found = ask([fp16(1.0), fp32(3.0), fp16(9.0, 8)], max_latency_ms=5, batch=1)
    assert found.status is Status.DECIDED and found.chosen is not None
    assert (found.chosen.workflow, found.chosen.precision, found.chosen.batch) == ("onnx_tensorrt", "fp16", 1)
    (margin,) = found.margins
    assert margin.margin == pytest.approx(0.8, abs=0.001)
    assert margin.low is not None and margin.high is not None and margin.low < 0.8 < margin.high
    assert found.runner_up is not None and found.runner_up.worse == pytest.approx(2.0, abs=0.01)
    assert found.looked_at == 2


def test_under_a_latency_limit_the_batch_size_is_chosen_for_throughput() -> None:
    records = [fp16(1.0), fp16(4.0, 8), fp16(40.0, 64)]
    found = ask(records, max_latency_ms=5)
    assert found.chosen is not None and found.chosen.batch == 8 and found.excluded == {"latency": 1}
    assert ask(records).chosen == ask(records, max_latency_ms=5, objective="latency").chosen
    assert ask(records, max_latency_ms=5, min_throughput=1500).chosen == found.chosen


def test_accuracy_is_joined_from_another_batch_and_another_sweep_of_the_same_way() -> None:
    records = [fp16(1.0), fp32(3.0), top1(3600, "onnx_tensorrt", "fp16", batch=32), top1(3800, "pytorch", "fp32")]
    found = ask(records, min_top1=74)
    assert found.status is Status.DECIDED and found.chosen is not None and found.chosen.workflow == "pytorch"
    assert found.excluded == {"accuracy": 1}
    (margin,) = found.margins
    assert margin.reading is not None and margin.reading.value == pytest.approx(0.76)
    assert margin.reading.low < 0.76 < margin.reading.high


@pytest.mark.parametrize(
    "other",
    [
        {"model": ModelSpec("resnet18", weights="random:0")},
        {"model": ModelSpec("resnet18", weights="default", input_shape=(3, 32, 32))},
        {"options": {"cuda_graph": True}},
        {"device": SMALL},
        {"artifacts": [make_ref("b" * 64, kind="weights")]},
    ],
)
def test_accuracy_is_never_joined_across_weights_ways_or_devices(other: dict[str, Any]) -> None:
    records = [
        fp16(1.0, artifacts=[make_ref("a" * 64, kind="weights")]),
        top1(3900, "onnx_tensorrt", "fp16", **other),
    ]
    found = ask(records, min_top1=74)
    assert found.status is Status.UNDECIDED and found.chosen is None
    assert "unknown" in found.unsettled[0].reason


def test_an_axis_that_was_not_measured_of_a_faster_way_leaves_it_undecided() -> None:
    records = [fp16(1.0), fp32(3.0), top1(3800, "pytorch", "fp32")]
    found = ask(records, min_top1=70)
    assert found.status is Status.UNDECIDED and found.chosen is not None and found.chosen.workflow == "pytorch"
    assert [rival.candidate.workflow for rival in found.unsettled] == ["onnx_tensorrt"]


def test_ways_whose_intervals_overlap_are_not_decided_between() -> None:
    found = ask([fp16(1.0), fp16(1.001, options={"optimization_level": 5})])
    assert found.status is Status.UNDECIDED and len(found.unsettled) == 1
    assert "intervals" in found.unsettled[0].reason


def test_an_interval_that_holds_the_limit_does_not_fit() -> None:
    found = ask([fp16(1.0)], max_latency_ms=1.0005)
    assert found.status is Status.UNDECIDED and found.chosen is None
    assert ask([timed(1.0, model=MODEL)], max_latency_ms=1.04).chosen is None
    assert ask([timed(1.0, model=MODEL)], max_latency_ms=1.06, objective="latency").chosen is not None


def test_where_nothing_fits_the_limits_that_exclude_and_the_nearest_miss_are_named() -> None:
    found = ask([fp16(1.0, mb=900), fp32(3.0, mb=300)], max_latency_ms=0.9, max_memory_mb=400)
    assert found.status is Status.NONE and found.chosen is None
    assert found.excluded == {"latency": 2, "memory": 1}
    assert found.nearest is not None and found.nearest.precision == "fp16"
    assert {margin.axis for margin in found.nearest_margins} == {"latency", "memory"}
    assert "nearest miss" in "\n".join(choice_words.lines(found))


def test_energy_is_used_where_it_was_measured() -> None:
    found = ask([fp16(1.0, joule=0.5), fp32(3.0, joule=0.1)], max_energy_j=0.2)
    assert found.chosen is not None and found.chosen.workflow == "pytorch" and found.status is Status.DECIDED


def test_a_flagged_run_is_never_recommended_and_may_be_ruled_out() -> None:
    doubted = timed(1.0, model=MODEL, precision="fp16", flags=[make_flag()])
    found = ask([doubted, fp32(3.0)])
    assert found.status is Status.UNDECIDED and found.chosen is not None and found.chosen.precision == "fp32"
    hopeless = timed(100.0, model=MODEL, precision="fp16", flags=[make_flag()])
    assert ask([hopeless, fp32(3.0)]).status is Status.DECIDED
    invalid = timed(1.0, model=MODEL, precision="fp16", flags=[make_flag("other_work", "invalid")])
    assert ask([invalid, fp32(3.0)], max_latency_ms=5, objective="latency").unsettled[0].worse is None


def test_things_that_do_not_compare_are_refused_unless_one_is_named() -> None:
    other = ModelSpec("resnet18", weights="digits:0", input_shape=(3, 32, 32))
    records = [fp16(1.0), fp16(0.2, model=other)]
    with pytest.raises(UsageError, match="2 things that do not compare") as refused:
        ask(records)
    assert len(refused.value.problems) == 2
    assert ask(records, weights="default").status is Status.DECIDED
    accurate = [*records, top1(3800, "onnx_tensorrt", "fp16")]
    assert ask(accurate, min_top1=70).chosen == ask(accurate, weights="default").chosen


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "resnet1"}, "nothing is recorded"),
        ({"device": "biggest"}, "nothing is recorded"),
        ({"batch": 7}, "at that batch"),
        ({"max_latency_ms": -1.0}, "is no limit"),
        ({"max_latency_ms": float("nan")}, "is no limit"),
        ({"min_top1": 101.0}, "is no limit"),
        ({"objective": "beauty"}, "nothing is best"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_way_out(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ask([fp16(1.0)], **given)


def test_a_front_holds_what_is_not_clearly_beaten() -> None:
    records = [
        fp16(1.0, mb=800),
        fp16(1.5, mb=400, options={"optimization_level": 0}),
        fp32(3.0, mb=900),
        fp16(1.001, mb=800, options={"optimization_level": 5}),
    ]
    made = front(candidates_of(records, "resnet18", "big"))
    assert made.axes == ("latency", "memory") and made.unknown == {"accuracy": 0, "energy": 0}
    assert sorted(c.readings["latency"].value for c in made.best) == pytest.approx([1.0, 1.001, 1.5])
    assert [len(by) for by in made.beaten.values()] == [3]


def test_what_lacks_an_axis_is_not_placed_rather_than_beaten() -> None:
    made = front(candidates_of([fp16(1.0), fp32(3.0), fp32(5.0, mb=None, precision="bf16")], "resnet18", "big"))
    assert [(c.precision, why) for c, why in made.unplaced] == [("bf16", "memory: not measured")]
    assert front([]).axes == () and front([]).best == ()


def test_scatter_alone_beats_nobody() -> None:
    """Equal ways of one process each: the front holds them all, in nearly every draw."""
    random, whole = Random(1), 0
    for _ in range(60):
        records = [timed(random.gauss(1.0, 0.01), model=MODEL, options={"way": i}) for i in range(6)]
        whole += len(front(candidates_of(records, "resnet18", "big")).best) == 6
    assert whole >= 57


def test_the_same_records_in_any_order_give_the_same_answer() -> None:
    records = [fp16(1.0), fp32(3.0), fp16(2.0, 8), top1(3800, "pytorch", "fp32"), fp32(2.9, at=90)]
    shuffled = list(records)
    Random(2).shuffle(shuffled)
    assert ask(records, min_top1=70) == ask(shuffled, min_top1=70)
    assert len(worlds_of(candidates_of(records, "resnet18", GPU.device_id))) == 1


def test_the_answer_is_json() -> None:
    text = json.dumps(choice_words.document(ask([fp16(1.0), fp32(3.0)], max_latency_ms=5)))
    assert json.loads(text)["decided"] is True
