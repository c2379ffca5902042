# SPDX-License-Identifier: Apache-2.0
"""A device on which everything fails is quarantined with the evidence; a sweep that fails everywhere takes none out."""

from __future__ import annotations

import pytest
import redis

from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.register import Register
from farm.store import Store
from scheduler.failing import quarantine_failing
from scheduler.submit import submit
from tests.scheduler.conftest import announcement, make_spec


class Bed:
    """Devices, and sweeps of four jobs that end as wanted."""

    def __init__(self, client: redis.Redis, store: Store) -> None:
        self.jobs, self.register, self.store = JobStore(client), Register(client), store
        for device in ("sick", "sound"):
            self.register.announce(announcement(device, f"cpu-{device}"))

    def sweep(self, name: str, device: str, state: JobState, workflows: str = "[fake]") -> None:
        """Every job of a sweep runs on `device` and ends in `state`."""
        models = "[resnet18, resnet34, resnet50, alexnet]"
        spec = make_spec(name, models=models, workflows=workflows, devices=f"[{{id: {device}}}]")
        submission = submit(spec, store=self.store, jobs=self.jobs, register=self.register)
        for view in self.jobs.sweep_jobs(submission.sweep_id):
            assert self.jobs.dispatch(view.job_id, device)
            held = self.jobs.claim(view.job_id, device, "worker", 60)
            assert isinstance(held, Claim)
            assert self.jobs.finish(held, state, {})

    def look(self, limit: int = 5) -> list[str]:
        return quarantine_failing(self.jobs, self.register, self.register.devices(), limit)

    def state(self, device: str) -> tuple[str, str | None]:
        entry = next(entry for entry in self.register.devices() if entry.device_id == device)
        return entry.state, entry.reason


@pytest.fixture
def bed(client: redis.Redis, store: Store) -> Bed:
    return Bed(client, store)


def test_a_device_whose_last_jobs_failed_is_quarantined_and_says_which(bed: Bed) -> None:
    bed.sweep("one", "sound", JobState.FAILED)
    bed.sweep("two", "sick", JobState.FAILED)
    assert bed.look() == []
    bed.sweep("three", "sick", JobState.FAILED)
    assert bed.look() == ["sick"]
    state, reason = bed.state("sick")
    assert state == "quarantined"
    assert reason is not None
    assert reason.startswith("the last 8 jobs failed here: resnet18/fake/fp32 (")
    assert bed.state("sound")[0] == "ready"


def test_a_resumed_device_begins_anew(bed: Bed) -> None:
    bed.sweep("one", "sick", JobState.FAILED)
    bed.sweep("two", "sick", JobState.FAILED)
    assert bed.look() == ["sick"]
    bed.register.set_state("sick", "ready", None)
    assert bed.look() == []
    bed.sweep("three", "sick", JobState.FAILED)
    assert bed.look() == []


def test_one_job_that_is_done_clears_the_device(bed: Bed) -> None:
    bed.sweep("one", "sick", JobState.FAILED)
    bed.sweep("two", "sick", JobState.DONE)
    bed.sweep("three", "sick", JobState.FAILED)
    assert bed.look() == []


def test_one_workflow_of_one_sweep_speaks_against_the_sweep(bed: Bed) -> None:
    bed.sweep("one", "sick", JobState.FAILED)
    assert bed.look(limit=4) == []
    bed.sweep("both", "sound", JobState.FAILED, "[fake, onnxruntime_cpu]")
    assert bed.look(limit=4) == ["sound"]


def test_the_quarantine_can_be_turned_off(bed: Bed) -> None:
    bed.sweep("one", "sick", JobState.FAILED)
    bed.sweep("two", "sick", JobState.FAILED)
    assert bed.look(limit=0) == []
