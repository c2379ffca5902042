# SPDX-License-Identifier: Apache-2.0
"""The device register against a real server."""

from __future__ import annotations

import dataclasses
import json

import pytest
import redis

import farm
from farm.broker.canaries import ASKED, CONFIRM, CanaryBook, CanaryEntry
from farm.broker.register import TAKEN_FOR_S, Register, TakenError
from farm.canary import CanaryState
from farm.contract.device import Announcement, DeviceInfo, StackInfo
from scheduler.leader import Leader


@pytest.fixture
def register(client: redis.Redis) -> Register:
    return Register(client)


def announcement(device_id: str = "d1") -> Announcement:
    device = DeviceInfo(device_id, "cpu-x", "cpu", "host", "A CPU", {"cores": 2})
    return Announcement(device, [StackInfo("default", "/usr/bin/python3", "3.11.7")], "0.1.0", 1)


def test_an_announced_device_is_there_ready_and_online(register: Register) -> None:
    register.announce(announcement())
    (entry,) = register.devices()
    assert (entry.announcement, entry.online, entry.state) == (announcement(), True, "ready")


def test_the_operators_word_outlives_the_next_heartbeat(register: Register) -> None:
    register.announce(announcement())
    register.set_state("d1", "quarantined", "fan is broken")
    register.announce(announcement())
    (entry,) = register.devices()
    assert (entry.state, entry.reason) == ("quarantined", "fan is broken")


def test_a_redis_that_lost_everything_is_told_the_state_again(register: Register, client: redis.Redis) -> None:
    assert register.announce(announcement()) == (), "nothing to remember of a device that is ready"
    register.set_state("d1", "maintenance", "new fan", by="ann@lab1", until_s=2e9)
    said = register.announce(announcement())
    (before,) = register.devices()
    client.flushall()
    assert register.announce(announcement(), said) == said
    (after,) = register.devices()
    assert (after.state, after.reason, after.by, after.until_s, after.since_s) == (
        "maintenance", "new fan", "ann@lab1", 2e9, before.since_s,
    )  # fmt: skip
    register.set_state("d1", "ready", None)
    assert register.announce(announcement(), said) == (), "the operator's later word holds"
    assert register.devices()[0].takes_jobs


def test_a_withdrawn_device_is_offline_until_it_announces_itself_again(register: Register) -> None:
    register.announce(announcement())
    register.withdraw("d1")
    assert not register.devices()[0].online
    register.announce(announcement())
    assert register.devices()[0].online


def test_a_device_is_one_machines_until_that_is_silent_or_stops(register: Register, client: redis.Redis) -> None:
    register.announce(announcement(), machine="boot-1")
    assert register.elsewhere("d1", "boot-1") is None
    age_s = register.elsewhere("d1", "boot-2")
    assert age_s is not None
    assert 0 <= age_s < TAKEN_FOR_S
    with pytest.raises(TakenError, match="d1 is served by another machine of this name, which announced it 0 s ago"):
        register.announce(announcement(), machine="boot-2")
    register.announce(announcement(), machine="boot-1")
    client.hset("farm:device:d1", "seen", client.time()[0] * 1000 - int(TAKEN_FOR_S * 1000) - 1000)
    assert register.elsewhere("d1", "boot-2") is None
    register.announce(announcement(), machine="boot-2")
    with pytest.raises(TakenError):
        register.announce(announcement(), machine="boot-1")
    register.withdraw("d1")
    register.announce(announcement(), machine="boot-1")


def test_a_machine_that_cannot_be_told_from_others_is_let_in(register: Register) -> None:
    register.announce(announcement())
    assert register.elsewhere("d1", "boot-1") is None
    register.announce(announcement(), machine="boot-1")
    register.announce(announcement())
    assert register.elsewhere("d1", None) is None


def test_a_silent_device_is_offline(register: Register, client: redis.Redis) -> None:
    register.announce(announcement())
    client.hset("farm:device:d1", "seen", "1000")
    assert not register.devices()[0].online


def test_only_news_wake_the_scheduler(register: Register, client: redis.Redis) -> None:
    register.announce(announcement())
    assert client.lpop("farm:wake") == "1"
    register.announce(announcement())
    assert client.lpop("farm:wake") is None


def test_a_damaged_entry_is_left_out(register: Register, client: redis.Redis) -> None:
    register.announce(announcement())
    client.hset("farm:device:d1", "announcement", "{")
    assert register.devices() == []


def test_a_device_brings_its_canary_along(register: Register, client: redis.Redis) -> None:
    register.announce(announcement())
    book, state = CanaryBook(client), CanaryState(verdict="steady", spread=0.004, number=2)
    book.ask("d1", ASKED)
    assert (register.devices()[0].canary.asked, register.devices()[0].canary.busy) == (ASKED, True)
    assert book.begin("d1", "canary-1", ASKED, 5.0)
    assert not book.begin("d1", "canary-2", ASKED, 6.0), "one at most"
    book.judged("d1", state, ask=CONFIRM)
    assert register.devices()[0].canary == CanaryEntry(state, CONFIRM, began_s=5.0)
    assert book.read("d1").series_number == 2


@pytest.mark.parametrize("text", ["{", '{"verdict": 3}', '{"invented": 1}', "null"])
def test_a_damaged_canary_is_none(register: Register, client: redis.Redis, text: str) -> None:
    register.announce(announcement())
    client.hset("farm:device:d1", "canary", text)
    assert register.devices()[0].canary == CanaryEntry()


def test_a_device_whose_workers_release_is_too_far_away_takes_nothing_and_says_why(client: redis.Redis) -> None:
    register = Register(client)
    register.announce(dataclasses.replace(announcement("old"), farm_version="9.9.0"))
    register.announce(announcement("fits"))
    fits, old = register.devices()
    assert fits.takes_jobs and fits.standing == "ready"
    assert not old.takes_jobs and "Upgrade the controller to 9.9" in old.standing


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, None),
        ("{}", None),
        ("no JSON", None),
        ("[]", None),
        ('{"version": "0.1.7"}', None),
        ('{"version": "0.7.0"}', "Upgrade the worker to 0.7"),
        ('{"version": 3}', "no version"),
    ],
)
def test_a_worker_learns_from_the_schedulers_lock_whether_it_fits(
    client: redis.Redis, value: str | None, told: str | None
) -> None:
    if value is not None:
        client.set("farm:scheduler", value)
    misfit = Register(client).misfit()
    assert misfit is None if told is None else told in str(misfit)


def test_the_scheduler_says_its_release_in_its_lock(client: redis.Redis) -> None:
    Leader(client).hold()
    assert json.loads(str(client.get("farm:scheduler")))["version"] == farm.__version__
