# SPDX-License-Identifier: Apache-2.0
"""The order in which two sweeps are measured: alternating, balanced, repeatable, and with names of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.compare.order import alternation, turns
from farm.errors import UsageError
from farm.sweep import SweepSpec, parse_sweep

counts, seeds = st.integers(1, 30), st.integers(0, 2**32)


def sweep(name: str, latency_ms: float = 2.0) -> SweepSpec:
    return parse_sweep(
        f"name: {name}\nprotocol: quick\nmodels: [resnet18]\nprecisions: [fp32]\nbatch: [1]\n"
        f"workflows: [{{name: fake, latency_ms: {latency_ms}}}]\n",
        "test.yaml",
    )


@given(counts, seeds)
def test_each_side_gets_its_number_and_they_alternate_in_pairs(count: int, seed: int) -> None:
    order = alternation(count, seed)
    assert order.count("base") == order.count("new") == count
    assert all(set(order[i : i + 2]) == {"base", "new"} for i in range(0, 2 * count, 2))


@given(counts, seeds)
def test_a_steady_drift_cancels(count: int, seed: int) -> None:
    """The mean place of both sides is the same after each block of four, and at most half a place apart elsewhere."""
    order = alternation(count, seed)
    base, new = ([i for i, side in enumerate(order) if side == which] for which in ("base", "new"))
    assert abs(sum(base) - sum(new)) == (0 if count % 2 == 0 else 1)


@given(counts, seeds)
def test_fewer_processes_are_the_beginning_of_more(count: int, seed: int) -> None:
    assert alternation(count + 3, seed)[: 2 * count] == alternation(count, seed)


def test_the_seed_decides_which_side_begins() -> None:
    assert {alternation(2, seed)[0] for seed in range(20)} == {"base", "new"}


def test_each_turn_is_a_sweep_of_its_own_under_the_comparisons_name() -> None:
    made = turns(sweep("a"), sweep("b", 3.0), 5)
    assert len({turn.spec.sweep_id for turn in made}) == 10
    assert {turn.spec.name.rpartition("-")[2] for turn in made} == {"base", "new"}
    assert [turn.spec.again for turn in made if turn.side == "new"] == [0, 1, 2, 3, 4]
    assert turns(sweep("a"), sweep("b", 3.0), 5) == made


def test_one_sweep_against_itself_is_two_sides() -> None:
    made = turns(sweep("a"), sweep("a"), 3)
    assert len({turn.spec.sweep_id for turn in made}) == 6


def test_another_session_or_seed_or_sweep_shares_no_turn() -> None:
    ids = [
        {turn.spec.sweep_id for turn in made}
        for made in (
            turns(sweep("a"), sweep("b"), 3),
            turns(sweep("a"), sweep("b"), 3, session=1),
            turns(sweep("a"), sweep("b"), 3, seed=1),
            turns(sweep("a"), sweep("b", 4.0), 3),
        )
    ]
    assert len(set().union(*ids)) == 24


def test_a_long_name_stays_a_name() -> None:
    spec = turns(sweep("x" * 79 + ".y"), sweep("b"), 1)[0].spec
    assert len(spec.name) <= 100
    assert ".." not in spec.name


@pytest.mark.parametrize("count", [0, -1, 101])
def test_a_number_of_processes_that_is_none_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="processes a side"):
        turns(sweep("a"), sweep("b"), count)
