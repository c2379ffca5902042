# SPDX-License-Identifier: Apache-2.0
"""Sweeps through the whole farm: queue, worker, supervisor, runner, store."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.api import Farm
from farm.broker.jobs import JobState
from farm.contract.names import TASK_RUN_JOB
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.errors import UsageError
from tests.e2e.conftest import processes_with, wait_for

pytestmark = pytest.mark.alone
Write = Callable[..., Path]


def finish(farm: Farm, sweep_id: str) -> list[Record]:
    for _ in farm.watch(sweep_id, limit_s=240):
        pass
    records = [record for record in farm.records(sweep_id) if isinstance(record, Record)]
    return sorted(records, key=lambda record: (record.job.precision, record.batch_size or 0))


def running_stage(farm: Farm, sweep_id: str, stage: str) -> bool:
    return any(job.stage == stage for job in farm.progress(sweep_id).running)


def test_every_point_of_a_sweep_gets_one_record_with_all_that_a_record_holds(local: Farm, sweep: Write) -> None:
    submission = local.submit(sweep("whole", batch="1, 2, 4", latency_ms=3))
    records = finish(local, submission.sweep_id)
    assert [record.batch_size for record in records] == [1, 2, 4]
    for record in records:
        assert record.outcome is Outcome.OK, record.failure
        samples = local.samples(record)
        assert samples is not None
        assert len(samples) == record.metrics["sample_count"] == 10
        assert 2.9 < record.metrics["latency_ms"] < 30  # type: ignore[operator]
        interval = record.intervals["latency_ms"]
        assert interval.low <= record.metrics["latency_ms"] <= interval.high  # type: ignore[operator]
        assert interval.scope == "within this run"
        assert {"runner_digest", "farm_version", "git_revision"} <= set(record.provenance)
        assert record.host
        assert record.device is not None
        assert record.stack is not None
    assert list(local.store.verify()) == []


def test_submitting_the_same_sweep_twice_adds_nothing_unless_again(local: Farm, sweep: Write) -> None:
    path = sweep("twice", batch="1")
    first = local.submit(path)
    assert first.new == 1
    assert local.submit(path).new == 0
    finish(local, first.sweep_id)
    assert local.submit(path).new == 0
    again = local.submit(path, again=True)
    assert again.new == 1
    assert again.sweep_id != first.sweep_id
    finish(local, again.sweep_id)


def test_a_killed_runner_is_crashed_and_all_others_are_ok(local: Farm, sweep: Write) -> None:
    submission = local.submit(sweep("killed", batch="1, 2, 4", latency_ms=300))
    wait_for(lambda: running_stage(local, submission.sweep_id, "measure"), "a measuring runner")
    (job,) = local.status(submission.sweep_id)
    run_id = job.spec.run_id(job.progress["batch_size"])
    runners = list(processes_with(f"INFERFARM_RUN={run_id}"))
    assert runners
    os.kill(runners[0], signal.SIGKILL)
    records = finish(local, submission.sweep_id)
    outcomes = {record.run_id: record.outcome for record in records}
    assert outcomes.pop(run_id) is Outcome.CRASHED
    assert set(outcomes.values()) == {Outcome.OK}
    assert len(outcomes) == 2


def test_what_waits_is_cancelled_at_once_and_what_runs_soon_after(local: Farm, sweep: Write) -> None:
    submission = local.submit(sweep("cancelled", precisions="fp32, fp16, int8", batch="1", latency_ms=1500))
    wait_for(lambda: running_stage(local, submission.sweep_id, "measure"), "a measuring runner")
    done = local.cancel(submission.sweep_id)
    assert (done.at_once, done.asked) == (2, 1)
    records = finish(local, submission.sweep_id)
    assert {job.state for job in local.status(submission.sweep_id)} == {JobState.CANCELLED}
    assert [record.outcome for record in records] == [Outcome.CANCELLED] * 3
    assert processes_with(f"INFERFARM_RUN={submission.sweep_id}") == []


def test_a_retry_runs_only_what_failed_again_and_keeps_the_old_record(local: Farm, sweep: Write) -> None:
    submission = local.submit(sweep("retried", batch="1, 2", behaviour="raise", from_batch=2))
    finish(local, submission.sweep_id)
    assert local.retry("retried", outcomes=[Outcome.CRASHED]) == 0
    assert local.retry("retried") == 1
    records = finish(local, submission.sweep_id)
    points = sorted((r.batch_size, r.job.generation, str(r.outcome)) for r in records)
    assert points == [(1, 0, "ok"), (2, 0, "failed"), (2, 1, "failed")]
    assert len(local.results("retried").rows) == 2
    assert len(local.results("retried", latest=False).rows) == 3


def test_a_higher_priority_goes_first_among_what_waits(local: Farm, sweep: Write) -> None:
    device = local.devices()[0].device_id
    local.set_device(device, "drained", "test")
    low = local.submit(sweep("low", batch="1", precisions="fp32, fp16, int8"), priority=2)
    high = local.submit(sweep("high", batch="1"), priority=8)
    local.set_device(device, "ready")
    finish(local, low.sweep_id)
    finish(local, high.sweep_id)
    started = {job.sweep_id: job.times["claimed"] for job in local.status(high.sweep_id)}
    assert started[high.sweep_id] < min(job.times["claimed"] for job in local.status(low.sweep_id))


def test_a_refused_combination_is_recorded_with_its_reason(local: Farm, tmp_path: Path) -> None:
    path = tmp_path / "refused.yaml"
    path.write_text(
        "name: refused\nprotocol: quick\nmodels: [resnet18]\nworkflows: [fake, pytorch]\nprecisions: [fp32, int8]\n"
        "batch: [1]\nexclude: [{workflow: pytorch, precision: fp32}]\n"
    )
    submission = local.submit(path)
    assert (submission.new, len(submission.refusals)) == (2, 1)
    outcomes = {(r.job.workflow, r.job.precision): r for r in finish(local, submission.sweep_id)}
    refused = outcomes["pytorch", "int8"]
    assert refused.outcome is Outcome.UNSUPPORTED
    assert refused.failure is not None
    assert refused.failure.stage == "match"
    assert refused.failure.hint
    assert outcomes["fake", "int8"].outcome is Outcome.OK


def test_celerys_own_tools_see_the_work_by_its_name(local: Farm, sweep: Write) -> None:
    submission = local.submit(sweep("seen", batch="1", latency_ms=1000))
    wait_for(lambda: running_stage(local, submission.sweep_id, "measure"), "a measuring runner")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "inspect", "active", "--json", "--timeout", "5"],
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | local.settings.environment(),
    )
    assert done.returncode == 0, done.stderr
    tasks = [task for tasks in json.loads(done.stdout).values() for task in tasks]
    (job,) = local.status(submission.sweep_id)
    assert [task["args"] for task in tasks] == [[job.job_id]]
    assert tasks[0]["name"] in ("resnet18/fake/fp32", TASK_RUN_JOB)
    local.cancel(submission.sweep_id)
    finish(local, submission.sweep_id)


@pytest.mark.browser
def test_flower_lists_tasks_by_job_name(local: Farm, sweep: Write, tmp_path: Path, chromium: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "flower.log").open("wb") as log:
        flower = subprocess.Popen(
            [sys.executable, "-m", "farm.cli.main", "flower", "--port", str(port)],
            env=os.environ | local.settings.environment(),
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: b"Flower" in _page(port, "/"), "Flower's page")
        submission = local.submit(sweep("flowers", batch="1"))
        finish(local, submission.sweep_id)
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/tasks", timeout=120_000)
        page.wait_for_selector("text=resnet18/fake/fp32", timeout=120_000)
        page.close()
    finally:
        flower.terminate()
        flower.wait(timeout=120)


def _page(port: int, path: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def test_a_sweep_that_nobody_sent_is_one_clear_error(local: Farm) -> None:
    with pytest.raises(UsageError, match="no sweep or job 'nothing'"):
        local.status("nothing")
