# SPDX-License-Identifier: Apache-2.0
"""A night from its records to its events, and what people decide of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farm.canary import SHIFTED, STEADY, CanaryState
from farm.compare import Verdict
from farm.contract.device import StackInfo
from farm.errors import UsageError
from farm.history.decisions import ACCEPT, REOPEN, read_decisions, write_decision
from farm.history.document import Missed, Night, decode, encode
from farm.history.model import Confirmation, Decision, Event, State
from farm.history.nights import Assessment, Terms, assess, conclude, replay, write
from farm.store import Store
from tests.factories import STACK
from tests.history.stored import name_night, new_store, night_name, put, put_nights

STEADY_NIGHTS = 8
NOISE = (1.0, 1.002, 0.999, 1.001, 0.998, 1.0, 1.001, 0.999, 1.0, 1.002, 0.999, 1.001, 1.0, 0.998)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Eight quiet nights, of before nights were judged."""
    made = new_store(tmp_path / "store")
    put_nights(made, [8.0 * NOISE[number] for number in range(1, STEADY_NIGHTS + 1)])
    return made


def measured(found: Assessment, ratio: float = 1.2) -> list[Confirmation]:
    """What an A/B of everything that is wanted found."""
    verdict = Verdict.SAME if ratio == 1 else Verdict.SLOWER
    return [
        Confirmation(w.key, found.night, "ab", verdict, ratio, ratio - 0.01, ratio + 0.01, 0.992, sweeps=("ab-1",))
        for w in found.wanted
    ]


def night(store: Store, number: int, value: float, ratio: float | None = 1.2, **fields: object) -> list[Event]:
    """Run, judge and write a night; its events."""
    put(store, number, value * NOISE[number], **fields)  # type: ignore[arg-type]
    name_night(store, number)
    found = assess(store, night_name(number))
    made = measured(found, ratio) if ratio else []
    said = conclude(store, found, made, at=f"{night_name(number)}T06:00:00+00:00")
    write(store, said)
    return list(said.events)


def decide(store: Store, event: Event, action: str, number: int) -> None:
    write_decision(store, Decision(event.event_id, action, "because", f"{night_name(number)}T12:00:00+00:00", "me"))


def test_a_night_asks_for_what_it_cannot_settle_with_the_runs_of_both_sides(store: Store) -> None:
    last = put(store, 9, 9.6)
    name_night(store, 9)
    found = assess(store, night_name(9))
    (wanted,) = found.wanted
    assert wanted.key.endswith(":latency_ms")
    assert wanted.new == (last.run_id,)
    assert all(store.records.read(run).metrics["latency_ms"] < 8.1 for run in wanted.base)
    assert wanted.predicted_s == pytest.approx(10 * 20.0), "five processes a side of 20 s each"
    assert wanted.trigger.change == pytest.approx(0.2, abs=0.01)


def test_a_budget_that_does_not_suffice_leaves_it_for_another_night(store: Store) -> None:
    put(store, 9, 9.6)
    name_night(store, 9)
    found = assess(store, night_name(9), terms=Terms(budgets={"box-cpu": 100.0}))
    assert found.wanted == ()
    said = conclude(store, found)
    assert [(each.key, each.reason) for each in said.missed] == [(found.triggers[0].key, "budget")]
    assert [event.state for event in said.events] == [State.NEW]


def test_a_step_is_confirmed_the_same_night_and_stays_one_event(store: Store) -> None:
    (first,) = night(store, 9, 9.6)
    assert (first.state, first.worse, first.since) == (State.CONFIRMED, True, "2026-03-09")
    assert first.change == pytest.approx(0.2, abs=0.01)
    (second,) = night(store, 10, 9.6)
    assert second.event_id == first.event_id
    assert (second.state, second.night) == (State.CONFIRMED, "2026-03-10")


def test_what_no_measurement_finds_again_is_dismissed_and_gone_the_next_night(store: Store) -> None:
    (event,) = night(store, 9, 9.6, ratio=1.0)
    assert event.state is State.DISMISSED
    assert night(store, 10, 8.0) == []


def test_a_step_that_goes_away_is_fixed(store: Store) -> None:
    night(store, 9, 9.6)
    states = [[event.state for event in night(store, number, 8.0)] for number in (10, 11, 12, 13)]
    assert states == [[State.CONFIRMED], [State.CONFIRMED], [State.FIXED], []]


def test_an_accepted_step_is_the_new_level(store: Store) -> None:
    (event,) = night(store, 9, 9.6)
    decide(store, event, ACCEPT, 9)
    (accepted,) = night(store, 10, 9.6)
    assert accepted.state is State.ACCEPTED
    assert accepted.decision is not None
    assert accepted.decision.reason == "because"
    assert night(store, 11, 9.6) == []


def test_an_acceptance_that_is_taken_back_is_as_if_it_had_never_been(store: Store) -> None:
    (event,) = night(store, 9, 9.6)
    decide(store, event, ACCEPT, 9)
    night(store, 10, 9.6)
    assert night(store, 11, 9.6) == []
    decide(store, event, REOPEN, 11)
    (again,) = night(store, 12, 9.6)
    assert (again.event_id, again.state, again.decision) == (event.event_id, State.CONFIRMED, None)
    (again,) = night(store, 13, 9.6)
    assert again.state is State.CONFIRMED


def test_a_change_that_was_seen_late_begins_where_it_fits_and_can_be_accepted(store: Store) -> None:
    (first,) = night(store, 9, 8.4, ratio=None)
    newer = replace(STACK, libraries={"torch": "2.9.0"})
    (event,) = night(store, 10, 9.6, ratio=1.2, stack=newer)
    assert (event.event_id, event.state) == (first.event_id, State.CONFIRMED)
    assert (first.since, event.since) == (night_name(9), night_name(10)), "the 9th is nearer to the level of before"
    assert (first.cause, event.cause) == ((), ("torch 2.8.0 -> 2.9.0",))
    decide(store, event, ACCEPT, 10)
    (accepted,) = night(store, 11, 9.6, stack=newer)
    assert (accepted.event_id, accepted.state, accepted.since) == (event.event_id, State.ACCEPTED, night_name(10))
    assert night(store, 12, 9.6, stack=newer) == []


def test_a_series_that_is_away_when_its_device_moves_comes_back_to_the_new_level(store: Store) -> None:
    models = ("alexnet", "vgg11", "squeezenet1_0", "googlenet")
    for model in models:
        put_nights(store, [8.0 * NOISE[number] for number in range(1, STEADY_NIGHTS + 1)], model)
    for model in models:
        put(store, 9, 9.6, model=model)
    name_night(store, 9)
    found = assess(store, night_name(9))
    (move,) = found.moves
    assert len(move.keys) == 4
    assert [one.key for one in found.wanted] == list(move.witnesses)
    assert len(move.witnesses) == 3
    (away,) = found.carried
    assert away not in move.keys
    write(store, conclude(store, found))
    for model in ("resnet18", *models):
        put(store, 10, 9.6 * NOISE[10], model=model)
    name_night(store, 10)
    back = assess(store, night_name(10))
    assert back.triggers == (), "its history moved along"


def test_limits_of_a_device_hold_when_a_night_is_folded(store: Store) -> None:
    put(store, 9, 9.6)
    name_night(store, 9)
    terms = Terms(thresholds={"box-cpu": {"history_at_once": 0.5}})
    found = assess(store, night_name(9), terms=terms)
    (event,) = conclude(store, found, measured(found)).events
    assert event.state is State.NEW, "20 % is not enough for one night's measurement here"


def test_the_cause_is_what_changed_between_both_nights(store: Store) -> None:
    newer = replace(STACK, libraries={"torch": "2.9.0"})
    (event,) = night(store, 9, 9.6, stack=newer)
    assert event.cause == ("torch 2.8.0 -> 2.9.0",)


def test_events_of_one_cause_on_a_device_are_one_group(store: Store) -> None:
    newer: StackInfo = replace(STACK, libraries={"torch": "2.9.0"})
    metrics = {"latency_ms": 9.6, "build_s": 20.0}
    for number in range(1, STEADY_NIGHTS + 1):
        put(store, number, 5.0, run_id=f"more-{number}", metrics={"build_s": 10.0 * NOISE[number]})
    put(store, 9, None, outcome="ok", metrics=metrics, stack=newer)
    name_night(store, 9)
    found = assess(store, night_name(9))
    said = conclude(store, found, measured(found, 1.5))
    assert {event.metric for event in said.events} == {"latency_ms", "build_s"}
    assert len({event.group for event in said.events}) == 1


def test_judging_a_night_twice_gives_the_same(store: Store) -> None:
    night(store, 9, 9.6)
    before = store.nights.read(night_name(9))
    found = assess(store, night_name(9))
    write(store, conclude(store, found, measured(found), at=f"{night_name(9)}T06:00:00+00:00"))
    assert store.nights.read(night_name(9)) == before


def test_nights_replayed_from_their_records_are_the_same(store: Store) -> None:
    (event,) = night(store, 9, 9.6)
    night(store, 10, 9.6)
    decide(store, event, ACCEPT, 10)
    for number in (11, 12):
        night(store, number, 9.6)
    written = [told for document in store.nights.list() if (told := decode(document)).assessed_at]
    assert len(written) == 4
    assert replay(store, "2026-04-01") == written


def test_a_memory_of_another_schema_is_made_again(store: Store) -> None:
    (event,) = night(store, 9, 9.6)
    document = store.nights.read(night_name(9))
    document["series"]["schema"] = 99
    store.nights.write(night_name(9), document)
    (again,) = night(store, 10, 9.6)
    assert (again.event_id, again.state) == (event.event_id, State.CONFIRMED)


def test_what_is_said_of_the_run_itself_stays(store: Store) -> None:
    name = night_name(9)
    put(store, 9, 8.0)
    store.nights.write(name, encode(Night(name, ("nightly-09",), run={"state": "assessing"})))
    write(store, conclude(store, assess(store, name), missed=[Missed("k", "the device was gone")]))
    kept = decode(store.nights.read(name))
    assert kept.run == {"state": "assessing"}
    assert kept.missed == (Missed("k", "the device was gone"),)


def test_a_canary_that_shifted_is_a_device_event_until_it_is_steady(store: Store) -> None:
    put(store, 9, 8.0)
    name_night(store, 9)
    shifted = CanaryState(SHIFTED, change=0.09, since="2026-03-09T01:00:00+00:00", evidence="9 % slower")
    said = conclude(store, assess(store, night_name(9), canaries={"box-cpu": shifted}))
    (event,) = said.events
    assert (event.kind, event.device, event.state, event.change) == ("device", "box-cpu", State.CONFIRMED, 0.09)
    assert event.notes == ("its canary: 9 % slower",)
    write(store, said)
    for number, canary, state in ((10, shifted, State.CONFIRMED), (11, CanaryState(STEADY), State.FIXED)):
        put(store, number, 8.0)
        name_night(store, number)
        said = conclude(store, assess(store, night_name(number), canaries={"box-cpu": canary}))
        write(store, said)
        assert [each.state for each in said.events] == [state]


def test_records_that_cannot_be_read_are_named(store: Store) -> None:
    record = put(store, 9, 8.0)
    store.records.day_path(record).with_name("foreign.json").write_text('{"hello": "world"}')
    name_night(store, 9)
    found = assess(store, night_name(9))
    assert any("foreign.json" in problem for problem in found.problems)
    assert conclude(store, found).problems == found.problems


def test_a_decision_that_cannot_be_read_is_named(store: Store) -> None:
    store.decisions.path("bad").write_text('{"schema": 1}')
    store.decisions.path("late").write_text(
        '{"schema": 1, "event_id": "e", "action": "accept", "reason": "r", "decided_at": "soon", "by": ""}'
    )
    assert len(read_decisions(store).problems) == 2


def test_a_night_that_is_none_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="is not a night"):
        assess(store, "tonight")
