# SPDX-License-Identifier: Apache-2.0
"""Who goes next: priority, then fair share, then submission; the same whatever the order of the input."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from farm.broker.jobs import Head
from scheduler.choose import choose


def head(
    sweep: str, *, priority: int = 5, served: float = 0, order: int = 0, key: str = "cls:x", took: float = 10
) -> Head:
    return Head(sweep, key, f"{sweep}-{order}", priority, served, order, took)


def test_a_device_takes_its_own_line_and_its_class_line_only() -> None:
    heads = [head("a", key="cls:y"), head("b", key="dev:e"), head("c", key="dev:d")]
    assert choose(heads, "d", "x") == heads[2]
    assert choose(heads[:2], "d", "x") is None
    assert choose([], "d", "x") is None


def test_priority_goes_before_share_and_share_before_age() -> None:
    urgent, starved, old = head("u", priority=9, served=99), head("s", served=1), head("o", served=2)
    ages = {"u": 3.0, "s": 2.0, "o": 1.0}
    assert choose([old, starved, urgent], "d", "x", ages) == urgent
    assert choose([old, starved], "d", "x", ages) == starved
    assert choose([dataclasses.replace(starved, served_s=2.0), old], "d", "x", ages) == old


HEADS = st.lists(
    st.builds(
        head,
        st.sampled_from("abcdef"),
        priority=st.integers(0, 9),
        served=st.sampled_from([0.0, 1.0, 2.5]),
        order=st.integers(0, 5),
        key=st.sampled_from(["cls:x", "dev:d", "cls:y"]),
    ),
    unique_by=lambda h: (h.sweep_id, h.target_key),
)


@given(HEADS, st.randoms(), st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 9)))
def test_the_order_of_the_heads_changes_nothing(heads: list[Head], rng: object, ages: Mapping[str, float]) -> None:
    mixed = list(heads)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert choose(mixed, "d", "x", ages) == choose(heads, "d", "x", ages)


@given(HEADS)
def test_nobody_of_lower_priority_goes_before_anybody_of_higher(heads: list[Head]) -> None:
    chosen = choose(heads, "d", "x")
    able = [h.priority for h in heads if h.target_key in ("cls:x", "dev:d")]
    assert (chosen.priority if chosen else None) == max(able, default=None)


def simulate(costs: Mapping[str, Sequence[float]], rounds: int) -> tuple[list[str], dict[str, float]]:
    """Hand out `rounds` jobs of sweeps whose jobs cost, in turn, `costs`; return the order and what each was served."""
    served = dict.fromkeys(costs, 0.0)
    taken: Counter[str] = Counter()
    order = []
    for _ in range(rounds):
        heads = [
            head(name, served=served[name], order=taken[name], took=each[taken[name] % len(each)])
            for name, each in costs.items()
        ]
        chosen = choose(heads, "d", "x")
        assert chosen is not None
        served[chosen.sweep_id] += chosen.predicted_s
        taken[chosen.sweep_id] += 1
        order.append(chosen.sweep_id)
    return order, served


COSTS = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.floats(1, 100), min_size=1, max_size=4), min_size=2, max_size=6
)


@given(COSTS)
def test_sweeps_of_one_priority_share_the_device_and_nobody_starves(costs: dict[str, list[float]]) -> None:
    """Start-time fair queueing: two sweeps with work are never further apart than their two largest jobs together."""
    order, served = simulate(costs, 300)
    largest = {name: max(each) for name, each in costs.items()}
    for a in costs:
        for b in costs:
            assert abs(served[a] - served[b]) <= largest[a] + largest[b] + 1e-6
    longest_wait = sum(max(each) for each in costs.values()) / min(min(each) for each in costs.values())
    for name in costs:
        turns = [i for i, taken in enumerate(order) if taken == name]
        gaps = [b - a for a, b in zip([-1, *turns], turns, strict=False)]
        assert turns
        assert max(gaps) <= longest_wait * len(costs) + 1


def test_a_sweep_of_short_jobs_gets_more_of_them_not_more_time() -> None:
    order, served = simulate({"long": [50.0], "short": [5.0]}, 110)
    assert Counter(order) == {"short": 100, "long": 10}
    assert served == {"short": 500.0, "long": 500.0}
