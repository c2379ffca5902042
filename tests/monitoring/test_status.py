# SPDX-License-Identifier: Apache-2.0
"""`farm status` tells what the metrics tell, over a real Redis, with the rights of a reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from farm import __version__
from farm.api import Farm
from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.register import DRAINED, Register
from farm.broker.standing import Held, outcomes
from farm.cli.main import cli
from farm.cli.standing import standing_rows
from farm.contract.device import Announcement
from farm.errors import UsageError
from farm.settings import Settings
from tests.factories import DEVICE, STACK, make_job
from tests.monitoring.test_metrics import as_reader, refused, run


def status(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    for name, text in settings.environment().items():
        monkeypatch.setenv(name, text)
    done = CliRunner().invoke(cli, ["status", *words], standalone_mode=False)
    assert done.exception is None, done.exception
    return done.output


@pytest.fixture
def reader(settings: Settings, client: redis.Redis, tmp_path: Path) -> Settings:
    return as_reader(settings, client, tmp_path)


def test_leases_queues_devices_and_outcomes_are_told(
    reader: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, jobs = Register(client), JobStore(client)
    register.announce(Announcement(DEVICE, [STACK], __version__, 1))
    register.announce(Announcement(replace(DEVICE, device_id="spare-cpu"), [STACK], __version__, 1))
    jobs.submit("s", "s", 5, [make_job(job_id=f"s-{n}", sweep_id="s") for n in range(4)])
    run(jobs, "s-0", {"ok": 2, "out_of_memory": 1})
    jobs.dispatch("s-1", DEVICE.device_id)
    assert isinstance(jobs.claim("s-1", DEVICE.device_id, "me", 120), Claim)
    register.set_state(DEVICE.device_id, DRAINED, "new fan")
    told = status(reader, monkeypatch)
    lines = told.splitlines()
    assert "2 ok, 1 out_of_memory" in lines[1]
    (row,) = (line for line in lines if line.startswith("box-cpu"))
    assert "drained" in row and "resnet18/onnxruntime_cpu/fp32" in row
    assert "1 min 59 s left" in row or "2 min 00 s left" in row
    assert "1 device takes jobs and has none" in told
    assert "2 jobs wait for dev:box-cpu: box-cpu is drained" in told
    assert json.loads(status(reader, monkeypatch, "--format", "json"))[0]["outcomes"] == {"ok": 2, "out_of_memory": 1}
    assert refused(client) == []


def test_of_a_large_sweep_some_jobs_are_shown_and_the_rest_is_counted(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = JobStore(client)
    jobs.submit("s", "s", 5, [make_job(job_id=f"s-{n:03}", sweep_id="s") for n in range(103)])
    run(jobs, "s-102", {"failed": 1}, JobState.FAILED)
    told = status(settings, monkeypatch, "s")
    assert "s-102" in told and "s-098" in told and "s-099" not in told
    assert "100 of 103 jobs shown (1 failed, 102 queued); --state and --limit choose others" in told
    told = status(settings, monkeypatch, "s", "--state", "failed")
    assert "s-102" in told and "s-000" not in told and "shown" not in told
    assert "s-099" in status(settings, monkeypatch, "s", "--limit", "0")
    assert "1 of 102 jobs shown (102 queued)" in status(settings, monkeypatch, "s", "--state", "queued", "--limit", "1")
    assert len(json.loads(status(settings, monkeypatch, "s", "--format", "json"))) == 103
    for words, problem in ((["s", "--state", "lost"], "no state 'lost'"), (["--limit", "3"], "the jobs of one sweep")):
        with pytest.raises(UsageError, match=problem):
            CliRunner().invoke(cli, ["status", *words], standalone_mode=False, catch_exceptions=False)


def test_an_empty_farm_has_nothing_to_tell(
    reader: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(reader, monkeypatch).splitlines() == ["no sweeps yet; `farm submit SWEEP.yaml` sends one"]
    assert Farm(reader).held() == []


def test_old_sweeps_outcomes_are_left_out_where_there_are_too_many(client: redis.Redis) -> None:
    jobs = JobStore(client)
    for sweep in ("old", "new"):
        jobs.submit(sweep, sweep, 5, [make_job(job_id=f"{sweep}-{n}", sweep_id=sweep) for n in range(2)])
        for n in range(2):
            run(jobs, f"{sweep}-{n}", {"ok": 1})
    sweeps = jobs.sweeps()
    assert outcomes(client, sweeps, limit=4) == {"old": {"ok": 2}, "new": {"ok": 2}}
    assert outcomes(client, sweeps, limit=3) == {"new": {"ok": 2}}


def test_a_lease_that_is_over_is_said_to_be(client: redis.Redis) -> None:
    Register(client).announce(Announcement(DEVICE, [STACK], __version__, 1))
    rows, idle = standing_rows(Register(client).devices(), [Held("box-cpu", "j", "n", "running", 400.0, -20.0)])
    assert idle == 0
    assert rows[0][2:5] == ["n", "6 min 40 s", "over by 20 s"]
