# SPDX-License-Identifier: Apache-2.0
"""The course of a night without a farm: killed at every point, cut off at the deadline, with things that are away."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from farm.errors import UnavailableError, UsageError
from farm.nightly_settings import NightlySettings
from farm.store import Store
from scheduler.nightly.book import documents
from scheduler.nightly.night import STEPS
from scheduler.nightly.run import Asked, run_nights
from tests.nightly.world import START, FakeWorld, Killed

NAME = "2026-11-21"
DAILY = {"path": "daily.yaml"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create()
    return made


def settings(**keys: Any) -> NightlySettings:
    return NightlySettings.model_validate({"sweeps": [DAILY]} | keys)


def go(store: Store, world: FakeWorld, given: NightlySettings | None = None, **asked: Any) -> list[str]:
    return run_nights(store, world, given or settings(), Asked(**asked), Path("/sweeps"))


def run_of(store: Store, name: str = NAME) -> dict[str, Any]:
    return dict(documents(store.nights))[name]


def test_a_night_goes_through_all_its_steps(store: Store) -> None:
    world = FakeWorld()
    assert go(store, world) == [NAME]
    run = run_of(store)
    assert run["state"] == "done"
    assert [name for name in STEPS if "ended_at" not in run["steps"][name]] == []
    assert not any("problem" in facts for facts in run["steps"].values())
    assert world.submissions == ["daily-20261121"]
    assert store.nights.read(NAME)["sweeps"] == ["daily-20261121"]
    assert run["outcomes"] == {"ok": 2, "cancelled": 0}
    assert run["report"] == f"{NAME}/index.html"
    order = [name for name in world.calls if name not in ("pause", "canaries", "open_jobs")]
    assert order == [
        "ask_canaries", "submit", "submitted", "count", "ask_canaries", "assess", "confirm", "conclude", "report",
    ]  # fmt: skip
    assert go(store, world) == []


def _calls_of_a_whole_night(tmp_path: Path) -> int:
    store, world = Store(tmp_path), FakeWorld()
    store.create()
    go(store, world)
    return len(world.calls)


def test_killed_at_any_point_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    calls = _calls_of_a_whole_night(tmp_path / "whole")
    assert calls > 15
    for point in range(calls):
        store, world = Store(tmp_path / str(point)), FakeWorld()
        store.create()
        world.kill_at = point
        with pytest.raises(Killed):
            go(store, world)
        assert go(store, world) == [NAME]
        run = run_of(store)
        assert (run["state"], run["attempts"]) == ("done", 2)
        assert world.submissions == ["daily-20261121"], point
        assert len(run["sweeps"]) == 1
        assert run["outcomes"] == {"ok": 2, "cancelled": 0}
        assert not any("problem" in facts for facts in run["steps"].values())


def test_killed_again_and_again_it_still_ends(store: Store) -> None:
    world = FakeWorld()
    for _ in range(200):
        world.kill_at = len(world.calls) + 4
        try:
            go(store, world)
            break
        except Killed:
            continue
    world.kill_at = -1
    go(store, world)
    assert run_of(store)["state"] == "done"
    assert world.submissions == ["daily-20261121"]


def test_at_the_deadline_what_waits_is_cancelled_and_named(store: Store) -> None:
    world = FakeWorld(job_s=3600)
    go(store, world, settings(deadline_h=0.5))
    run = run_of(store)
    missing = run["missing"]
    assert missing["daily-20261121-1"]["reason"] == "it had not begun at the deadline"
    assert missing["daily-20261121-0"]["reason"] == "it ran for too long after the deadline"
    assert world.cancelled == {"daily-20261121-0", "daily-20261121-1"}
    (message,) = world.messages
    assert "2 jobs have no result" in message["text"]


def test_what_runs_at_the_deadline_may_end(store: Store) -> None:
    world = FakeWorld(job_s=2000)
    go(store, world, settings(deadline_h=0.5))
    assert list(run_of(store)["missing"]) == ["daily-20261121-1"]


def test_a_night_that_is_gone_on_with_after_its_deadline_does_not_wait(store: Store) -> None:
    world = FakeWorld(job_s=10_000)
    world.kill_at = 12
    with pytest.raises(Killed):
        go(store, world, settings(deadline_h=1))
    world.at = START + timedelta(days=2)
    assert go(store, world, settings(deadline_h=1)) == [NAME, "2026-11-23"]
    run = run_of(store)
    assert run["state"] == "done"
    assert "too late" in run["steps"]["canaries_last"]["problem"]
    assert run_of(store, "2026-11-23")["missed"] == ["2026-11-22"]


def test_sweeps_that_cannot_be_submitted_are_named_and_the_others_run(store: Store) -> None:
    world = FakeWorld()
    given = settings(sweeps=[{"path": "bad.yaml"}, {"path": "none"}, {"path": "several", "label": "x"}])
    go(store, world, given)
    rows = run_of(store)["sweeps"]
    assert [row.get("sweep_id") for row in rows] == [None, None, "a-20261121", "b-20261121"]
    assert "no such model" in rows[0]["problem"]
    assert "has no sweeps" in rows[1]["problem"]


def test_a_broker_that_restarts_is_waited_for(store: Store) -> None:
    world = FakeWorld()
    world.faults = {"submit": [redis.ConnectionError("away")] * 3, "open_jobs": [UnavailableError("store away")] * 2}
    go(store, world)
    assert world.submissions == ["daily-20261121"]
    assert not any("problem" in facts for facts in run_of(store)["steps"].values())


def test_a_step_that_fails_is_named_and_the_night_goes_on(store: Store) -> None:
    world = FakeWorld()
    world.faults = {"ask_canaries": [UnavailableError("no scheduler")] * 100, "assess": [ZeroDivisionError("oh")]}
    go(store, world)
    run = run_of(store)
    assert run["steps"]["canaries_first"]["problem"] == "no scheduler"
    assert "ZeroDivisionError" in run["steps"]["assess"]["problem"]
    assert world.confirmed == []
    assert "conclude" not in world.calls
    assert run["report"]
    assert run["state"] == "done"


def test_confirmations_have_the_settings_budget(store: Store) -> None:
    world = FakeWorld()
    go(store, world, settings(confirm_device_s=77))
    assert world.confirmed == [77]
    assert run_of(store)["steps"]["confirm"]["spent_s"] == 12.0
    world = FakeWorld()
    world.at = START + timedelta(days=1)
    go(store, world, settings(confirm_device_s=0))
    assert world.confirmed == []


def test_people_are_told_only_when_something_changed(store: Store) -> None:
    world, given = FakeWorld(), settings(sweeps=[DAILY, {"path": "bad.yaml"}])
    for _ in range(3):
        go(store, world, given)
        world.at = world.at.replace(hour=2, minute=0, second=5) + timedelta(days=1)
    assert len(world.messages) == 1
    assert world.messages[0]["state"] == "attention"
    go(store, world, settings())
    assert len(world.messages) == 2
    assert world.messages[1]["state"] == "good news"
    assert "no longer not submitted" in world.messages[1]["text"]


def test_who_could_not_be_reached_is_told_the_next_night(store: Store) -> None:
    world, given = FakeWorld(), settings(sweeps=[DAILY, {"path": "bad.yaml"}])
    world.reachable = False
    go(store, world, given)
    assert run_of(store)["steps"]["notify"]["problem"] == "nobody could be told"
    assert run_of(store)["state"] == "done"
    world.reachable = True
    world.at = START + timedelta(days=1)
    go(store, world, given)
    assert len(world.messages) == 1


def test_a_night_at_once_is_the_days_only_one(store: Store) -> None:
    world = FakeWorld()
    world.at = START + timedelta(hours=12)
    assert go(store, world, at_once=True) == [NAME]
    assert run_of(store)["why"] == "asked"
    with pytest.raises(UsageError, match="one a day"):
        go(store, world, at_once=True)


def test_a_night_at_once_takes_the_place_of_the_one_that_was_missed(store: Store) -> None:
    world = FakeWorld()
    go(store, world)
    world.at = START + timedelta(days=2, hours=12)
    go(store, world, at_once=True)
    assert run_of(store, "2026-11-23")["missed"] == ["2026-11-22"], "and not the 23rd itself"


def test_a_broker_that_goes_while_changes_are_settled_is_waited_for(store: Store) -> None:
    world = FakeWorld(confirm_s=1800.0)
    world.faults = {"confirm": [redis.ConnectionError("away")] * 2}
    go(store, world)
    assert "problem" not in run_of(store)["steps"]["confirm"]
    assert world.confirmed == [3600.0]


def test_labels_choose_whatever_the_day(store: Store) -> None:
    given = settings(sweeps=[DAILY, {"path": "weekly.yaml", "label": "weekly", "days": "mon"}])
    world = FakeWorld()
    go(store, world, given, at_once=True, labels=("weekly",))
    assert world.submissions == ["weekly-20261121"]
    with pytest.raises(UsageError, match="no sweep has the label nope"):
        world.at += timedelta(days=1)
        go(store, world, given, at_once=True, labels=("nope",))


def test_a_night_that_is_done_gets_its_report_again_and_nothing_else(store: Store) -> None:
    world = FakeWorld()
    go(store, world)
    told = len(world.messages)
    world.calls.clear()
    assert go(store, world, night=NAME) == [NAME]
    assert world.calls == ["report"]
    assert len(world.messages) == told
    assert run_of(store)["state"] == "done"


@pytest.mark.parametrize(("name", "words"), [("yesterday", "is no date"), ("2020-01-01", "no night 2020-01-01")])
def test_a_night_that_never_was_cannot_be_had(store: Store, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        go(store, FakeWorld(), night=name)


def test_without_sweeps_there_is_no_night(store: Store) -> None:
    with pytest.raises(UsageError, match="no sweeps are set"):
        go(store, FakeWorld(), settings(sweeps=[]), at_once=True)
    assert store.nights.names() == []
