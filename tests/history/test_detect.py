# SPDX-License-Identifier: Apache-2.0
"""Triggers: what leaves a history, on which scale, and what cannot be judged."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.canary.judge import own_spread
from farm.history.detect import SLOW, STEP, base_nights, pooled, split, stand, trigger
from farm.history.model import NightPoint
from farm.history.tracked import TRACKED, rule_for, told
from farm.thresholds import DEFAULTS
from tests.history.nights import KEY, name, points, quiet

LATENCY = rule_for("latency_ms")
POOL = 0.005


def seen(values: list[float], tonight: float, metric: str = "latency_ms", samples: float | None = None) -> object:
    return trigger(KEY, points(values), NightPoint(name(len(values)), tonight), rule_for(metric, samples=samples), POOL)


def test_a_step_is_seen_on_its_night() -> None:
    found = trigger(KEY, points(quiet(20)), NightPoint(name(20), 10.6), LATENCY, POOL)
    assert found is not None
    assert (found.path, found.since, found.night, found.count) == (STEP, name(20), name(20), 20)
    assert found.change == pytest.approx(0.06, abs=0.005)
    assert found.centre == pytest.approx(10, rel=0.005)
    assert found.z > 3
    assert 0 <= found.p_value < 0.001


def test_the_formula_of_the_step() -> None:
    history = [math.log(value) for value in quiet(20)]
    stands = stand(history, math.log(10.3), LATENCY, 0.01)
    own = own_spread(history)
    spread = math.sqrt((20 * own**2 + 10 * 0.01**2) / 30)
    away = math.log(10.3) - statistics.median(history)
    assert stands.spread == pytest.approx(spread)
    assert stands.z == pytest.approx(away / (spread * math.sqrt(1 + 1.57 / 20)))


def test_what_is_no_step() -> None:
    assert seen(quiet(20), 10.05) is None
    assert seen([10.0] * 20, 10.09) is None, "under half of what matters, however steady the series"
    assert seen([10.0] * 20, 10.2) is not None
    assert seen([10.0, 10.0], 20.0) is None, "two nights are no history"
    assert seen([], 20.0) is None
    assert seen([10.0], 20.0) is None


def test_a_young_series_is_judged_by_its_class() -> None:
    young = points([10.0, 10.0, 10.0])
    assert trigger(KEY, young, NightPoint(name(3), 10.4), LATENCY, 0.005) is not None
    assert trigger(KEY, young, NightPoint(name(3), 10.4), LATENCY, 0.02) is None


def test_the_slow_path_finds_what_no_night_shows() -> None:
    values = quiet(20, spread=0.012, seed=3) + quiet(7, level=10.25, spread=0.012, seed=4)
    nights = points(values)
    found = trigger(KEY, nights[:-1], nights[-1], LATENCY, 0.012)
    assert found is not None
    assert found.path == SLOW
    assert abs(int(found.since[-2:]) - int(name(20)[-2:])) <= 3
    assert found.change == pytest.approx(0.025, abs=0.012)
    assert trigger(KEY, nights[:-1], nights[-1], LATENCY, 0.012, quiet=True) is None


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_has_no_place_on_a_log_scale_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="latency_ms"):
        seen(quiet(10), value)
    with pytest.raises(ValueError, match="latency_ms"):
        seen([*quiet(10), value], 10.0)


def test_zero_is_a_value_of_shares() -> None:
    assert seen([0.0] * 20, 0.0, "fallback_node_share") is None
    found = seen([0.0] * 20, 0.05, "fallback_node_share")
    assert found is not None
    assert found.change == 0.05  # type: ignore[attr-defined]
    assert seen([0.0] * 20, 3.0, "mismatch_1e-3_pct") is not None
    assert seen([0.0] * 20, 0.3, "mismatch_1e-3_pct") is None
    with pytest.raises(ValueError, match="mismatch"):
        seen([0.0] * 20, math.nan, "mismatch_1e-3_pct")


def test_memory_needs_a_share_and_megabytes() -> None:
    mib = 2.0**20
    assert seen([100 * mib] * 20, 103 * mib, "gpu_memory_peak_bytes") is None, "3 %, but 3 MiB"
    assert seen([10000 * mib] * 20, 10010 * mib, "gpu_memory_peak_bytes") is None, "10 MiB, but 0.1 %"
    assert seen([1000 * mib] * 20, 1012 * mib, "gpu_memory_peak_bytes") is not None


def test_build_times_may_differ_more() -> None:
    assert seen([100.0] * 20, 109.0, "build_s") is None
    assert seen([100.0] * 20, 125.0, "build_s") is not None


def test_accuracy_must_leave_its_interval() -> None:
    assert seen([0.76] * 20, 0.74, "top1", samples=500) is None, "500 images do not tell 76 from 74 %"
    assert seen([0.76] * 20, 0.74, "top1", samples=50000) is not None
    assert seen([0.76] * 20, 0.60, "top1", samples=500) is not None


def test_the_pool_is_the_usual_series() -> None:
    steady = [points(quiet(20, spread=0.004, seed=i)) for i in range(5)]
    wild = points(quiet(20, spread=0.2, seed=9))
    assert pooled([*steady, wild], LATENCY) == pytest.approx(0.004, rel=0.5)
    assert pooled([points([10.0])], LATENCY) == DEFAULTS["history_pool"]
    assert pooled([points([10.0] * 10)], LATENCY) == DEFAULTS["history_floor"]


def test_what_stands_for_before_is_some_nights_older() -> None:
    nights = points(quiet(20))
    found = trigger(KEY, nights, NightPoint(name(20), 11.0), LATENCY, POOL)
    assert found is not None
    before = base_nights(nights, found)
    assert before[0].night == name(14)
    assert sorted(before, key=lambda point: point.night) == nights
    assert base_nights(nights[:3], found)[0].night == name(2)


def test_every_row_has_a_rule() -> None:
    for metric in TRACKED:
        rule = rule_for(metric)
        assert rule.delta > 0
        assert rule.floor > 0
        assert rule.place(rule.value(0.5)) == pytest.approx(0.5)
        assert told(metric, 0.05)
    assert told("latency_ms", 0.05) == "+5.0 %"
    assert rule_for("throughput_per_s").worse(-0.1)
    assert rule_for("latency_ms").worse(0.1)


VALUES = st.lists(st.floats(1, 100), min_size=3, max_size=30)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.floats(1, 100), st.floats(0.01, 100))
def test_the_unit_does_not_matter(values: list[float], tonight: float, factor: float) -> None:
    here, there = (
        stand([LATENCY.place(v * f) for v in values], LATENCY.place(tonight * f), LATENCY, POOL) for f in (1.0, factor)
    )
    assert there.z == pytest.approx(here.z, rel=1e-6, abs=1e-6)
    assert there.move == pytest.approx(here.move, rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=8, max_size=30))
def test_the_split_is_the_best_of_all(values: list[int]) -> None:
    places = [float(value) for value in values]

    def gain(at: int) -> float:
        left, right = places[:at], places[at:]
        return abs(statistics.median(right) - statistics.median(left)) * math.sqrt(len(left) * len(right))

    at, before, after = split(places, 5, 3)
    assert (before, after) == (statistics.median(places[:at]), statistics.median(places[at:]))
    assert gain(at) == pytest.approx(max(gain(i) for i in range(5, len(places) - 2)))
