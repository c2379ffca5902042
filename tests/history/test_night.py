# SPDX-License-Identifier: Apache-2.0
"""A night's plan: the device first, then the queue, then the budget."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from farm.history.memory import BUDGET, COMMON, NOISE, Look
from farm.history.model import Trigger
from farm.history.night import Candidate, plan_night


def candidate(
    key: str, z: float, device: str = "box", p: float | None = None, recheck: bool = False, metric: str = "latency_ms"
) -> Candidate:
    p_value = p if p is not None else (1e-6 if abs(z) > 3 else 0.5)
    found = Trigger(key, "2026-01-20", "2026-01-20", "step", 10, 0.01, 20, z, z / 100, p_value)
    look = Look(key, "2026-01-20", True, z, z / 100, p_value, found if abs(z) > 3 else None, recheck)
    return Candidate(device, metric, look, 10.0)


def quiet(count: int, device: str = "box") -> list[Candidate]:
    return [candidate(f"quiet-{device}-{i:02}", 0.1, device) for i in range(count)]


def test_the_most_unusual_goes_first() -> None:
    plan = plan_night([*quiet(20), candidate("a", 5), candidate("b", -9)])
    assert [one.look.key for one in plan.ask] == ["b", "a"]
    assert plan.moves == ()
    assert plan.left == {}


def test_what_waits_for_its_second_night_goes_before() -> None:
    plan = plan_night([*quiet(20), candidate("a", 9), candidate("b", 4, recheck=True)])
    assert [one.look.key for one in plan.ask] == ["b", "a"]


def test_noise_among_many_is_not_measured() -> None:
    plan = plan_night([*quiet(300), candidate("a", 3.1, p=0.006)])
    assert plan.ask == ()
    assert plan.left == {"a": NOISE}
    assert plan_night([*quiet(3), candidate("a", 3.1, p=0.006)]).ask


def test_the_budget_is_of_each_device() -> None:
    both = [*quiet(20), *quiet(20, "other"), candidate("a", 9), candidate("b", 8), candidate("c", 7, "other")]
    plan = plan_night(both, {"box": 15.0, "other": 15.0})
    assert [one.look.key for one in plan.ask] == ["a", "c"]
    assert plan.left == {"b": BUDGET}
    assert len(plan_night(both).ask) == 3


def test_a_device_that_moved_is_one_event() -> None:
    moved = [candidate(f"m{i}", 6 + i / 10) for i in range(8)]
    other = candidate("z", -7)
    plan = plan_night([*quiet(10), *moved, other, *quiet(20, "other"), candidate("c", 7, "other")])
    (move,) = plan.moves
    assert (move.device, move.metric, move.judged, move.canary) == ("box", "latency_ms", 19, False)
    assert set(move.keys) == {one.look.key for one in moved}
    assert move.witnesses == ("m7", "m6", "m5")
    assert move.shift > 0.06
    assert [one.look.key for one in plan.ask] == ["c", "z"], "what went the other way is its own"
    assert plan.left == {one.look.key: COMMON for one in moved}
    assert set(plan.shifts()) == set(move.keys)


def test_two_series_are_no_common_move() -> None:
    assert plan_night([candidate("a", 6), candidate("b", 6), *quiet(1)]).moves == ()


def test_other_metrics_do_not_move_along() -> None:
    moved = [candidate(f"m{i}", 6) for i in range(8)]
    sizes = [candidate(f"s{i}", 6 if i == 0 else 0.1, metric="engine_bytes") for i in range(8)]
    plan = plan_night([*moved, *sizes])
    assert [move.metric for move in plan.moves] == ["latency_ms"]
    assert [one.look.key for one in plan.ask] == ["s0"]


def test_a_shifted_canary_holds_times_back_and_no_sizes() -> None:
    sizes = [candidate("s", 6, metric="engine_bytes")]
    plan = plan_night([*quiet(20), candidate("a", 6), *sizes], canary_shifted=["box"])
    (move,) = plan.moves
    assert (move.canary, move.keys, move.shift) == (True, ("a",), 0.0)
    assert [one.look.key for one in plan.ask] == ["s"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_the_order_of_series_does_not_matter(zs: list[float], rng: random.Random) -> None:
    candidates = [candidate(f"k{i:02}", z) for i, z in enumerate(zs)]
    plan = plan_night(candidates, {"box": 40.0})
    rng.shuffle(candidates)
    assert plan_night(candidates, {"box": 40.0}) == plan
