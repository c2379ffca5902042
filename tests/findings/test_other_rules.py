# SPDX-License-Identifier: Apache-2.0
"""Clocks, rebuilds, calibrations, work outside of the engine: found when so, and not otherwise."""

from __future__ import annotations

from random import Random

import pytest

from farm.contract.job import Calibration, ModelSpec
from farm.findings import Finding, Sure, find
from farm.findings.calibration import Taken, difference
from farm.findings.variance import components, f_below, f_quantile
from tests.factories import make_ref
from tests.findings.made import built, evaluated, scattered, timed

STEADY = [0.998, 0.999, 1.0, 1.001, 1.002]
DEFAULT = ModelSpec("resnet18", weights="default")


def of(rule: str, *records: object) -> list[Finding]:
    return list(find(records).of(rule))


def test_time_that_moved_with_the_clock_is_told_apart_from_cycles() -> None:
    slow = [share / 0.9 for share in STEADY]
    (finding,) = of("clock-not-cycles", timed(STEADY, clock=2000.0), timed(slow, clock=1800.0, at=60))
    assert finding.numbers["cycles_ratio"] == pytest.approx(1.0, abs=0.002)
    assert "2000 to 1800 MHz" in finding.sentence
    assert of("clock-not-cycles", timed(STEADY, clock=2000.0), timed(slow, clock=2000.0, at=60)) == []
    assert of("clock-not-cycles", timed(STEADY, clock=1800.0), timed(slow, clock=2000.0, at=60)) == []
    assert of("clock-not-cycles", timed(STEADY, clock=2000.0), timed(STEADY, clock=1800.0, at=60)) == []
    assert of("clock-not-cycles", timed(STEADY), timed(slow, at=60)) == []


def test_builds_that_differ_by_more_than_processes_do() -> None:
    random = Random(3)
    apart = [built(i, scattered(random, ms, 0.002, 3)) for i, ms in enumerate([1.0, 1.04, 1.0, 1.05, 1.01])]
    (finding,) = of("rebuild-variance", *apart)
    assert finding.sure is Sure.BUILDS
    assert finding.numbers["icc"] > 0.9 and finding.numbers["icc_low"] > 0.5
    assert finding.numbers["sigma_within"] == pytest.approx(0.002, rel=0.6)
    assert "one list of tactics" in finding.sentence
    alike = [built(i, scattered(random, 1.0, 0.02, 3)) for i in range(5)]
    assert of("rebuild-variance", *alike) == []


def test_one_process_a_build_cannot_tell_builds_from_processes() -> None:
    assert of("rebuild-variance", *[built(i, [1.0 + i / 10]) for i in range(5)]) == []


def test_builds_that_answer_differently_are_counted_with_their_tactics() -> None:
    records = [built(i, [1.0], outputs=f"o{i % 2}", tactics="t1") for i in range(4)]
    (finding,) = of("rebuild-changes-outputs", *records)
    assert finding.numbers == {"builds": 4, "outputs": 2, "tactics": 1}
    assert "same tactics answer differently" in finding.sentence
    assert of("rebuild-changes-outputs", *[built(i, [1.0]) for i in range(4)]) == []


def test_rebuild_variance_is_not_found_in_noise() -> None:
    looks = 150
    alarms = 0
    for seed in range(looks):
        random = Random(seed)
        alarms += bool(of("rebuild-variance", *[built(i, scattered(random, 1.0, 0.02, 3)) for i in range(6)]))
    assert alarms <= 0.05 * looks


def test_components_find_the_variances_that_were_put_in_and_the_interval_holds_their_share() -> None:
    random, looks, held, between = Random(5), 200, 0, []
    for _ in range(looks):
        centres = [random.gauss(0, 2.0) for _ in range(10)]
        found = components([[random.gauss(centre, 1.0) for _ in range(3)] for centre in centres])
        assert found is not None
        held += found.icc_low < 0.8 < found.icc_high
        between.append(found.between)
    assert sum(between) / looks == pytest.approx(2.0, rel=0.1)
    assert 0.90 * looks <= held <= 0.99 * looks
    assert components([[1.0], [2.0]]) is None
    assert components([[1.0, 1.0], [2.0, 2.0]]) is None
    assert components([]) is None


def test_f_is_as_tables_have_it() -> None:
    """5 % and 2.5 % points of F, as printed in any statistics text."""
    assert f_quantile(0.95, 4, 10) == pytest.approx(3.478, abs=5e-4)
    assert f_quantile(0.975, 1, 1) == pytest.approx(647.79, rel=1e-4)
    assert f_quantile(0.95, 1, 10) == pytest.approx(4.965, abs=5e-4)
    assert f_below(0.0, 3, 3) == 0.0
    assert f_below(1.0, 7, 7) == pytest.approx(0.5)


def calibrated(right: int, at: float = 0.0, **changed: object) -> object:
    calibration = Calibration(**({"method": "entropy", "samples": 512, "batch": 16} | changed))
    return evaluated(right, workflow="onnx_tensorrt", precision="int8", calibration=calibration, at=at)


def test_a_calibration_batch_that_costs_accuracy_is_found_against_another_and_against_fp32() -> None:
    exact = evaluated(3750, workflow="pytorch", precision="fp32")
    found = of("calibration-costs-accuracy", calibrated(3700, batch=16), calibrated(3300, batch=1), exact)
    assert sorted(finding.cell["changed"] for finding in found) == ["batch", "fp32"]
    batch = next(finding for finding in found if finding.cell["changed"] == "batch")
    assert batch.numbers["points"] == pytest.approx(8.0)
    assert batch.new is not None and batch.new.value == pytest.approx(0.66)


def test_a_small_loss_and_two_changes_at_once_are_no_finding() -> None:
    assert of("calibration-costs-accuracy", calibrated(3700, batch=16), calibrated(3660, batch=1)) == []
    assert of("calibration-costs-accuracy", calibrated(3700), calibrated(3000, batch=1, method="minmax")) == []


def test_other_images_other_weights_or_another_file_of_weights_are_not_compared() -> None:
    given = {"workflow": "onnx_tensorrt", "precision": "int8"}
    one = evaluated(3700, calibration=Calibration(batch=16), **given)
    fewer = evaluated(300, 500, calibration=Calibration(batch=1), **given)
    other = evaluated(3000, calibration=Calibration(batch=1), model=ModelSpec("resnet18", weights="digits:0"), **given)
    assert of("calibration-costs-accuracy", one, fewer, other) == []
    files = [[make_ref(letter * 64, kind="weights")] for letter in "ab"]
    sides = [
        evaluated(right, calibration=Calibration(batch=batch), artifacts=refs, **given)
        for right, batch, refs in zip((3700, 3000), (16, 1), files, strict=True)
    ]
    assert of("calibration-costs-accuracy", *sides) == []


def test_equal_calibrations_are_rarely_called_different() -> None:
    looks, alarms = 100, 0
    for seed in range(looks):
        random = Random(seed)
        draws = [sum(random.random() < 0.7 for _ in range(500)) for _ in range(5)]
        sides = [
            evaluated(right, 500, workflow="onnx_tensorrt", precision="int8", calibration=Calibration(batch=2**i), at=i)
            for i, right in enumerate(draws)
        ]
        alarms += bool(of("calibration-costs-accuracy", *sides))
    assert alarms <= 0.05 * looks


def test_newcombe_s_own_example() -> None:
    """56 of 70 and 48 of 80: 0.0524 to 0.3339 (Newcombe 1998, table II, method 10)."""
    loss, low, high = difference(Taken(evaluated(56, 70), 56, 70), Taken(evaluated(48, 80), 48, 80))
    assert (loss, low, high) == (pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_work_outside_of_the_engine_over_the_limit_is_told_once_for_a_network() -> None:
    records = [
        timed(1.0, workflow="torch_tensorrt", batch=batch, metrics={"fallback_node_share": 0.25}) for batch in (1, 8)
    ]
    (finding,) = of("work-outside-engine", *records)
    assert "25.0 %" in finding.sentence and len(finding.runs) == 2 and finding.sure is Sure.COUNTED
    low = timed(1.0, workflow="torch_tensorrt", metrics={"fallback_node_share": 0.01})
    assert of("work-outside-engine", low, timed(1.0, metrics={"fallback_node_share": None})) == []


def test_a_share_outside_that_grew_is_told_with_both_runs() -> None:
    before, after = (
        timed(1.0, workflow="torch_tensorrt", at=at, metrics={"fallback_node_share": share})
        for at, share in ((0, 0.0), (60, 0.04))
    )
    (finding,) = of("work-outside-engine-grown", before, after)
    assert finding.runs == (before.run_id, after.run_id) and finding.size == pytest.approx(0.04)
    assert of("work-outside-engine-grown", after, before, timed(1.0, at=90)) != []
    assert of("work-outside-engine-grown", before) == []
