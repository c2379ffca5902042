# SPDX-License-Identifier: Apache-2.0
"""What is compared with what, what the treatment is taken to be, and what is refused, on hand-made records."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from farm.compare import Comparison, Rules, Verdict, compare, table
from farm.contract.job import BatchLadder, ModelSpec, Target
from farm.contract.outcome import Failure, Outcome
from farm.contract.protocols import PROTOCOLS
from farm.contract.record import ProcessFacts, Record
from farm.errors import UsageError
from tests.factories import DEVICE, STACK, make_flag, make_job, make_record

RUNS = itertools.count()
JITTER = (1.0, 1.004, 0.997, 1.002, 0.999)


def side(name: str, ms: float = 8.0, *, batch: int = 1, count: int = 5, **overrides: Any) -> list[Record]:
    """One cell of a side: `count` processes around `ms`. Overrides go to the record if it has such a field."""
    own = {key: overrides.pop(key) for key in list(overrides) if key in Record.__dataclass_fields__}
    made = []
    for i in range(count):
        # Alternating in time with the other side, so that nothing is said about drift.
        minute = 2 * i + (name != "base")
        job = make_job(job_id=f"{name}-{i}-{batch}-{len(overrides)}", sweep_id=f"{name}-{i}", **overrides)
        fields = {
            "job": job,
            "batch_size": batch,
            "run_id": f"run-{next(RUNS)}",
            "metrics": {"latency_ms": ms * JITTER[i % 5], "gpu_power_w": 3.0},
            "started_at": f"2026-03-01T10:{minute:02}:00.000000+00:00",
            "finished_at": f"2026-03-01T10:{minute:02}:09.000000+00:00",
        }
        made.append(make_record(**fields | own))
    return made


def verdicts(found: Comparison) -> dict[str, Verdict]:
    return {cell.cell.get("batch", ""): cell.verdict for cell in found.cells}


def test_an_accuracy_is_no_sample_of_the_batch_size_that_it_was_taken_at() -> None:
    failed = {"outcome": Outcome.FAILED, "failure": Failure("accuracy", "f", "it failed"), "metrics": {}}
    base, new = side("base", batch=4), side("new", 8.8, batch=4)
    shares = side("base", batch=4, point="accuracy", metrics={"top1": 0.9}) + side(
        "new", batch=4, point="accuracy", metrics={"top1": 0.8}
    )
    alone = compare(base, new)
    assert verdicts(alone) == {"4": Verdict.SLOWER}
    assert compare(base + shares[:5], new + shares[5:]) == alone
    assert compare(base, new + side("new", batch=4, point="accuracy", **failed)) == alone
    assert compare(base + shares[:5], new + shares[5:], Rules(metric="top1")).cells[0].base.median == 0.9


def test_slower_faster_and_same_are_told_apart() -> None:
    base = side("base") + side("base", batch=2) + side("base", batch=4)
    new = side("new", 8.8) + side("new", 8.0, batch=2) + side("new", 7.2, batch=4)
    found = compare(base, new)
    assert verdicts(found) == {"1": Verdict.SLOWER, "2": Verdict.SAME, "4": Verdict.FASTER}
    assert found.treatment == ()
    assert found.left_out == ()
    cell = found.cells[0]
    assert cell.base.median == 8.0
    assert cell.ratio.low <= 1.1 <= cell.ratio.high  # type: ignore[operator]
    assert cell.ratio.confidence == pytest.approx(1 - 2 / 252)
    assert found.regressed


def test_the_order_of_the_records_changes_nothing() -> None:
    base, new = side("base") + side("base", batch=16) + side("base", batch=2), side("new", 9) + side("new", 8, batch=2)
    found = compare(base, new)
    for seed in range(5):
        mixed = random.Random(seed)
        assert compare(mixed.sample(base, len(base)), mixed.sample(new, len(new))) == found
    assert [cell.cell["batch"] for cell in found.cells] == ["1", "2"]


def test_exchanging_the_sides_turns_the_verdict_round() -> None:
    there, back = compare(side("base"), side("new", 9)), compare(side("new", 9), side("base"))
    assert (there.cells[0].verdict, back.cells[0].verdict) == (Verdict.SLOWER, Verdict.FASTER)
    assert there.cells[0].ratio.low == pytest.approx(1 / back.cells[0].ratio.high)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("field", "old", "young"),
    [
        ("options", {"channels_last": True}, {}),
        ("workflow", "onnxruntime_cpu", "openvino"),
        ("precision", "fp32", "bf16"),
    ],
)
def test_one_value_a_side_is_the_treatment_and_said_so(field: str, old: Any, young: Any) -> None:
    found = compare(side("base", **{field: old}), side("new", 9, **{field: young}))
    assert [difference.name for difference in found.treatment] == [field]
    assert len(found.cells) == 1
    assert field not in found.cells[0].cell


def flight(**switches: Any) -> Any:
    return replace(PROTOCOLS["quick"], name="quick-3fa9c1", scenario="streams", **switches)


def test_the_points_of_a_study_are_cells_of_their_own() -> None:
    ways = [{"streams": 1}, {"streams": 2}, {"streams": 2, "contexts": 4}, {"streams": 2, "threads": 3}]
    base = [r for way in ways for r in side("base", protocol=flight(**way))]
    new = [r for way in ways for r in side("new", 9, protocol=flight(**way))]
    found = compare(base, new)
    assert found.left_out == ()
    assert sorted(cell.cell["concurrency"] for cell in found.cells) == [
        "streams 1", "streams 2", "streams 2, contexts 4", "streams 2, threads 3",
    ]  # fmt: skip
    names = [table.name_of(cell.cell) for cell in found.cells]
    assert any("(streams 2, contexts 4)" in name for name in names)


def test_what_is_in_flight_is_compared_when_it_is_named() -> None:
    sides = side("base", protocol=flight(streams=1, threads=2)), side("new", 12, protocol=flight(streams=4))
    assert compare(*sides).cells == ()
    (cell,) = compare(*sides, Rules(treatment=("concurrency",))).cells
    assert cell.verdict is Verdict.SLOWER


def test_options_that_vary_within_a_side_are_cells_and_a_hint_names_the_treatment() -> None:
    base = side("base", options={"latency_ms": 2.0}) + side("base", batch=1, options={}, workflow="pytorch")
    new = side("new", options={"latency_ms": 3.0}) + side("new", options={}, workflow="pytorch")
    found = compare(base, new)
    assert [cell.cell["workflow"] for cell in found.cells] == ["pytorch"]
    assert [left.reason.split(";")[0] for left in found.left_out] == ["only in base", "only in new"]
    assert "options (latency_ms=2.0 here, latency_ms=3.0 there); `--treatment options`" in found.left_out[0].reason
    told = compare(base, new, Rules(treatment=("options",)))
    assert len(told.cells) == 2
    assert told.left_out == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [("boundary", "end_to_end"), ("inputs", "rotated"), ("min_iterations", 99), ("threads", 3)],
)
def test_other_switches_of_the_protocol_are_refused_by_name(field: str, value: Any) -> None:
    other = replace(PROTOCOLS["paper"], **{field: value})
    found = compare(side("base"), side("new", 9, protocol=other))
    assert found.cells == ()
    assert f"not comparable: other {field} (" in found.left_out[0].reason
    assert "--treatment" not in found.left_out[0].reason


def test_a_protocol_by_another_name_with_the_same_switches_is_the_same() -> None:
    other = replace(PROTOCOLS["paper"], name="mine", stage_limits_s={})
    assert verdicts(compare(side("base"), side("new", protocol=other))) == {"1": Verdict.SAME}


def test_other_weights_are_compared_only_when_asked_for() -> None:
    base, new = side("base"), side("new", model=ModelSpec("resnet18", weights="random:7"))
    assert "other weights (random:0 against random:7); `--treatment weights`" in compare(base, new).left_out[0].reason
    assert len(compare(base, new, Rules(treatment=("weights",))).cells) == 1


@pytest.mark.parametrize(
    "what", [{"seed": 3}, {"data": "normal"}, {"model": ModelSpec("resnet18", input_shape=(3, 64, 64))}]
)
def test_other_inputs_are_refused(what: dict[str, Any]) -> None:
    assert "not comparable" in compare(side("base"), side("new", **what)).left_out[0].reason


def test_another_device_is_compared_only_when_asked_for() -> None:
    other = replace(DEVICE, device_id="barn-cpu", device_class="cpu-other")
    base, new = side("base"), side("new", 9, device=other)
    refused = compare(base, new)
    assert refused.cells == ()
    reasons = [left.reason for left in refused.left_out]
    assert any("device (box-cpu here, barn-cpu there); `--treatment device`" in reason for reason in reasons)
    found = compare(base, new, Rules(treatment=("device",)))
    assert found.cells[0].device == "box-cpu -> barn-cpu"
    assert "device box-cpu -> barn-cpu" in [str(difference) for difference in found.treatment]


def test_one_device_that_is_another_product_now_is_refused() -> None:
    changed = replace(DEVICE, device_class="cpu-new")
    assert (
        "other device_class (cpu-test against cpu-new)"
        in compare(side("base"), side("new", device=changed)).left_out[0].reason
    )


def test_versions_that_differ_are_named_and_compared() -> None:
    newer = replace(STACK, libraries={"torch": "2.9.0"})
    found = compare(side("base"), side("new", stack=newer, provenance={"farm_version": "0.2.0"}))
    assert "torch 2.8.0 -> 2.9.0" in [str(difference) for difference in found.software]
    assert "farm_version 0.1.0 -> 0.2.0" in [str(difference) for difference in found.software]
    assert len(found.cells) == 1


def test_a_side_that_mixes_versions_is_refused() -> None:
    newer = replace(STACK, libraries={"torch": "2.9.0"})
    base = side("base", count=3) + [
        replace(record, run_id=f"x{i}") for i, record in enumerate(side("base", stack=newer))
    ]
    assert "base mixes torch 2.8.0, 2.9.0" in compare(base, side("new")).left_out[0].reason


def test_a_side_that_mixes_values_of_the_treatment_is_refused() -> None:
    base = side("base", workflow="pytorch") + side("base")
    found = compare(base, side("new", workflow="openvino"), Rules(treatment=("workflow",)))
    assert "base mixes workflow onnxruntime_cpu, pytorch" in found.left_out[0].reason


def test_flagged_runs_are_shown_and_never_feed_a_verdict() -> None:
    new = side("new") + side("new", 80.0, count=4, flags=[make_flag("host_busy")])
    cell = compare(side("base"), new).cells[0]
    assert cell.verdict is Verdict.SAME
    assert cell.new.median == 8.0
    assert len(cell.new.processes) == 9
    assert cell.notes == ("4 flagged processes of new left aside (host_busy)",)


@pytest.mark.parametrize("level", ["suspect", "invalid"])
def test_a_side_with_flagged_runs_alone_is_unclear_with_the_reason(level: str) -> None:
    cell = compare(side("base"), side("new", 80.0, flags=[make_flag("throttled", level)])).cells[0]
    assert cell.verdict is Verdict.UNCLEAR
    assert cell.notes == ("no process of new is without a flag (throttled)",)
    assert cell.ratio.low is None


def test_a_suspect_flag_can_be_accepted_an_invalid_one_cannot() -> None:
    rules = Rules(accept=("unstable",))
    suspect, invalid = (side("new", 9, flags=[make_flag("unstable", level)]) for level in ("suspect", "invalid"))
    assert compare(side("base"), suspect, rules).cells[0].verdict is Verdict.SLOWER
    assert compare(side("base"), invalid, rules).cells[0].verdict is Verdict.UNCLEAR


def test_what_ran_in_base_and_fails_in_new_is_left_out_as_broken() -> None:
    new = side("new", outcome=Outcome.OUT_OF_MEMORY, failure=Failure("measure", "oom", "no memory left"))
    found = compare(side("base"), new)
    assert found.left_out[0].reason == "new out of memory: no memory left"
    assert found.left_out[0].broke
    assert found.regressed
    assert not compare(new, side("base")).regressed


def test_a_job_that_was_refused_as_a_whole_is_missing_in_each_of_its_cells() -> None:
    ladder = BatchLadder(sizes=(1, 2))
    base = side("base", batches=ladder) + side("base", batches=ladder, batch=2)
    refused = side("new", count=1, batches=ladder, target=Target(device_class="cpu-test"))[0]
    failure = Failure("match", "no-stack", "no stack has it")
    refused = replace(refused, batch_size=None, device=None, stack=None, outcome=Outcome.UNSUPPORTED, failure=failure)
    found = compare(base, [refused])
    assert [(left.cell["batch"], left.reason) for left in found.left_out] == [
        ("1", "new unsupported: no stack has it"),
        ("2", "new unsupported: no stack has it"),
    ]


def test_sides_that_do_not_alternate_are_said_to() -> None:
    later = [
        replace(r, started_at=r.started_at.replace("-01T", "-04T"), finished_at=r.finished_at.replace("-01T", "-04T"))
        for r in side("new")
    ]
    assert compare(side("base"), side("new")).caveats == ()
    assert "not measured alternately (up to 3 days" in compare(side("base"), later).caveats[0]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (Rules(metric="latencyms"), "no metric"),
        (Rules(metric="gpu_power_w"), "neither more nor less"),
        (Rules(threshold=0.0), "threshold"),
        (Rules(threshold=float("nan")), "threshold"),
        (Rules(confidence=1.0), "confidence"),
        (Rules(treatment=("optoins",)), "cannot be the treatment"),
        (Rules(treatment=("boundary",)), "cannot be the treatment"),
    ],
)
def test_rules_that_are_none_are_refused(rules: Rules, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        compare(side("base"), side("new"), rules)


def test_a_metric_that_a_run_does_not_have_is_told() -> None:
    found = compare(side("base"), side("new"), Rules(metric="throughput_per_s"))
    assert "base has no throughput_per_s" in found.left_out[0].reason


def test_libraries_that_another_workflow_loads_are_no_difference_of_versions() -> None:
    other = replace(STACK, libraries={"onnxruntime": "1.20"})
    assert compare(side("base"), side("new", workflow="openvino", stack=other)).software == ()
    told = [str(d) for d in compare(side("base"), side("new", stack=other)).software]
    assert told == ["onnxruntime none -> 1.20", "torch 2.8.0 -> none"]


def one_record(name: str, ms: float, flagged: tuple[int, ...] = (), **overrides: Any) -> Record:
    """A side as one run of five processes, some of them flagged."""
    made = side(name, ms, **overrides)
    flags = {i: [make_flag("host_busy")] for i in flagged}
    processes = [
        ProcessFacts(
            i,
            Outcome.OK,
            of.started_at,
            of.finished_at,
            metrics=of.metrics | {"cpu_frequency_mhz": 2000.0},
            intervals=of.intervals,
            flags=flags.get(i, []),
        )
        for i, of in enumerate(made, 1)
    ]
    joint = [flag for of in flags.values() for flag in of]
    return replace(made[0], processes=processes, finished_at=made[-1].finished_at, flags=joint)


def test_one_run_of_five_processes_a_side_gives_a_verdict() -> None:
    found = compare([one_record("base", 8.0)], [one_record("new", 8.8)])
    (cell,) = found.cells
    assert cell.verdict is Verdict.SLOWER
    assert (len(cell.base.sound), len(cell.new.sound)) == (5, 5)
    assert [process.number for process in cell.new.processes] == [1, 2, 3, 4, 5]
    assert cell.base.processes[0].clock_mhz == 2000.0
    assert cell.base.processes[0].low == 8.125
    assert cell.ratio == compare(side("base", 8.0), side("new", 8.8)).cells[0].ratio
    assert table.objects(found)[0]["base_runs"] == cell.base.processes[0].run_id
    assert table.row(cell)[2] == "8.8 (5)"


def test_a_flag_of_one_process_leaves_that_one_aside_and_no_other() -> None:
    (cell,) = compare([one_record("base", 8.0)], [one_record("new", 8.8, flagged=(2, 4))]).cells
    assert (len(cell.new.sound), len(cell.new.processes)) == (3, 5)
    assert "2 flagged processes of new left aside (host_busy)" in cell.notes
    assert cell.verdict is Verdict.UNCLEAR


def test_that_the_processes_of_a_run_disagree_is_for_the_interval_to_say() -> None:
    doubted = replace(one_record("new", 8.8), flags=[make_flag("processes_disagree")])
    assert compare([one_record("base", 8.0)], [doubted]).cells[0].verdict is Verdict.SLOWER
