# SPDX-License-Identifier: Apache-2.0
"""What people see in Flower of a real job: its name, its device, how far it is, and what became of it."""

from __future__ import annotations

import base64
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.api import Farm
from farm.local import LocalFarm
from farm.settings import Settings
from tests.e2e.conftest import wait_for

PASSWORD = "a-password-of-mine"


def tasks(port: int) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/tasks")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"farm:{PASSWORD}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return list(json.loads(answer.read()).values())
    except urllib.error.URLError:
        return []


def up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=30) as answer:
            return answer.read() == b"OK"
    except OSError:
        return False


def test_a_job_has_its_name_its_device_its_stage_and_its_end(
    settings: Settings, sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (tmp_path / "password").write_text(PASSWORD)
    monkeypatch.setenv("FARM_FLOWER_PORT", str(port))
    monkeypatch.setenv("FARM_FLOWER_PASSWORD_FILE", str(tmp_path / "password"))
    with LocalFarm(settings, flower=True):
        wait_for(lambda: up(port), "Flower")
        log = next(settings.run_dir.rglob("flower.log"))
        wait_for(lambda: "Connected to" in log.read_text(), "Flower's events")
        farm = Farm(settings)
        submission = farm.submit(sweep("seen", latency_ms=50))
        for _ in farm.watch(submission.sweep_id):
            pass
        (job,) = farm.status(submission.sweep_id)

        def ended() -> list[dict[str, Any]]:
            return [task for task in tasks(port) if task["state"] == "SUCCESS"]

        (task,) = wait_for(ended, "the task")  # type: ignore[misc]
    assert task["name"] == job.name
    assert str(task["worker"]).startswith(f"{job.device_id}@")
    assert task["result"] == "'done: 2 ok'"
    assert "'stage': " in task["kwargs"] and "'points': 2" in task["kwargs"]
