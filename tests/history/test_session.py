# SPDX-License-Identifier: Apache-2.0
"""The sweeps of a session and what its records say of each trigger; the numbers are made, the decisions are real."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from farm.compare.order import BASE, NEW
from farm.confirming import asked_of
from farm.contract.job import BatchLadder, Pin, Protocol
from farm.contract.outcome import Outcome
from farm.contract.protocols import PROTOCOLS
from farm.contract.record import Record
from farm.errors import UsageError
from farm.history.detect import base_nights
from farm.history.model import Event, NightPoint, Series, State, Trigger
from farm.history.session import Member, Session, make_session, single
from farm.history.settle import conclude, ends_session, more
from farm.history.sides import Setup, Sides
from farm.identity import series_id
from farm.regressions import Explained
from tests.factories import make_flag, make_job, make_record

PIN = Pin("engine", "a" * 64, "run-g0-b1")
SPREAD = (0.999, 1.0, 1.0005, 1.001, 1.002)


def member(metric: str = "latency_ms", change: float = 0.1, before: Sequence[float] = (), **job: Any) -> Member:
    """A trigger on batch size 1."""
    now = make_record(job=make_job(**job))
    trigger = Trigger(f"{series_id(now)}:{metric}", "2026-11-21", "2026-11-21", "step", 10.0, 0.01, 7, 9.0, change, 0.0)
    nights = tuple(tuple(runs(metric, [value])) for value in before)
    return Member(trigger, now, now, nights, 3.0)


def session(*members: Member, how: str = "ab", rebuild: bool = False, pins: tuple[Pin, ...] = (PIN,)) -> Session:
    """A session of both sides, or of one."""
    base = Setup("default", pins) if how == "ab" else None
    return make_session(members, Sides(how, base, Setup("default"), "the base", "no base"), rebuild=rebuild)


def runs(metric: str, values: Sequence[float], **fields: Any) -> list[Record]:
    """A run of one process for each value."""
    return [make_record(run_id=f"run-{i}", metrics={metric: value}, **fields) for i, value in enumerate(values)]


def times(middle: float, **fields: Any) -> list[Record]:
    """Five runs around a latency."""
    return runs("latency_ms", [middle * factor for factor in SPREAD], **fields)


def test_a_session_alternates_single_processes_of_the_job_on_its_device() -> None:
    made = session(member(protocol=dataclasses.replace(PROTOCOLS["paper"], processes=3, max_processes=5)))
    turns = made.turns(5)
    assert sorted(turn.side for turn in turns) == [BASE] * 5 + [NEW] * 5
    assert len({turn.spec.sweep_id for turn in turns}) == 10
    assert [turn.spec.sweep_id for turn in made.turns(7)][:10] == [turn.spec.sweep_id for turn in turns]
    for turn in turns:
        spec = turn.spec
        assert (spec.protocol.processes, spec.protocol.max_processes) == (1, None)
        assert spec.batches.sizes == (1,)
        assert spec.purpose == "confirmation"
        assert spec.devices is not None
        assert spec.devices[0].device_id == "box-cpu"
        assert bool(spec.pins) == (turn.side == BASE)
    assert made.predicted_s == 3.0


def test_one_side_alone_has_as_many_turns_as_processes() -> None:
    made = session(member(), how="again")
    assert [turn.side for turn in made.turns(5)] == [NEW] * 5
    assert [turn.number for turn in made.turns(5)] == [1, 2, 3, 4, 5]


def test_one_engine_for_the_ladder_keeps_the_ladder() -> None:
    ladder = member(options={"profile": "ladder"}, workflow="onnx_tensorrt", batches=BatchLadder((1, 8)))
    assert session(ladder).new.batches.sizes == (1, 8)


def test_only_sides_that_build_by_themselves_are_built_anew() -> None:
    of_engine = member(workflow="onnx_tensorrt")
    assert session(of_engine, rebuild=True).new.rebuilds is None
    by_stack = session(of_engine, rebuild=True, pins=())
    assert by_stack.new.rebuilds is not None
    assert by_stack.new.rebuilds.timing_cache == "cold"
    assert session(member(), rebuild=True, pins=()).new.rebuilds is None


def test_single_leaves_the_rest_of_the_protocol_alone() -> None:
    kept: Protocol = dataclasses.replace(PROTOCOLS["paper"], processes=5, processes_half_width=0.01)
    assert single(kept) == PROTOCOLS["paper"]


@pytest.mark.parametrize(("now", "verdict"), [(11.0, "SLOWER"), (9.0, "FASTER"), (10.0, "SAME")])
def test_five_processes_a_side_settle_it(now: float, verdict: str) -> None:
    found = member()
    made = session(found)
    told = conclude(made, found, times(10.0), times(now))
    assert (told.verdict, told.how, told.base) == (verdict, "ab", "the base")
    assert told.ratio == pytest.approx(now / 10.0, rel=0.01)
    assert told.confidence is not None
    assert told.confidence >= 0.99
    assert more(made, times(10.0), times(now)) == 0


def test_an_open_answer_asks_for_more_up_to_a_limit() -> None:
    found = member(change=0.05)
    noisy = runs("latency_ms", [9.0, 9.8, 10.4, 11.0, 12.0])
    assert conclude(session(found), found, times(10.0), noisy).verdict == "UNCLEAR"
    assert more(session(found), times(10.0), noisy) == 5
    assert more(session(found), times(10.0) * 3, noisy * 3) == 0


def test_a_slower_clock_is_no_slower_software() -> None:
    def clocked(middle: float, mhz: float) -> list[Record]:
        return [
            make_record(run_id=f"r{i}", metrics={"latency_ms": middle * factor, "gpu_clock_sm_mhz": mhz})
            for i, factor in enumerate(SPREAD)
        ]

    found = member()
    told = conclude(session(found), found, clocked(10.0, 1980.0), clocked(11.0, 1800.0))
    assert (told.verdict, told.clock_effect) == ("UNCLEAR", True)
    assert "clock effect" in told.reason
    assert more(session(found), clocked(10.0, 1980.0), clocked(11.0, 1800.0)) == 0
    assert not conclude(session(found), found, clocked(10.0, 1980.0), clocked(11.0, 1980.0)).clock_effect


def test_only_now_is_held_against_nights_and_says_what_that_is_worth() -> None:
    found = member(before=[10.0 * factor for factor in SPREAD])
    told = conclude(session(found, how="again"), found, [], times(11.0))
    assert (told.verdict, told.how) == ("SLOWER", "again")
    assert told.reason.startswith("no base; only what runs now was measured")
    few = member(before=[10.0, 10.01])
    assert conclude(session(few, how="again"), few, [], times(11.0)).verdict == "UNCLEAR"


def test_flagged_processes_settle_nothing_unless_they_are_accepted() -> None:
    found = member()
    made, flagged = session(found), times(11.0, flags=[make_flag("host_busy")])
    told = conclude(made, found, times(10.0), flagged)
    assert told.verdict == ""
    assert "host_busy" in told.reason
    assert more(made, times(10.0), flagged) == 0
    assert conclude(made, found, times(10.0), flagged, accept=["host_busy"]).verdict == "SLOWER"


def test_a_share_may_have_been_zero() -> None:
    found = member("fallback_node_share", change=0.2)
    none, some = runs("fallback_node_share", [0.0] * 5), runs("fallback_node_share", [0.2] * 5)
    told = conclude(session(found), found, none, some)
    assert (told.verdict, told.ratio) == ("WORSE", None)


def test_when_a_session_is_given_up() -> None:
    assert not ends_session([])
    assert not ends_session([Outcome.CRASHED])
    assert ends_session([Outcome.CRASHED, Outcome.TIMED_OUT])
    assert ends_session([Outcome.CANCELLED])
    assert ends_session([Outcome.UNSUPPORTED])


def test_an_event_of_which_nothing_can_be_measured_is_refused() -> None:
    trigger = member().trigger
    event = Event("0123", "device", "latency_ms", "box-cpu", (), "n", "n", State.NEW, 0.1, True, (trigger,))
    with pytest.raises(UsageError, match="no series whose change could be measured"):
        asked_of(Explained(event, None, "box-cpu", (), ()))
    points = tuple(NightPoint(f"2026-11-{day:02d}", 10.0, (f"run-{day}",)) for day in range(2, 22))
    series = Series(trigger.key.partition(":")[0], "latency_ms", "box-cpu", "cpu-test", points=points)
    event = dataclasses.replace(event, since=trigger.since)
    (asked,) = asked_of(Explained(event, series, "box-cpu", ("run-20",), ("run-21",)))
    history = [point for point in points if point.night < trigger.since][-trigger.count :]
    assert asked.base == tuple(point.runs[0] for point in base_nights(history, trigger)[:5])
    assert (asked.trigger, asked.new) == (trigger, ("run-21",))
    # Located two nights before what the trigger said: those nights are no longer of before.
    early = dataclasses.replace(event, since="2026-11-18")
    (asked,) = asked_of(Explained(early, series, "box-cpu", ("run-17",), ("run-21",)))
    assert asked.base
    assert not {"run-18", "run-19", "run-20"} & set(asked.base)
