# SPDX-License-Identifier: Apache-2.0
"""One time against those before it: invariances, false alarms and detection, and the numbers themselves."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.canary import SHIFTED, UNCONFIRMED, CanaryState
from farm.canary.judge import judge, pooled
from farm.canary.series import Point, assess
from farm.thresholds import DEFAULTS

TIMES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=40)
POOLS = st.floats(1e-4, 0.2)


@given(TIMES, st.floats(0.01, 1e4), POOLS, st.randoms(use_true_random=False))
def test_the_order_of_the_history_is_of_no_consequence(
    history: list[float], value: float, pool: float, chance: random.Random
) -> None:
    other = history[:]
    chance.shuffle(other)
    first, second = judge(history, value, pool), judge(other, value, pool)
    assert second.z == pytest.approx(first.z, rel=1e-9, abs=1e-9)
    assert second.change == pytest.approx(first.change, rel=1e-9, abs=1e-9)


@given(TIMES, st.floats(0.01, 1e4), POOLS, st.floats(1e-3, 1e3))
def test_the_unit_is_of_no_consequence(history: list[float], value: float, pool: float, unit: float) -> None:
    first, second = judge(history, value, pool), judge([unit * time for time in history], unit * value, pool)
    assert second.z == pytest.approx(first.z, rel=1e-6, abs=1e-6)
    assert second.change == pytest.approx(first.change, rel=1e-6, abs=1e-6)
    assert second.centre == pytest.approx(unit * first.centre)


@given(TIMES, POOLS)
def test_slower_and_faster_are_judged_alike(history: list[float], pool: float) -> None:
    centre = judge(history, 1.0, pool).centre
    slower, faster = judge(history, centre * 1.2, pool), judge(history, centre / 1.2, pool)
    assert slower.z == pytest.approx(-faster.z, rel=1e-6)
    assert slower.out == faster.out


def test_the_numbers_are_those_of_the_formula() -> None:
    """Worked out by hand: logs -0.02, -0.01, 0, 0.01, 0.02; median deviation 0.01, mean deviation 0.012."""
    history = [10 * math.exp(x / 100) for x in (-2, -1, 0, 1, 2)]
    found = judge(history, 10 * math.exp(0.1), pool=0.03)
    own = max(1.4826 * 0.01, 1.2533 * 0.012)
    spread = math.sqrt((5 * own**2 + 10 * 0.03**2) / 15)
    assert found.centre == pytest.approx(10)
    assert found.spread == pytest.approx(spread)
    assert found.change == pytest.approx(math.expm1(0.1))
    assert found.z == pytest.approx(0.1 / (spread * math.sqrt(1 + 1.57 / 5)))
    assert found.out is (found.z > 3)


def test_the_class_widens_the_band_of_few_points_and_narrows_none() -> None:
    calm, wild = [10.0] * 6, [10 * math.exp(x / 10) for x in (-2, -1, 0, 1, 2)]
    assert judge(calm, 10.0, pool=0.05).spread > 0.03
    assert judge(wild, 10.0, pool=0.001).spread == judge(wild, 10.0, pool=0.0).spread
    assert judge(calm, 10.0, pool=0.0).spread == DEFAULTS["canary_floor"]


def test_both_limits_must_be_passed() -> None:
    history = [10.0] * 20
    assert not judge(history, 10.25, pool=0.002).out  # many spreads away, and too small to matter
    assert judge(history, 10.25, pool=0.002).z > 3
    assert not judge(history, 11.0, pool=0.10).out  # large, and not more than its class varies by
    assert judge(history, 10.5, pool=0.002).out


def test_the_spread_of_a_class_is_that_of_its_canaries_or_the_tables() -> None:
    assert pooled([]) == pooled([[1.0, 2.0]]) == DEFAULTS["canary_pool"]
    wild = [math.exp(x / 100) for x in (-3, -1, 0, 1, 3)]
    assert pooled([wild]) == pytest.approx(judge(wild, 1.0, pool=0.0).spread)
    assert pooled([[5.0] * 9]) == DEFAULTS["canary_floor"]
    assert pooled([[5.0] * 9, wild]) < pooled([wild])


def noise(seed: int, sd: float, rho: float) -> Iterator[float]:
    """Log times of an AR(1) process with standard deviation `sd`."""
    chance = random.Random(seed)
    value = chance.gauss(0, sd)
    while True:
        yield value
        value = rho * value + chance.gauss(0, sd * math.sqrt(1 - rho**2))


def nights(seed: int, count: int, sd: float, rho: float, *, step_at: int = -1, step: float = 0.0) -> list[CanaryState]:
    """What the canary says each night; what is out of the band is measured once more, with the noise going on."""
    source, points, said = noise(seed, sd, rho), list[Point](), []

    def measure(night: int) -> CanaryState:
        shift = math.log1p(step) if 0 <= step_at <= night else 0.0
        points.append(Point(f"{len(points):04}", f"r{len(points)}", 10 * math.exp(next(source) + shift)))
        return assess(points, DEFAULTS["canary_pool"])

    for night in range(count):
        state = measure(night)
        said.append(measure(night) if state.verdict == UNCONFIRMED else state)
    return said


@pytest.mark.parametrize(
    ("sd", "rho", "most"), [(0.01, 0.0, 0.0), (0.01, 0.5, 0.002), (0.02, 0.5, 0.01), (0.05, 0.5, 0.01)]
)
def test_pure_noise_hardly_ever_marks_a_device(sd: float, rho: float, most: float) -> None:
    """Also noise in which a night resembles the one before, and as wide as a shared machine's."""
    verdicts = [state.verdict for seed in range(40) for state in nights(seed, 50, sd, rho)]
    assert verdicts.count(SHIFTED) / len(verdicts) <= most


@pytest.mark.parametrize("step", [0.10, -0.10])
def test_a_step_of_ten_per_cent_is_found_in_the_same_night(step: float) -> None:
    found = [nights(seed, 21, 0.01, 0.5, step_at=20, step=step)[-1] for seed in range(50)]
    assert sum(state.shifted for state in found) >= 48
    assert all((state.change or 0) * step > 0 for state in found if state.shifted)
