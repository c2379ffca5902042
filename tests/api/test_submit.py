# SPDX-License-Identifier: Apache-2.0
"""Submitting through `Farm`: what it does to the store before anything is queued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from farm.api import Farm
from farm.broker.register import Register
from farm.contract.device import Announcement
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.errors import UnavailableError
from farm.local import LocalFarm
from farm.settings import Settings
from scheduler.reconcile import settle
from tests.factories import DEVICE, STACK


@pytest.fixture
def farm(settings: Settings, client: redis.Redis) -> Iterator[Farm]:
    Register(client).announce(Announcement(DEVICE, [STACK], "0.1.0", 1))
    made = Farm(settings)
    yield made
    made._client.close()


def write_sweep(directory: Path, name: str) -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(f"name: {name}\nmodels: [resnet18]\nworkflows: [fake]\nbatch: 1\n")
    return path


def test_a_store_that_is_away_is_not_begun_a_second_time(farm: Farm, tmp_path: Path) -> None:
    farm.store.create()
    assert farm.submit(write_sweep(tmp_path, "first")).new == 1
    root = farm.store.root
    root.rename(root.with_name("elsewhere"))
    root.mkdir()  # the mount point
    with pytest.raises(UnavailableError, match="cannot write to") as caught:
        farm.submit(write_sweep(tmp_path, "second"))
    assert "mount it" in (caught.value.hint or "")
    assert list(root.iterdir()) == []
    root.rmdir()
    root.with_name("elsewhere").rename(root)
    assert farm.submit(write_sweep(tmp_path, "second")).new == 1


def test_a_farm_that_starts_makes_its_store(settings: Settings) -> None:
    with LocalFarm(settings):
        Farm(settings).store.check_writable()


def test_a_cancellation_while_the_store_is_away_counts_and_its_records_are_owed(farm: Farm, tmp_path: Path) -> None:
    farm.store.create()
    submission = farm.submit(write_sweep(tmp_path, "first"))
    root = farm.store.root
    away = root.rename(root.with_name("elsewhere"))
    assert farm.cancel(submission.sweep_id).at_once == 1
    assert [view.sweep_id for view in farm.jobs.owed()] == [submission.sweep_id]
    away.rename(root)
    assert settle(farm.jobs, farm.store) == 0
    (record,) = farm.records(submission.sweep_id)
    assert isinstance(record, Record)
    assert record.outcome is Outcome.CANCELLED
    assert farm.jobs.owed() == []
