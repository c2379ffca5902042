# SPDX-License-Identifier: Apache-2.0
"""From the processes of both sides to an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.history.confirm import Answer, answer, confirmation, measured_move, more_processes
from farm.history.model import Confirmation, Trigger
from farm.history.tracked import rule_for
from farm.thresholds import DEFAULTS

LATENCY, SHARE = rule_for("latency_ms"), rule_for("fallback_node_share")
BASE = [10.0, 10.02, 9.98, 10.01, 9.99]


def found(change: float, centre: float = 10.0) -> Trigger:
    return Trigger("k", "2026-01-20", "2026-01-20", "step", centre, 0.01, 20, 5.0, change, 0.001)


def test_a_clear_change_agrees() -> None:
    new = [value * 1.05 for value in BASE]
    measured = confirmation(found(0.06), "2026-01-20", BASE, new, LATENCY)
    assert (measured.how, measured.verdict) == ("ab", "SLOWER")
    assert measured.ratio == pytest.approx(1.05, abs=0.005)
    assert answer(found(0.06), measured, LATENCY) is Answer.AGREED
    assert answer(found(-0.06), measured, LATENCY) is Answer.NONE
    assert measured_move(found(0.06), measured, LATENCY) == pytest.approx(0.0488, abs=0.004)
    assert more_processes(found(0.06), BASE, new, LATENCY) == 0


def test_equal_sides_do_not() -> None:
    measured = confirmation(found(0.06), "2026-01-20", BASE, BASE[::-1], LATENCY)
    assert answer(found(0.06), measured, LATENCY) is Answer.NONE
    assert more_processes(found(0.06), BASE, BASE, LATENCY) == 0


def test_noise_asks_for_more_up_to_the_limit() -> None:
    base, new = [9.0, 10.0, 11.0, 10.5, 9.5], [9.4, 10.4, 11.4, 10.9, 9.9]
    assert answer(found(0.06), confirmation(found(0.06), "n", base, new, LATENCY), LATENCY) is Answer.OPEN
    assert more_processes(found(0.06), [], [], LATENCY) == DEFAULTS["history_processes"]
    assert more_processes(found(0.06), base, new, LATENCY) == 5
    assert more_processes(found(0.06), base * 3, new * 3, LATENCY) == 0


def test_too_few_processes_prove_nothing() -> None:
    measured = confirmation(found(0.5), "n", [10.0, 10.1], [15.0, 15.1], LATENCY)
    assert answer(found(0.5), measured, LATENCY) is Answer.OPEN


def test_a_change_above_none_but_below_what_matters_is_none() -> None:
    measured = confirmation(found(0.03), "n", BASE, [value * 1.012 for value in BASE], LATENCY)
    assert answer(found(0.03), measured, LATENCY) is Answer.NONE


def test_zeros_have_no_ratio_and_an_answer() -> None:
    measured = confirmation(found(0.1, 0.0), "n", [0.0] * 5, [0.1] * 5, SHARE)
    assert (measured.ratio, measured.verdict) == (None, "WORSE")
    assert answer(found(0.1, 0.0), measured, SHARE) is Answer.AGREED
    assert measured_move(found(0.1, 0.0), measured, SHARE) == pytest.approx(0.1)
    same = confirmation(found(0.1, 0.0), "n", [0.0] * 5, [0.0] * 5, SHARE)
    assert answer(found(0.1, 0.0), same, SHARE) is Answer.NONE
    accuracy = rule_for("top1", samples=1000)
    worse = confirmation(found(-0.05, 0.75), "n", [0.75] * 5, [0.70] * 5, accuracy)
    assert worse.ratio == pytest.approx(0.70 / 0.75)
    assert answer(found(-0.05, 0.75), worse, accuracy) is Answer.AGREED


@pytest.mark.parametrize(
    ("verdict", "said"),
    [("SLOWER", Answer.AGREED), ("FASTER", Answer.NONE), ("SAME", Answer.NONE), ("UNCLEAR", Answer.OPEN)],
)
def test_without_an_interval_the_verdict_counts(verdict: str, said: Answer) -> None:
    assert answer(found(0.06), Confirmation("k", "n", "ab", verdict, 1.06), LATENCY) is said


def test_a_clock_effect_is_its_own_answer() -> None:
    measured = Confirmation("k", "n", "ab", "UNCLEAR", 1.06, 1.05, 1.07, 0.99, clock_effect=True)
    assert answer(found(0.06), measured, LATENCY) is Answer.CLOCK


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(5, 20), min_size=5, max_size=8), st.lists(st.floats(5, 20), min_size=5, max_size=8))
def test_both_directions_are_alike(base: list[float], new: list[float]) -> None:
    up, down = found(0.06), found(1 / 1.06 - 1)
    here = answer(up, confirmation(up, "n", base, new, LATENCY), LATENCY)
    there = answer(down, confirmation(down, "n", new, base, LATENCY), LATENCY)
    assert here is there
