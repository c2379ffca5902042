# SPDX-License-Identifier: Apache-2.0
"""What BASE and NEW may be, on a real store: sweeps, repeats, runs, `last`, `previous`; and what is left to measure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farm.api import Farm
from farm.compare import Rules, Verdict
from farm.compare.order import turns
from farm.comparing import session_turns, turn_records, unmeasured
from farm.errors import UnavailableError, UsageError
from farm.settings import Settings
from tests.compare.stored import put, put_repeats, sweep


@pytest.fixture
def farm(settings: Settings) -> Farm:
    return Farm(settings)


def bases(farm: Farm, base: str, new: str, **given: object) -> tuple[list[float], list[float]]:
    """The medians of both sides, batch 1."""
    found = farm.compare(base, new, **given)  # type: ignore[arg-type]
    cell = next(cell for cell in found.cells if cell.cell["batch"] == "1")
    return [p.value for p in cell.base.processes], [p.value for p in cell.new.processes]


def test_sweeps_are_named_by_name_id_or_the_beginning_of_it(farm: Farm) -> None:
    put(farm, sweep("a"), 8.0)
    new = put(farm, sweep("b"), 9.0, hour=1)
    for name in ("b", new, new[:8]):
        assert bases(farm, "a", name) == ([8.0], [9.0])


def test_several_sweeps_make_one_side(farm: Farm) -> None:
    first = put_repeats(farm, sweep("a"), 8.0, 3)
    put(farm, sweep("b"), 9.0)
    assert bases(farm, ",".join(first), "b") == ([8.0, 8.008, 8.016], [9.0])


def test_a_name_is_its_newest_sweep_and_with_repeats_all_of_them(farm: Farm) -> None:
    put_repeats(farm, sweep("a"), 8.0)
    put_repeats(farm, sweep("b"), 10.0, hour=0.5)
    put(farm, sweep("a", batch="1"), 99.0, hour=-5)
    assert bases(farm, "a", "b") == ([8.032], [10.04])
    found = farm.compare("a", "b", repeats=True)
    assert {cell.verdict for cell in found.cells} == {Verdict.SLOWER}
    assert {len(cell.base.processes) for cell in found.cells} == {5}
    assert found.caveats == ()


def test_a_run_is_compared_with_a_run(farm: Farm) -> None:
    put(farm, sweep("a"), 8.0)
    put(farm, sweep("b"), 9.0)
    a, b = (next(r for r in farm.records(name) if r.batch_size == 1).run_id for name in ("a", "b"))  # type: ignore[union-attr]
    assert bases(farm, a, b) == ([8.0], [9.0])
    assert [cell.cell["batch"] for cell in farm.compare(a, b).cells] == ["1"]


def test_last_and_previous_are_the_finished_sweeps_of_one_name(farm: Farm) -> None:
    put(farm, sweep("night"), 8.0, hour=0)
    put(farm, sweep("other"), 1.0, hour=1)
    put(farm, sweep("night").repeated(1), 9.0, hour=2)
    assert bases(farm, "previous", "last") == ([8.0], [9.0])
    put(farm, sweep("night").repeated(2), 7.0, hour=3, skip=(2,))
    assert bases(farm, "previous", "last") == ([8.0], [9.0])
    assert "not measured alternately" in farm.compare("previous", "last").caveats[0]


def test_a_canary_is_not_the_last_sweep_and_a_sweep_of_that_name_is(farm: Farm) -> None:
    put(farm, sweep("a"), 8.0, hour=0)
    put(farm, sweep("canary"), 9.0, hour=1)
    own = sweep("canary", batch="1")
    canary = own.model_copy(update={"protocol": replace(own.protocol, name="canary")})
    put(farm, canary, 5.0, hour=2)
    assert bases(farm, "a", "last") == ([8.0], [9.0])


@pytest.mark.parametrize(
    ("base", "new", "told"),
    [
        ("nope", "a", "no sweep or job 'nope'"),
        ("a", "", "names no sweep"),
        ("a", "a", "on both sides"),
        ("previous", "a", "comes before"),
        ("previous", "previous", "must name one sweep"),
        ("../../etc/passwd", "a", "not allowed"),
    ],
)
def test_sides_that_are_none_are_refused(farm: Farm, base: str, new: str, told: str) -> None:
    put(farm, sweep("a"), 8.0)
    with pytest.raises(UsageError, match=told):
        farm.compare(base, new)


def test_last_of_a_store_where_nothing_is_finished_is_told(farm: Farm) -> None:
    put(farm, sweep("a"), 8.0, skip=(1,))
    with pytest.raises(UsageError, match="no sweep is finished"):
        farm.compare("a", "last")


def test_repeats_and_last_do_not_go_together(farm: Farm) -> None:
    put_repeats(farm, sweep("a"), 8.0, 2)
    with pytest.raises(UsageError, match="tell them apart"):
        farm.compare("previous", "last", repeats=True)


def test_where_narrows_both_sides(farm: Farm) -> None:
    put(farm, sweep("a"), 8.0)
    put(farm, sweep("b"), 9.0)
    assert [cell.cell["batch"] for cell in farm.compare("a", "b", where="batch_size = 2").cells] == ["2"]
    with pytest.raises(UsageError, match="no runs to compare"):
        farm.compare("a", "b", where="batch_size = 64")


def test_where_nothing_can_be_compared_every_reason_is_listed(farm: Farm) -> None:
    put(farm, sweep("a"), 8.0)
    put(farm, sweep("b", protocol="paper"), 9.0)
    with pytest.raises(UsageError) as caught:
        farm.compare("a", "b")
    assert len(caught.value.problems) == 2
    assert all("not comparable" in problem and "inputs" in problem for problem in caught.value.problems)


def test_no_store_is_told(farm: Farm) -> None:
    with pytest.raises(UnavailableError, match="no store"):
        farm.compare("a", "b")


def test_what_is_measured_is_not_measured_again_and_another_session_is_fresh(farm: Farm) -> None:
    base, new = sweep("a"), sweep("b", workflow="openvino")
    farm.store.create()
    made = session_turns(farm.store, base, new, 3, seed=0, again=False)
    assert made == turns(base, new, 3)
    assert session_turns(farm.store, base, new, 3, seed=0, again=True) == made
    for turn in made[:2]:
        put(farm, turn.spec, 8.0)
    put(farm, made[2].spec, 8.0, skip=(2,))
    assert session_turns(farm.store, base, new, 3, seed=0, again=False) == made
    assert unmeasured(made, farm.store) == made[2:]
    assert (
        unmeasured(session_turns(farm.store, base, new, 4, seed=0, again=False), farm.store)[: len(made) - 2]
        == made[2:]
    )
    afresh = session_turns(farm.store, base, new, 3, seed=0, again=True)
    assert afresh == turns(base, new, 3, session=1)
    put(farm, afresh[0].spec, 8.0)
    assert session_turns(farm.store, base, new, 3, seed=0, again=False) == afresh


def test_the_records_of_all_turns_come_by_side(farm: Farm) -> None:
    made = turns(sweep("a"), sweep("b"), 2)
    for turn in made:
        put(farm, turn.spec, 8.0 if turn.side == "base" else 9.0)
    base, new = turn_records(made, farm.store)
    assert {r.metrics["latency_ms"] for r in base if r.batch_size == 1} == {8.0}
    assert len(base) == len(new) == 4


def test_the_threshold_decides(farm: Farm) -> None:
    put_repeats(farm, sweep("a"), 8.0)
    put_repeats(farm, sweep("b"), 8.4, hour=0.5)
    assert {c.verdict for c in farm.compare("a", "b", repeats=True).cells} == {Verdict.SLOWER}
    loose = farm.compare("a", "b", repeats=True, rules=Rules(threshold=0.1))
    assert {c.verdict for c in loose.cells} == {Verdict.SAME}


def test_a_sweep_of_a_newer_farm_does_not_stop_last(farm: Farm) -> None:
    put(farm, sweep("a"), 8.0)
    put(farm, sweep("b"), 9.0, hour=1)
    newer = {"schema": 99, "sweep_id": "zz-1", "name": "zz", "submitted_at": 9e12}
    farm.store.sweeps.write("zz-1", newer)
    assert bases(farm, "a", "last") == ([8.0], [9.0])
