# SPDX-License-Identifier: Apache-2.0
"""`farm healthcheck`: each role at work, and not."""

from __future__ import annotations

import dataclasses
import socket

import pytest
import redis
from click.testing import CliRunner

from farm.broker.register import Register
from farm.cli.main import cli
from farm.contract.device import Announcement
from farm.contract.names import slug
from farm.errors import UnavailableError, UsageError
from farm.healthcheck import ROLES, check
from farm.settings import Settings
from scheduler.leader import Leader
from scheduler.nightly.lock import BEAT_KEY
from tests.factories import DEVICE, STACK


@pytest.mark.parametrize("role", ROLES)
def test_a_part_that_is_not_there_is_not_well(role: str, settings: Settings, client: redis.Redis) -> None:
    there = settings.model_copy(update={"flower_port": 1, "metrics_port": 1})
    with pytest.raises(UnavailableError):
        check(there, role)


@pytest.mark.parametrize(("role", "key"), [("scheduler", "farm:scheduler"), ("nightly", BEAT_KEY)])
def test_a_lock_of_this_host_is_well_and_another_hosts_is_not(
    role: str, key: str, settings: Settings, client: redis.Redis
) -> None:
    leader = Leader(client, key=key)
    leader.hold()
    assert "at work" in check(settings, role)
    leader.free()
    client.set(key, '{"host": ["elsewhere", "x"], "pid": 1}')
    with pytest.raises(UnavailableError, match="on elsewhere, not on this host"):
        check(settings, role)
    client.set(key, "[1")
    with pytest.raises(UnavailableError, match="an unknown host"):
        check(settings, role)


def test_a_worker_is_well_while_its_device_is_served(settings: Settings, client: redis.Redis) -> None:
    register = Register(client)
    register.announce(Announcement(DEVICE, [STACK], "0", 1))
    with pytest.raises(UnavailableError, match="none has announced itself"):
        check(settings, "worker")
    mine = dataclasses.replace(DEVICE, device_id="mine-cpu", host=slug(socket.gethostname()))
    register.announce(Announcement(mine, [STACK], "0", 1))
    assert check(settings, "worker") == "served: mine-cpu"
    assert check(settings.model_copy(update={"device": "mine-cpu"}), "worker") == "served: mine-cpu"
    with pytest.raises(UnavailableError):
        check(settings.model_copy(update={"device": "mine-gpu"}), "worker")
    register.withdraw("mine-cpu")
    with pytest.raises(UnavailableError, match="mine-cpu, last seen"):
        check(settings, "worker")


def test_a_role_that_is_none_is_refused(settings: Settings) -> None:
    with pytest.raises(UsageError, match="no role"):
        check(settings, "cook")


def test_the_command_says_it_with_its_exit_code(settings: Settings, client: redis.Redis) -> None:
    words = ["--home", str(settings.home), "healthcheck", "scheduler"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.return_value == 1
    leader = Leader(client)
    leader.hold()
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.return_value == 0, done.output
