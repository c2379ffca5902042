# SPDX-License-Identifier: Apache-2.0
"""A sweep that is looked at again and again: each look is as a whole read would be, and reads what may have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import redis

from farm.broker.following import Follower
from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.views import JobView
from tests.broker.test_jobs import job

IDS = [f"j{number}" for number in range(40)]


class Counting(JobStore):
    """Keeps which jobs were read whole, and of how many the state alone."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.read: list[str] = []
        self.asked = 0

    def _views(self, job_ids: Iterable[str]) -> list[JobView]:
        ids = list(job_ids)
        self.read += ids
        return super()._views(ids)

    def states(self, job_ids: list[str]) -> dict[str, JobState]:  # type: ignore[override]
        self.asked += len(job_ids)
        return super().states(job_ids)


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    made = JobStore(client)
    made.submit("s", "s", 5, [job(job_id) for job_id in IDS])
    client.sadd("farm:devices", "d")
    return made


@pytest.fixture
def seen(client: redis.Redis) -> Counting:
    return Counting(client)


@pytest.fixture
def look(seen: Counting, jobs: JobStore) -> Callable[[], tuple[set[str], int]]:
    """Look, hold the answer against a whole read, and tell what was read for it: jobs, and states alone."""
    follower = Follower(seen, "s")

    def once() -> tuple[set[str], int]:
        seen.read.clear()
        seen.asked = 0
        assert follower.look() == jobs.sweep_jobs("s")
        return set(seen.read), seen.asked

    once()
    return once


def start(jobs: JobStore, job_id: str) -> Claim:
    assert jobs.dispatch(job_id, "d")
    claim = jobs.claim(job_id, "d", "me", 30)
    assert isinstance(claim, Claim)
    jobs.running(claim)
    return claim


Look = Callable[[], tuple[set[str], int]]


def test_of_a_sweep_that_stands_still_nothing_is_read_again(look: Look) -> None:
    assert look() == (set(), 0)


def test_what_is_at_a_device_is_read_and_nothing_else(jobs: JobStore, look: Look) -> None:
    claim = start(jobs, "j3")
    assert look() == ({"j3"}, 0)
    jobs.progress(claim, {"stage": "measure"})
    assert look() == ({"j3"}, 0)
    jobs.finish(claim, JobState.DONE, {"outcomes": {"ok": 2}})
    jobs.dispatch("j4", "d")
    assert look() == ({"j3", "j4"}, 0)
    assert look() == ({"j4"}, 0)


def test_a_job_whose_records_are_on_their_way_is_still_followed(jobs: JobStore, look: Look) -> None:
    claim = start(jobs, "j3")
    look()
    assert jobs.settle(claim, {"ok": 2})
    assert look() == ({"j3"}, 0)
    jobs.finish(claim, JobState.DONE, {"outcomes": {"ok": 2}})
    assert look() == ({"j3"}, 0)


def test_what_came_and_went_between_two_looks_is_found_by_its_state(jobs: JobStore, look: Look) -> None:
    jobs.finish(start(jobs, "j7"), JobState.DONE, {"outcomes": {"ok": 2}})
    jobs.cancel("j8")
    read, asked = look()
    assert (read, asked) == ({"j7", "j8"}, len(IDS))


def test_a_recalled_job_waits_again(jobs: JobStore, look: Look) -> None:
    jobs.dispatch("j1", "d")
    look()
    jobs.recall("j1")
    assert look() == ({"j1"}, 0)


def test_jobs_that_came_to_the_sweep_are_read_with_all_others(jobs: JobStore, look: Look) -> None:
    jobs.submit("s", "s", 5, [job("new")])
    assert look()[0] == {*IDS, "new"}


def test_a_job_that_is_tried_again_is_read_with_all_others(jobs: JobStore, look: Look) -> None:
    jobs.cancel("j5")
    look()
    assert jobs.retry(job("j5")) == "queued"
    assert look()[0] == set(IDS)
