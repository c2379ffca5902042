# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the detector: a short run keeps to the targets with room, and the score counts what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("detector.py")


def test_tuning_seeds_keep_to_the_targets(script: Any) -> None:
    ours, naive, told, moves = script.Score(), script.Score(), 0, 0
    for seed in (0, 1):
        farm = script.simulate(seed)
        course = script.watch(farm, 0.5)
        ours.add(script.score(farm, course.alerts, course.reruns))
        devices = script.devices(farm, course.moves)
        told, moves = told + devices.found, moves + devices.moves
        alerts = [
            script.Alert(one.key, *alert)
            for one in farm.series
            for alert in script.peers.online(one.values, script.peers.torchbench)
        ]
        naive.add(script.score(farm, alerts))
    recall = {size: ours.hits[size] / ours.changes[size] for size in script.SIZES}
    assert recall[0.05] >= 0.82
    assert recall[0.10] >= 0.93
    assert recall[0.20] >= 0.95
    assert 1000 * ours.null_false / ours.null_nights <= 0.2
    assert ours.delay <= 1
    assert 0.1 < ours.reruns / ours.nights < 1
    assert told >= 0.7 * moves > 0
    assert naive.null_false > 100, "what is simulated must be able to fool somebody"


def test_the_same_seed_is_the_same_farm(script: Any) -> None:
    one, two = script.simulate(5, nights=30, per_class=4), script.simulate(5, nights=30, per_class=4)
    assert [series.values for series in one.series] == [series.values for series in two.series]
    assert [series.values for series in one.series] != [
        series.values for series in script.simulate(6, nights=30, per_class=4).series
    ]


def test_a_rerun_draws_anew_only_what_a_real_one_does(script: Any) -> None:
    farm = script.simulate(7)
    one = next(s for s in farm.series if s.noise.name == "dc_gpu" and s.change and s.change > 0.04)
    before, after = one.at - 1, one.at
    one.machine[after] += 1.0  # a machine that runs at a third of its pace tonight hits both sides
    ratio = one.rerun(after, after) / one.rerun(before, after)
    assert math.log(ratio) == pytest.approx(math.log1p(one.change), abs=0.03)
    one.spike[after], one.sticky[after] = 3.0, False
    assert one.rerun(after, after) < one.night(after) / 2 if one.night(after) else True


def test_the_score_tells_hits_from_late_and_false_ones(script: Any) -> None:
    farm = script.simulate(8)
    changed = next(s for s in farm.series if s.change > 0)
    null = next(s for s in farm.series if not s.change)
    at = changed.at
    told = [
        script.Alert(changed.key, at + 1, at, True),
        script.Alert(changed.key, at + 2, at, True),
        script.Alert(changed.key, at + 3, at, False),
        script.Alert(null.key, 30, 30, True),
        script.Alert(null.key, 5, 5, True),
    ]
    found = script.score(farm, told)
    assert (sum(found.hits.values()), found.late, found.false, found.null_false) == (1, 1, 2, 1)
    assert found.delays == [1]
    assert found.series == {"TP": 1, "FN": 149, "FP": 1, "TN": 149}
    assert sum(found.changes.values()) == 150


def test_a_missed_target_is_named(script: Any) -> None:
    farm = script.simulate(8)
    wrong = script.missed(script.score(farm, []))
    assert any("recall" in line for line in wrong)
    assert any("delay" in line for line in wrong)


def test_the_upper_bound_of_no_event_is_three(script: Any) -> None:
    assert script.poisson_upper(0) == pytest.approx(-math.log(0.05))
    assert script.poisson_upper(2) == pytest.approx(6.296, abs=0.001)


def test_peers_are_asked_online(script: Any) -> None:
    values: list[float | None] = [10.0, 10.1, None, 9.9, 10.0, 11.5, 11.4, 11.5]
    assert script.peers.online(values, script.peers.torchbench) == [(5, 5, True)]
    steady = [10 + 0.01 * (i % 5) for i in range(30)]
    assert script.peers.online([*steady, 11.0, 11.0], script.peers.conbench) == [(30, 30, True)]
    assert script.peers.online(steady, script.peers.conbench) == []
