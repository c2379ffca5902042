# SPDX-License-Identifier: Apache-2.0
"""The fake workflow's execution log: written where the environment asks for it, and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farm.contract.names import DEVICE_ENV
from farm.contract.run import RunRequest
from tests.factories import DEVICE, make_job
from workers.workflows.fake_log import LOG_ENV, ExecutionLog, others_on_device

REQUEST = RunRequest("run-b1", "measure", make_job(), DEVICE, "/cache", 1)


def test_a_run_is_one_line_at_its_start_and_one_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    monkeypatch.setenv(LOG_ENV, str(path))
    log = ExecutionLog(REQUEST)
    log.start()
    log.end()
    start, end = map(json.loads, path.read_text().splitlines())
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["execution"] == end["execution"] == log.token
    assert (start["run_id"], start["device"], start["pid"]) == ("run-b1", DEVICE.device_id, os.getpid())
    assert start["monotonic_ns"] <= end["monotonic_ns"]
    assert start["others"] == []


def test_no_log_is_written_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_ENV, raising=False)
    monkeypatch.chdir(tmp_path)
    log = ExecutionLog(REQUEST)
    log.start()
    log.end()
    assert log.token is None
    assert list(tmp_path.iterdir()) == []


def test_a_start_names_the_processes_of_the_device_that_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = f"device-of-{os.getpid()}"
    monkeypatch.setenv(DEVICE_ENV, device)
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        assert others_on_device() == [other.pid]
        other.kill()
    assert others_on_device() == []
