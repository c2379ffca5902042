# SPDX-License-Identifier: Apache-2.0
"""The end of warm-up: what looks steady, what does not, and how many samples it takes to say so."""

from __future__ import annotations

import random
import statistics
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runner.steady import WINDOW, Change, SteadyState, compare

MS = 1_000_000
window = st.lists(st.integers(MS, 2 * MS), min_size=WINDOW, max_size=WINDOW)


def run(draw: Callable[[int], float], most: int = 4000) -> tuple[SteadyState, int | None]:
    """Feed samples (ns) one at a time, asking when the rule wants to be asked; return where it ended."""
    rule, samples, look = SteadyState(), array("q"), 1
    for number in range(most):
        samples.append(round(draw(number)))
        if len(samples) >= look:
            if rule.ended_by(samples):
                return rule, len(samples)
            look = rule.next_look(len(samples))
    return rule, None


def noisy(seed: int = 1, cv: float = 0.005) -> Callable[[], float]:
    draw = random.Random(seed)
    return lambda: draw.gauss(1, cv)


def test_slow_samples_are_values_of_their_own_and_two_windows_of_a_flat_line_suffice() -> None:
    rule, ended = run(lambda _: 30 * MS)
    assert ended == 2 * WINDOW
    assert rule.facts() == {
        "warm_up_windows": 1,
        "warm_up_first_windows_ns": 40 * 30 * MS,
        "warm_up_last_change": {"median": 0.0, "q1": 0.0, "q3": 0.0, "deviation": 0.0, "first_is_outlier": False},
    }


@pytest.mark.parametrize("latency_ms", [0.05, 0.3, 4, 24.9, 25, 400])
def test_a_window_covers_half_a_second_or_more(latency_ms: float) -> None:
    _, ended = run(lambda _: latency_ms * MS, most=30_000)
    assert ended is not None
    assert ended * latency_ms >= 1000
    assert ended * latency_ms <= max(1000 + 40 * 2 * latency_ms, 40 * latency_ms)


def test_a_ramp_is_steady_only_where_it_ends() -> None:
    """From 90 down to 30 ms in 60 samples, with some noise."""
    noise = noisy()
    rule, ended = run(lambda i: max(90 - i, 30) * MS * noise())
    assert ended is not None
    assert 60 + WINDOW < ended < 400
    assert rule.facts()["warm_up_windows"] == ended - 2 * WINDOW + 1


def test_a_ramp_without_an_end_is_never_steady() -> None:
    rule, ended = run(lambda i: (50 + i) * MS, most=300)
    assert ended is None
    assert rule.facts()["warm_up_windows"] == 300 - 2 * WINDOW + 1
    assert rule.facts()["warm_up_last_change"]["median"] > 0.02


def test_a_step_is_waited_out() -> None:
    """40 % slower for the first 30 samples, which are still in the windows after 40."""
    noise = noisy(3)
    _, ended = run(lambda i: (42 if i < 30 else 30) * MS * noise())
    assert ended is not None
    assert ended >= 30 + 2 * WINDOW - WINDOW // 2


def test_a_slow_first_call_alone_is_an_outlier() -> None:
    change = compare([60.0] + [30.0 + i % 3 for i in range(19)], [30.0 + i % 3 for i in range(20)])
    assert change.first_is_outlier
    assert not change.is_steady
    fast = compare([10.0] + [30.0 + i % 3 for i in range(19)], [30.0 + i % 3 for i in range(20)])
    assert not fast.first_is_outlier, "only a slow first value is one"


def test_a_period_is_steady_where_both_windows_hold_as_much_of_it() -> None:
    assert run(lambda i: (30 if i % 2 else 33) * MS)[1] == 2 * WINDOW
    switching = run(lambda i: (30 if i // WINDOW % 2 else 36) * MS)[1]
    assert switching == 2 * WINDOW + WINDOW // 2, "not where each window holds one half of the period"
    long = run(lambda i: (30 if i // 60 % 2 else 36) * MS)[1]
    assert long == 2 * WINDOW, "the rule sees two windows and no more: within half a period it looks flat"


def test_noise_alone_is_soon_taken_for_steady() -> None:
    """What the threshold of `slow_start` rests on: noise of 5 % without any start takes 3 times the least at most."""
    ends = []
    for seed in range(60):
        noise = noisy(seed, 0.05)
        ends.append(run(lambda _, noise=noise: 30 * MS * noise())[1] or 4000)  # type: ignore[misc]
    assert statistics.median(ends) < 2 * 2 * WINDOW
    assert max(ends) <= 3 * 2 * WINDOW


@given(window, window, st.randoms(use_true_random=False))
def test_the_order_within_a_window_does_not_matter_but_for_the_first(
    older: list[int], newer: list[int], shuffler: random.Random
) -> None:
    rest, again = older[1:], list(newer)
    shuffler.shuffle(rest)
    shuffler.shuffle(again)
    assert compare([older[0], *rest], again) == compare(older, newer)


@given(window, window, st.integers(-10, 10))
def test_the_unit_does_not_matter(older: list[int], newer: list[int], power: int) -> None:
    scaled = [[value * 2.0**power for value in values] for values in (older, newer)]
    assert compare(*scaled) == compare(older, newer)


@given(window)
def test_a_window_is_like_itself(values: list[int]) -> None:
    values.insert(0, values.pop(values.index(min(values))))
    assert compare(values, values) == Change(0.0, 0.0, 0.0, 0.0, first_is_outlier=False)


@given(window, window)
def test_the_changes_are_pyperfs(older: list[int], newer: list[int]) -> None:
    """pyperf relates each difference to the second window; its quartiles are of type 7 too."""
    change = compare(older, newer)
    quartiles = [statistics.quantiles(values, n=4, method="inclusive") for values in (older, newer)]
    for found, index in ((change.q1, 0), (change.median, 1), (change.q3, 2)):
        assert found == pytest.approx((quartiles[1][index] - quartiles[0][index]) / quartiles[1][index])
    spreads = [statistics.median([abs(v - statistics.median(values)) for v in values]) for values in (older, newer)]
    if spreads[1]:
        assert change.deviation == pytest.approx((spreads[1] - spreads[0]) / spreads[1])


@pytest.mark.parametrize(
    ("change", "steady"),
    [
        (Change(0.02, -0.05, 0.05, -0.10, False), True),
        (Change(-0.021, 0, 0, 0, False), False),
        (Change(0, 0.051, 0, 0, False), False),
        (Change(0, 0, -0.051, 0, False), False),
        (Change(0, 0, 0, 0.101, False), False),
        (Change(0, 0, 0, None, False), False),
        (Change(0, 0, 0, 0, True), False),
    ],
)
def test_every_limit_counts(change: Change, steady: bool) -> None:
    assert change.is_steady is steady


def test_a_spread_that_begins_from_nothing_is_a_change() -> None:
    flat, spread = [30.0] * WINDOW, [30.0 + i % 2 * 0.1 for i in range(WINDOW)]
    assert compare(flat, spread).deviation == 1
    assert compare(spread, flat).deviation is None
    assert compare(flat, flat).is_steady


def test_samples_of_no_length_come_to_no_window() -> None:
    rule, ended = run(lambda _: 0, most=200)
    assert ended is None
    assert rule.facts()["warm_up_last_change"] is None
