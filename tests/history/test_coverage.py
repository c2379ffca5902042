# SPDX-License-Identifier: Apache-2.0
"""What ran on earlier nights and does not tonight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.job import BatchLadder, Target
from farm.contract.outcome import Outcome
from farm.history.model import Event, State
from farm.history.nights import assess, conclude, write
from farm.store import Store
from tests.factories import DEVICE, make_job
from tests.history.stored import job_of, name_night, new_store, night_name, put


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path / "store")


def judged(store: Store, number: int) -> list[Event]:
    """The events of a night, which is judged and written."""
    name_night(store, number)
    night = conclude(store, assess(store, night_name(number)), at=f"{night_name(number)}T06:00:00+00:00")
    write(store, night)
    return list(night.events)


def refused(store: Store, number: int, **fields: Any) -> None:
    put(store, number, None, batch_size=None, outcome=Outcome.UNSUPPORTED, **fields)


def test_a_job_that_fails_is_new_then_confirmed_then_fixed(store: Store) -> None:
    for number, value in enumerate((8.0, None, None, 8.0, 8.0), start=1):
        put(store, number, value)
        put(store, number, 3.0, model="other")
        events = judged(store, number)
        wanted = [(), (State.NEW,), (State.CONFIRMED,), (State.FIXED,), ()][number - 1]
        assert tuple(event.state for event in events) == wanted, number
        for event in events:
            assert event.kind == "coverage"
            assert event.since == "2026-03-02"
            assert event.cause == ("ok -> failed", "it did not work")


def test_a_refused_job_that_fails_is_told_and_one_that_stays_refused_is_not(store: Store) -> None:
    for number in (1, 2):
        refused(store, number)
        assert judged(store, number) == []
    put(store, 3, None, batch_size=None)
    (event,) = judged(store, 3)
    assert event.cause[0] == "refused -> failed"


def test_a_job_refused_as_a_whole_stands_for_its_batch_sizes(store: Store) -> None:
    put(store, 1, 8.0, batch_size=1)
    put(store, 1, 9.0, batch_size=2)
    judged(store, 1)
    refused(store, 2)
    (event,) = judged(store, 2)
    assert event.cause[0] == "ok -> refused"
    assert "batch sizes: 1, 2" in event.notes
    assert len(event.keys) == 2


def test_a_ladder_that_ends_early_is_told_once_with_what_ended_it(store: Store) -> None:
    job = {n: replace(job_of(n), batches=BatchLadder((1, 2, 4))) for n in (1, 2)}
    for size in (1, 2, 4):
        put(store, 1, 8.0, batch_size=size, job=job[1])
    judged(store, 1)
    put(store, 2, 8.0, batch_size=1, job=job[2])
    put(store, 2, None, batch_size=2, job=job[2], outcome=Outcome.OUT_OF_MEMORY)
    (event,) = judged(store, 2)
    assert event.cause[0] == "ok -> failed"
    assert "batch sizes: 2, 4" in event.notes


def test_a_ladder_that_is_saturated_lacks_nothing(store: Store) -> None:
    for size in (1, 2, 4):
        put(store, 1, 8.0, batch_size=size)
    judged(store, 1)
    put(store, 2, 8.0, batch_size=1)
    put(store, 2, 9.0, batch_size=2, ladder_stop="saturated")
    assert judged(store, 2) == []


def test_what_is_missing_is_told_once_though_its_sweep_ran(store: Store) -> None:
    put(store, 1, 8.0)
    put(store, 1, 3.0, model="other")
    judged(store, 1)
    for number, state in ((2, State.NEW), (3, State.CONFIRMED)):
        put(store, number, 3.0, model="other")
        (event,) = judged(store, number)
        assert (event.state, event.cause[0]) == (state, "ok -> missing")
    put(store, 4, 8.0)
    put(store, 4, 3.0, model="other")
    (event,) = judged(store, 4)
    assert event.state is State.FIXED


def test_a_sweep_that_did_not_run_leaves_nothing_missing(store: Store) -> None:
    put(store, 1, 8.0)
    judged(store, 1)
    put(store, 2, 3.0, job=make_job(job_id="z", sweep_id="nightly-02", sweep_name="another", model="other"))
    assert judged(store, 2) == []


def test_a_device_on_which_nothing_ran_is_one_event_until_it_is_back(store: Store) -> None:
    second = replace(DEVICE, device_id="box2-cpu", device_class="cpu-other", host="box2")

    def fill(number: int, *, both: bool) -> None:
        put(store, number, 8.0)
        for model in ("a", "b") if both else ():
            put(store, number, 8.0, model=model, device=second)

    fill(1, both=True)
    judged(store, 1)
    fill(2, both=False)
    (event,) = judged(store, 2)
    assert (event.device, event.cause[0]) == ("box2-cpu", "ok -> missing")
    fill(3, both=True)
    (event,) = judged(store, 3)
    assert event.state is State.FIXED


def test_a_job_for_any_device_of_a_class_may_run_on_another_one(store: Store) -> None:
    second = replace(DEVICE, device_id="box2-cpu", host="box2")
    target = Target(device_class=DEVICE.device_class)
    put(store, 1, 8.0, job=replace(job_of(1), target=target))
    put(store, 1, 8.0, model="other", device=second)
    judged(store, 1)
    put(store, 2, 8.0, job=replace(job_of(2), target=target), device=second)
    put(store, 2, 8.0, model="other")
    assert judged(store, 2) == []


def test_what_people_cancelled_is_nothing_new(store: Store) -> None:
    put(store, 1, 8.0)
    put(store, 1, 3.0, model="other")
    judged(store, 1)
    put(store, 2, None, outcome=Outcome.CANCELLED)
    put(store, 2, 3.0, model="other")
    (event,) = judged(store, 2)
    assert event.cause[0] == "ok -> missing", "it is not there, and it did not fail"
