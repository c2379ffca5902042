# SPDX-License-Identifier: Apache-2.0
"""Warm-up and stop rules through the real runner and daemon: what ends up in the record, and that limits hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from tests.workers.support import fake_job
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute

Run = Callable[..., Record]


@pytest.fixture
def run(bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim]) -> Run:
    """Execute a fake job of 2 ms with other switches of its protocol; return its record."""

    def do(**switches: Any) -> Record:
        job = fake_job("job", bench.device.device_id, latency_ms=2.0)
        job = replace(job, protocol=replace(job.protocol, warmup_rule="steady", **switches))
        execute(bench, jobs, claim(job), boottime())
        return bench.store.records.read(job.run_id(1))

    return do


def test_a_record_tells_how_warm_up_and_timed_runs_ended(run: Run) -> None:
    record = run(target_half_width=0.5, noise_plateau=True, max_iterations=5000)
    assert record.outcome is Outcome.OK, record.failure
    said = record.effective
    flags = {flag.name: flag.level for flag in record.flags}
    assert said["timed_ended_by"] == "target"
    assert said["warm_up_windows"] >= 1
    assert said["warm_up_first_windows_ns"] >= 1e9
    assert 0 < said["timed_asking_ns"] < said["timed_wall_ns"]
    assert (said["warm_up_ended_by"] == "max_s") == ("no_steady_state" in flags)


def test_a_warm_up_that_is_cut_short_is_flagged_and_no_failure(run: Run) -> None:
    record = run(warmup_max_s=0.3)
    assert record.outcome is Outcome.OK, record.failure
    assert record.metrics["sample_count"] == 12
    assert record.effective["warm_up_ended_by"] == "max_s"
    (flag,) = [flag for flag in record.flags if flag.name == "no_steady_state"]
    assert flag.level == "suspect"
    assert "too few for two windows" in flag.evidence


def test_a_stage_limit_holds_whatever_the_rules_would_wait_for(run: Run) -> None:
    record = run(warmup_min_s=50.0, warmup_max_s=60.0, stage_limits_s={"warm_up": 1.0, "default": 60.0})
    assert record.outcome is Outcome.TIMED_OUT
    assert record.failure is not None
    assert (record.failure.stage, record.failure.reference) == ("warm_up", "stage-limit")
