# SPDX-License-Identifier: Apache-2.0
"""What `farm doctor` finds: a clock that is off, a store without room."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from typing import Any

import pytest
import redis

from farm.cli import checks
from farm.cli.checks import run_checks
from farm.settings import Settings


def found(settings: Settings) -> dict[str, checks.Check]:
    return {check.name: check for check in run_checks(settings)}


def test_clocks_that_agree_are_well(settings: Settings, client: redis.Redis) -> None:
    assert found(settings)["clock"].result == "ok"


@pytest.mark.parametrize("step_s", [-60, 60])
def test_a_clock_that_is_off_is_told_by_how_much(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    now = time.time
    monkeypatch.setattr(checks.time, "time", lambda: now() + step_s)
    clock = found(settings)["clock"]
    assert (clock.result, clock.detail) == ("bad", "60 s from the broker's")


def test_a_store_without_room_is_bad_before_it_is_full(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(settings)["store"].result == "ok"
    usage: Any = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10, 9, 1 << 30))
    store = found(settings)["store"]
    assert store.result == "bad" and "1.0 GiB free" in store.detail and "farm store usage" in store.hint
