# SPDX-License-Identifier: Apache-2.0
"""What people say about devices: lengths and times as they write them, and refusals; and why jobs wait."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import redis

from farm.broker.register import MAINTENANCE, Register
from farm.errors import UsageError
from farm.operating import length_s, maintain, moment_s, operator
from farm.waiting import why_waiting
from tests.scheduler.conftest import announcement, entry

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(("text", "seconds"), [("45min", 2700), ("90m", 5400), ("2h", 7200), ("1.5 d", 129600)])
def test_lengths(text: str, seconds: float) -> None:
    assert length_s(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "0h", "2 weeks", "nan h", "9999d", "1h30"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        length_s(text)


@pytest.mark.parametrize(
    ("text", "hours"),
    [("14:30", 2.5), ("2026-11-22 12:00", 24), ("2026-11-22", 12), ("2026-11-21T14:00+01:00", 1), ("9:00", 21)],
)
def test_times(text: str, hours: float) -> None:
    assert moment_s(text, NOON) - NOON.timestamp() == hours * 3600


@pytest.mark.parametrize("text", ["", "noon", "25:00", "2026-11-21 11:59", "2030-01-01", "2026-13-01"])
def test_what_is_no_time_or_past_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        moment_s(text, NOON)


def test_a_maintenance_says_who_and_until_when_by_the_brokers_clock(client: redis.Redis) -> None:
    register = Register(client)
    register.announce(announcement("a"))
    before_s = register.now_s()
    maintain(client, "a", "new fan", for_s=60.0)
    (found,) = register.devices()
    assert (found.state, found.reason, found.by) == (MAINTENANCE, "new fan", operator())
    assert found.until_s is not None
    assert before_s + 60 <= found.until_s <= register.now_s() + 60
    with pytest.raises(UsageError, match="no device 'x'"):
        maintain(client, "x", "new fan")
    with pytest.raises(UsageError, match="not in the future"):
        maintain(client, "a", "new fan", until_s=before_s)


def test_jobs_that_no_device_serves_say_why() -> None:
    held, away = entry("a", state=MAINTENANCE), entry("b", "cpu-y", online=False)
    entries = [held, away, entry("c")]
    asked = ["dev:a", "cls:cpu-x", "cls:cpu-y", "dev:gone", "dev:c"]
    assert why_waiting(asked, entries) == {
        "dev:a": "a is in maintenance",
        "cls:cpu-y": "b is offline",
        "dev:gone": "dev:gone is not known here: start its worker",
    }
    many = [entry(f"d{number}", state="drained") for number in range(7)]
    assert why_waiting(["cls:cpu-x"], many)["cls:cpu-x"].endswith("d4 is drained; and 2 more")
