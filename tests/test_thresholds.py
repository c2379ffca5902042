# SPDX-License-Identifier: Apache-2.0
"""Where doubts begin can be changed for all devices, a kind, a class or one; a name that is none is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farm.errors import UsageError
from farm.settings import load_settings
from farm.thresholds import DEFAULTS, limits_for
from tests.factories import DEVICE


def test_the_narrower_limit_wins() -> None:
    overrides = {
        "all": {"clock_drift": 0.1, "rcv": 0.1, "min_samples": 20, "stolen_share": 0.1},
        "cpu": {"clock_drift": 0.2, "rcv": 0.2, "min_samples": 30},
        "cpu-test": {"clock_drift": 0.3, "rcv": 0.3},
        "box-cpu": {"clock_drift": 0.4},
        "gpu": {"clock_drift": 0.9},
    }
    found = limits_for(overrides, DEVICE)
    assert (found["clock_drift"], found["rcv"], found["min_samples"], found["stolen_share"]) == (0.4, 0.3, 30, 0.1)
    assert found["busy_share"] == DEFAULTS["busy_share"]
    assert limits_for({}, DEVICE) == DEFAULTS


def test_settings_take_limits_from_the_file_and_hand_them_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "farm.toml"
    path.write_text("[thresholds.cpu]\nclock_drift = 0.05\n\n[thresholds.box-cpu]\nrcv = 0.5\n")
    monkeypatch.setenv("FARM_CONFIG", str(path))
    settings = load_settings()
    assert settings.thresholds == {"cpu": {"clock_drift": 0.05}, "box-cpu": {"rcv": 0.5}}
    assert json.loads(settings.environment()["FARM_THRESHOLDS"]) == settings.thresholds
    monkeypatch.setenv("FARM_CONFIG", "")
    monkeypatch.setenv("FARM_THRESHOLDS", settings.environment()["FARM_THRESHOLDS"])
    assert load_settings().thresholds == settings.thresholds


def test_a_threshold_that_is_none_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_THRESHOLDS", '{"gpu": {"clock_drfit": 0.1}}')
    with pytest.raises(UsageError) as refused:
        load_settings()
    assert "gpu.clock_drfit" in str(refused.value.problems)
