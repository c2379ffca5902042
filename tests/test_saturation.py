# SPDX-License-Identifier: Apache-2.0
"""Where a curve saturates, on curves whose answer is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from farm.saturation import Level, efficiency, saturation

LEVELS = (1, 2, 4, 8, 16)


def curve(of: Callable[[int], float], spread: float = 0.0, levels: Sequence[int] = LEVELS) -> list[Level]:
    """Throughput by level, known to `spread` of itself; the latency is what a closed loop makes of it."""
    return [Level(n, of(n), of(n) * (1 - spread), of(n) * (1 + spread), 1000 * n / of(n)) for n in levels]


def test_a_curve_that_rises_to_a_ceiling_saturates_where_it_meets_it() -> None:
    found = saturation(curve(lambda n: min(100.0 * n, 400.0)))
    assert found is not None
    assert (found.at.level, found.best.level, found.earliest, found.latest) == (4, 4, 4, 4)
    assert found.reached
    assert found.certain
    assert found.falls is None
    assert found.efficiency == pytest.approx(1.0)
    assert found.latency_ratio == pytest.approx(1.0)


def test_a_flat_curve_saturates_at_its_first_level() -> None:
    found = saturation(curve(lambda _n: 250.0))
    assert found is not None
    assert (found.at.level, found.best.level, found.reached, found.efficiency) == (1, 1, True, 1.0)
    assert found.latency_ratio == 1.0


def test_a_curve_that_still_rises_at_its_end_is_not_saturated() -> None:
    found = saturation(curve(lambda n: 100.0 * n))
    assert found is not None
    assert (found.at.level, found.reached, found.falls) == (16, False, None)


def test_a_retrograde_curve_tells_where_it_begins_to_fall() -> None:
    """Gunther's law with contention of 5 % and coherency of 2 %: capacity peaks near the square root of 0.95 / 0.02."""
    found = saturation(curve(lambda n: 100.0 * n / (1 + 0.05 * (n - 1) + 0.02 * n * (n - 1)), levels=range(1, 21)))
    assert found is not None
    assert found.best.level == 7
    assert found.at.level == 5, "within 5 % of the best, at less latency"
    assert found.falls is not None
    assert found.falls > found.best.level
    below = [100.0 * n / (1 + 0.05 * (n - 1) + 0.02 * n * (n - 1)) for n in (found.falls - 1, found.falls)]
    assert below[1] < 0.95 * found.best.throughput <= below[0]
    assert found.latency_ratio is not None
    assert found.latency_ratio > 1.5


def test_intervals_leave_open_what_they_cannot_tell() -> None:
    exact = {1: 100.0, 2: 188.0, 4: 200.0, 8: 201.0}
    sharp = saturation(curve(lambda n: exact[n], 0.001, (1, 2, 4, 8)))
    wide = saturation(curve(lambda n: exact[n], 0.04, (1, 2, 4, 8)))
    assert sharp is not None
    assert wide is not None
    assert (sharp.at.level, sharp.certain) == (4, True)
    assert (wide.at.level, wide.earliest, wide.latest, wide.certain) == (4, 2, 8, False)


def test_a_fall_within_the_intervals_is_no_fall() -> None:
    exact = {1: 100.0, 2: 200.0, 4: 185.0}
    sharp, wide = (saturation(curve(lambda n: exact[n], spread, (1, 2, 4))) for spread in (0.005, 0.05))
    assert sharp is not None
    assert wide is not None
    assert (sharp.falls, wide.falls) == (4, None)


def test_noise_moves_the_answer_by_no_more_than_its_own_range_says() -> None:
    """The level without noise lies in the range that the intervals leave, in all of 300 noisy curves."""
    rng = random.Random(7)
    true = {1: 100.0, 2: 195.0, 4: 330.0, 8: 400.0, 16: 402.0}
    for _ in range(300):
        seen = {n: value * (1 + rng.uniform(-0.03, 0.03)) for n, value in true.items()}
        found = saturation([Level(n, v, v / 1.03, v / 0.97) for n, v in seen.items()])
        assert found is not None
        assert found.earliest <= 8 <= found.latest
        assert found.earliest <= found.at.level <= found.latest


def test_levels_may_come_in_any_order_and_efficiency_is_taken_from_the_smallest() -> None:
    levels = curve(lambda n: 100.0 * n**0.5, levels=(2, 4, 8))
    found = saturation(reversed(levels))
    assert found is not None
    assert found.efficiency == pytest.approx(0.5)
    assert efficiency(levels[0], levels[1]) == pytest.approx(2**-0.5)


@pytest.mark.parametrize("levels", [[], [Level(1, 5, 5, 5)], [Level(1, 0, 0, 0), Level(2, 5, 5, 5)]])
def test_too_little_to_say(levels: list[Level]) -> None:
    assert saturation(levels) is None


def test_without_a_latency_there_is_no_cost() -> None:
    found = saturation([Level(1, 1, 1, 1), Level(2, 2, 2, 2, 3.0)])
    assert found is not None
    assert found.latency_ratio is None
