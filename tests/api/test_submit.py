# SPDX-License-Identifier: Apache-2.0
"""Submitting through `Farm`: what it does to the store before anything is queued."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from farm.api import Farm
from farm.broker.register import Register
from farm.contract.device import Announcement
from farm.errors import UnavailableError
from farm.settings import Settings
from tests.factories import DEVICE, STACK


@pytest.fixture
def farm(settings: Settings, client: redis.Redis) -> Farm:
    Register(client).announce(Announcement(DEVICE, [STACK], "0", 1))
    return Farm(settings)


def write_sweep(directory: Path, name: str) -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(f"name: {name}\nmodels: [resnet18]\nworkflows: [fake]\nbatch: 1\n")
    return path


def test_a_store_that_is_away_is_not_begun_a_second_time(farm: Farm, tmp_path: Path) -> None:
    assert farm.submit(write_sweep(tmp_path, "first")).new == 1
    root = farm.store.root
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(UnavailableError, match="is away: this farm has used it before"):
        farm.submit(write_sweep(tmp_path, "second"))
    assert not root.exists()
    root.with_name("elsewhere").rename(root)
    assert farm.submit(write_sweep(tmp_path, "second")).new == 1


def test_another_store_than_the_last_one_is_made(farm: Farm, settings: Settings, tmp_path: Path) -> None:
    farm.submit(write_sweep(tmp_path, "first"))
    other = Farm(settings.model_copy(update={"store": tmp_path / "other"}))
    assert other.submit(write_sweep(tmp_path, "second")).new == 1
    assert other.store.exists()
