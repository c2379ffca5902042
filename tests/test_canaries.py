# SPDX-License-Identifier: Apache-2.0
"""Asking for canaries: who can have one, and what is said when nobody hears of it."""

from __future__ import annotations

import json

import pytest
import redis

from farm import canaries
from farm.broker.canaries import ASKED, CanaryBook
from farm.broker.register import Register
from farm.canary import CanaryState
from farm.cli.device import _canary, _well
from farm.errors import UnavailableError, UsageError
from scheduler.leader import KEY
from tests.scheduler.conftest import announcement


@pytest.fixture
def register(client: redis.Redis) -> Register:
    found = Register(client)
    for device in ("a", "b", "c"):
        found.announce(announcement(device))
    found.set_state("b", "drained", "new fan")
    found.withdraw("c")
    return found


@pytest.fixture
def at_work(client: redis.Redis) -> None:
    client.set(KEY, json.dumps({}))


@pytest.mark.usefixtures("at_work")
def test_all_that_take_jobs_are_asked(client: redis.Redis, register: Register) -> None:
    assert canaries.ask(client, register.devices(), [], accept=False) == ["a"]
    assert [entry.canary.asked for entry in register.devices()] == [ASKED, "", ""]
    assert canaries.ask(client, register.devices(), ["a", "a"], accept=True) == ["a"]
    assert CanaryBook(client).read("a").series_number == 1


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize(
    ("device", "message"), [("x", "no device 'x'"), ("b", "it is drained since .*: new fan"), ("c", "it is offline")]
)
def test_a_device_that_cannot_have_one_is_refused_and_nobody_is_asked(
    client: redis.Redis, register: Register, device: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        canaries.ask(client, register.devices(), ["a", device], accept=False)
    assert not register.devices()[0].canary.busy


@pytest.mark.usefixtures("at_work")
def test_no_device_at_work_is_one_clear_message(client: redis.Redis, register: Register) -> None:
    register.withdraw("a")
    with pytest.raises(UnavailableError, match="no device takes jobs"):
        canaries.ask(client, register.devices(), [], accept=False)


def test_without_a_scheduler_nothing_is_asked(client: redis.Redis, register: Register) -> None:
    with pytest.raises(UnavailableError, match="no scheduler is at work"):
        canaries.ask(client, register.devices(), [], accept=False)
    assert not register.devices()[0].canary.busy


def test_a_scheduler_that_goes_away_is_not_waited_for(
    client: redis.Redis, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canaries, "_NO_SCHEDULER_S", 0.3)
    CanaryBook(client).ask("a", ASKED)
    with pytest.raises(UnavailableError, match="no scheduler is at work"):
        canaries.wait(client, ["a"], lambda _progress: None)


@pytest.mark.usefixtures("at_work")
def test_a_device_that_is_drained_meanwhile_is_not_waited_for(client: redis.Redis, register: Register) -> None:
    CanaryBook(client).ask("a", ASKED)
    register.set_state("a", "drained", None)
    (entry,) = canaries.wait(client, ["a"], lambda _progress: None)
    assert not _well(entry)
    assert _canary(entry) == "one is asked for"


@pytest.mark.parametrize(
    ("state", "well"),
    [
        (CanaryState("steady", spread=0.004), True),
        (CanaryState("baseline", points=1, needed=5), True),
        (CanaryState("shifted", change=0.07, since="2026-03-01T04:10:00"), False),
        (CanaryState("steady", spread=0.004, problem="disturbed: others"), False),
        (CanaryState("unconfirmed", change=0.07), False),
        (CanaryState(), False),
    ],
)
def test_what_a_person_is_told(client: redis.Redis, register: Register, state: CanaryState, well: bool) -> None:
    CanaryBook(client).judged("a", state)
    entry = register.devices()[0]
    assert _well(entry) is well
    assert _canary(entry).startswith(state.summary)
    assert state.problem in _canary(entry)
