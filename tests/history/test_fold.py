# SPDX-License-Identifier: Apache-2.0
"""A series from night to night: what becomes of a change, and that a replay is what was said night by night."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.history.fold import carry, look_at, step
from farm.history.memory import BUDGET, COMMON, NOISE, Memory, Said, Tonight, Watched, recall, remembered
from farm.history.model import Confirmation, State
from farm.history.tracked import rule_for
from tests.history.nights import KEY, measured, name, open_answer, points, quiet

RULE = rule_for("latency_ms")
POOL = 0.005


def fold(
    values: Sequence[float],
    answers: Mapping[int, Confirmation] | None = None,
    accepted: Mapping[int, str] | None = None,
    left: Mapping[int, str] | None = None,
    shifts: Mapping[int, float] | None = None,
    through_json: bool = False,
    metric: str = "latency_ms",
) -> tuple[Memory, list[Said]]:
    """All nights; `answers` and the rest by night. A decision stays, once made."""
    memory, said, nights, rule = Memory(), [], points(values), rule_for(metric)
    decided: tuple[str, ...] = ()
    for i, point in enumerate(nights):
        look = look_at(memory, KEY, nights[:i], point, rule, POOL)
        decided += (accepted[i],) if accepted and i in accepted else ()
        tonight = Tonight(
            point, look, (answers or {}).get(i), decided, (shifts or {}).get(i, 0.0), (left or {}).get(i, "")
        )
        memory, new = step(memory, nights[:i], tonight, rule)
        said += new
        if through_json:
            memory = recall(json.loads(json.dumps(remembered(memory))))
    return memory, said


def states(said: Sequence[Said]) -> list[str]:
    """Each event's states in order, without repetitions."""
    found: list[str] = []
    for one in said:
        if not found or found[-1] != one.state.value:
            found.append(one.state.value)
    return found


def test_a_large_change_is_confirmed_the_same_night() -> None:
    memory, said = fold([*quiet(20), 11.5], {20: measured(20, 1.15)})
    (one,) = said
    assert (one.state, one.since, one.worse, one.first) == (State.CONFIRMED, name(20), True, True)
    assert one.change == pytest.approx(0.15)
    assert one.located == name(20)
    assert memory.since == name(20)


def test_a_small_one_needs_a_second_night() -> None:
    answers = {20: measured(20, 1.05), 21: measured(21, 1.05)}
    values = [*quiet(20), 10.5, 10.5]
    _, said = fold(values[:-1], answers)
    assert states(said) == ["new"]
    _, said = fold(values, answers)
    assert states(said) == ["new", "confirmed"]
    assert {one.since for one in said} == {name(20)}
    _, said = fold(values, {20: measured(20, 1.05), 21: measured(21, 1.001)})
    assert states(said) == ["new", "dismissed"]


def test_a_change_seen_late_is_located_where_it_fits() -> None:
    values = [*quiet(20), 10.5, 10.5, 10.5]
    _, said = fold(values, {21: measured(21, 1.05), 22: measured(22, 1.05)}, left={20: NOISE})
    assert [(one.state, one.since, one.located) for one in said] == [
        (State.NEW, name(21), ""),
        (State.CONFIRMED, name(21), name(20)),
    ]


def test_the_second_night_is_asked_for_even_if_its_value_is_inconspicuous() -> None:
    nights = points([*quiet(20), 10.5, 10.1])
    memory, _ = fold([point.value for point in nights[:-1]], {20: measured(20, 1.05)})
    look = look_at(memory, KEY, nights[:-1], nights[-1], RULE, POOL)
    assert look.recheck
    assert look.trigger is not None
    assert (look.trigger.since, look.trigger.night) == (name(20), name(21))


def test_a_spike_is_dismissed_and_the_next_step_is_still_seen() -> None:
    memory, said = fold([*quiet(20), 12.0, *quiet(2), 12.0], {20: measured(20, 1.0), 23: measured(23, 1.2)})
    assert states(said) == ["dismissed", "confirmed"]
    assert said[-1].since == name(23)
    assert memory.since == name(23)


def test_no_slow_path_for_a_week_after_a_measurement_that_found_nothing() -> None:
    memory, _ = fold([*quiet(20), 12.0], {20: measured(20, 1.0)})
    assert memory.quiet == name(27)


def test_what_stays_open_is_let_go() -> None:
    _, said = fold([*quiet(20), *[10.5] * 3], {i: open_answer(i) for i in range(20, 23)})
    assert states(said) == ["new", "dismissed"]
    assert "open" in said[-1].notes[0]


def test_a_clock_effect_is_no_regression() -> None:
    memory, said = fold([*quiet(20), 11.5], {20: measured(20, 1.15, "UNCLEAR", clock=True)})
    (one,) = said
    assert (one.state, one.clock) == (State.DISMISSED, True)
    assert memory.watched == ()


def test_a_change_in_the_other_direction_does_not_confirm() -> None:
    _, said = fold([*quiet(20), 11.5], {20: measured(20, 0.85)})
    assert states(said) == ["dismissed"]


def test_without_the_old_side_two_nights_leave_it_unconfirmed() -> None:
    answers = {20: measured(20, 1.15, how="again"), 21: measured(21, 1.15, how="again")}
    memory, said = fold([*quiet(20), 11.5, 11.5], answers)
    assert states(said) == ["new", "unconfirmed"]
    assert memory.since == name(20)
    _, said = fold([*quiet(20), 11.5, 11.5], {20: measured(20, 1.0, "SAME", how="again")})
    assert said[0].state is State.DISMISSED
    _, said = fold([*quiet(20), 11.5, 10.0], answers)
    assert states(said) == ["new", "dismissed"]


def test_what_could_not_be_measured_waits_or_goes() -> None:
    _, said = fold([*quiet(20), 11.5, 11.5], left={20: BUDGET, 21: BUDGET})
    assert states(said) == ["new"]
    assert "budget" in said[0].notes[0]
    _, said = fold([*quiet(20), 11.5, 10.0])
    assert states(said) == ["new", "dismissed"]
    for reason in (NOISE, COMMON):
        assert fold([*quiet(20), 11.5], left={20: reason})[1] == []


def test_accepted_it_begins_anew() -> None:
    values = [*quiet(20), *quiet(6, 11.5), 10.0]
    memory, said = fold(values[:-1], {20: measured(20, 1.15)}, {23: name(20)})
    assert states(said) == ["confirmed", "accepted"]
    assert [one.night for one in said if one.state is State.ACCEPTED] == [name(23)]
    assert (memory.since, memory.watched) == (name(20), ())
    _, said = fold(values, {20: measured(20, 1.15), 26: measured(26, 0.87)}, {23: name(20)})
    assert (said[-1].state, said[-1].worse) == (State.CONFIRMED, False), "the old level is an improvement now"


def test_a_change_that_waits_can_be_accepted() -> None:
    memory, said = fold([*quiet(20), 10.5, 10.5], {20: measured(20, 1.05)}, {21: name(20)})
    assert states(said) == ["new", "accepted"]
    assert (memory.since, memory.pending) == (name(20), None)


def test_three_nights_back_are_fixed_and_two_are_not() -> None:
    values = [*quiet(20), *quiet(4, 11.5), *quiet(3)]
    memory, said = fold(values, {20: measured(20, 1.15)})
    assert states(said) == ["confirmed", "fixed"]
    assert (said[-1].night, memory.since, memory.watched) == (name(26), name(24), ())
    _, said = fold([*values[:26], 11.5, *quiet(2)], {20: measured(20, 1.15)})
    assert states(said) == ["confirmed"]


def test_coming_home_is_no_event_of_its_own() -> None:
    values = [*quiet(20), *quiet(8, 11.5), 10.0]
    nights = points(values)
    memory, _ = fold(values[:-1], {20: measured(20, 1.15)})
    assert look_at(memory, KEY, nights[:-1], nights[-1], RULE, POOL).trigger is None


def test_a_small_change_of_a_noisy_series_is_not_fixed_by_three_lucky_nights() -> None:
    watched = Watched(name(10), State.CONFIRMED, 10.0, 0.02, 0.03)
    memory, said = Memory(since=name(10), watched=(watched,), last=name(19)), []
    nights = points([10.1] * 20, first=20)
    for i, point in enumerate(nights):
        look = look_at(memory, KEY, nights[:i], point, RULE, POOL)
        memory, new = step(memory, nights[:i], Tonight(point, look), RULE)
        said += new
    assert [one.state for one in said].index(State.FIXED) > 3


def test_an_improvement_is_taken_at_once_and_losing_it_is_a_regression() -> None:
    values = [*quiet(20), *quiet(8, 8.0), 10.0]
    memory, said = fold(values, {20: measured(20, 0.8), 28: measured(28, 1.25)})
    assert [(one.state, one.worse) for one in said] == [(State.CONFIRMED, False), (State.CONFIRMED, True)]
    assert [one.since for one in memory.watched] == [name(28)]


def test_a_common_move_is_taken_over() -> None:
    values = [*quiet(20), *quiet(5, 10.8), 12.4]
    _, said = fold(values, {25: measured(25, 1.15)}, left={20: COMMON}, shifts={20: 0.077})
    assert [(one.state, one.since) for one in said] == [(State.CONFIRMED, name(25))]
    assert said[0].trigger is not None
    assert said[0].trigger.centre == pytest.approx(10.8, rel=0.01)


def test_an_absent_series_moves_along() -> None:
    before = points(quiet(20))
    memory = carry(Memory(), before, name(20), 0.077, RULE)
    tonight = points([10.8], first=21)[0]
    assert look_at(memory, KEY, before, tonight, RULE, POOL).trigger is None
    assert look_at(Memory(), KEY, before, tonight, RULE, POOL).trigger is not None


def test_open_events_move_with_their_device() -> None:
    values = [*quiet(20), *quiet(3, 11.5), *quiet(4, 10.35)]
    _, said = fold(values, {20: measured(20, 1.15)}, left={23: COMMON}, shifts={23: -0.105})
    assert states(said) == ["confirmed"], "a faster device does not fix it"


def test_zeros_pass_through() -> None:
    answer = Confirmation(KEY, name(20), "ab", "WORSE")
    memory, said = fold([0.0] * 20 + [0.3, 0.3], {20: answer}, metric="fallback_node_share")
    assert states(said) == ["confirmed"]
    assert said[0].change == pytest.approx(0.3)
    assert memory.watched[0].centre == 0.0


def test_nights_come_in_their_order() -> None:
    nights = points(quiet(3))
    memory, _ = fold([point.value for point in nights])
    with pytest.raises(ValueError, match="order"):
        step(memory, nights[:2], Tonight(nights[2], look_at(memory, KEY, nights[:2], nights[2], RULE, POOL)), RULE)


@pytest.mark.parametrize(
    "data", [{"pending": {"trigger": {}}}, {"watched": [{"since": "x"}]}, {"shifts": [1]}, {"pending": 3}, []]
)
def test_what_is_no_memory_is_refused(data: object) -> None:
    if data == []:
        data = {"watched": 7}
    with pytest.raises(ValueError, match="memory"):
        recall(data)  # type: ignore[arg-type]


def test_most_series_have_little_to_remember() -> None:
    memory, _ = fold(quiet(30))
    assert remembered(memory) == {"last": name(29)}


ANSWERS = st.sampled_from(["none", "agree", "same", "open", "again", "clock"])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([9.0, 10.0, 10.3, 11.5]), ANSWERS, st.sampled_from(["", BUDGET, NOISE, COMMON])),
             min_size=1, max_size=25),
    st.dictionaries(st.integers(8, 30), st.integers(8, 30), max_size=2),
)  # fmt: skip
def test_a_replay_is_what_was_said_night_by_night(tail: list[tuple[float, str, str]], decided: dict[int, int]) -> None:
    values = [*quiet(8), *(value for value, _, _ in tail)]
    kinds = {
        "agree": lambda i: measured(i, values[i] / 10),
        "same": lambda i: measured(i, 1.0),
        "open": open_answer,
        "again": lambda i: measured(i, values[i] / 10, how="again"),
        "clock": lambda i: measured(i, 1.0, clock=True),
    }
    answers = {8 + i: kinds[kind](8 + i) for i, (_, kind, _) in enumerate(tail) if kind != "none"}
    accepted = {night: name(since) for night, since in decided.items()}
    left = {8 + i: why for i, (_, _, why) in enumerate(tail)}
    shifts = {i: 0.05 for i, why in left.items() if why == COMMON}
    whole = fold(values, answers, accepted, left, shifts)
    assert fold(values, answers, accepted, left, shifts, through_json=True) == whole
    memory, said = whole
    open_states = (State.NEW, State.CONFIRMED, State.UNCONFIRMED)
    tonight = {one.since for one in said if one.night == memory.last and one.state in open_states}
    kept = {one.since for one in memory.watched} | ({memory.pending.trigger.since} if memory.pending else set())
    gains = {one.since for one in said if one.night == memory.last and one.state in open_states and not one.worse}
    assert kept - gains == tonight - gains, "what is open is said, and what is said to be open is remembered"


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 1000))
def test_the_unit_of_a_series_does_not_matter(factor: float) -> None:
    values = [*quiet(20), 10.5, 10.5, *quiet(3)]
    answers = {20: measured(20, 1.05), 21: measured(21, 1.05)}
    _, here = fold(values, answers)
    _, there = fold([value * factor for value in values], answers)
    assert [(one.state, one.since) for one in here] == [(one.state, one.since) for one in there]
    assert [replace(one, trigger=None) for one in here] == [
        replace(two, trigger=None, change=one.change) for one, two in zip(here, there, strict=True)
    ]
