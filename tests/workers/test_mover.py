# SPDX-License-Identifier: Apache-2.0
"""Records go to the store beside the next job; what measures the processor waits for that; nothing is lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import redis

from farm.broker.jobs import Claim, JobState, JobStore
from farm.contract.job import Target
from farm.errors import UnavailableError
from farm.store import Store
from farm.store.kept import WorkerStore
from tests.factories import make_job, make_record
from tests.workers.support import wait_until
from workers.daemon.mover import Mover, PokingSpool, SettlingJobs
from workers.daemon.preflight import Preflight
from workers.daemon.settle import Settle
from workers.daemon.spool import Spool


class SlowSpool(Spool):
    """A spool whose way to the store is closed until `open` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.open = threading.Event()
        self.passes = 0

    def flush(self, store: WorkerStore, *, wait_s: float = 0.0) -> int:
        assert self.open.wait(30)
        self.passes += 1
        return super().flush(store, wait_s=wait_s)


@pytest.fixture
def spool(tmp_path: Path) -> SlowSpool:
    return SlowSpool(tmp_path / "spool")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create()
    return made


def claimed(jobs: JobStore, job_id: str = "a", name: str = "sweep") -> Claim:
    job = make_job(job_id=job_id, target=Target(device_id="d"), sweep_name=name)
    jobs.submit(job.sweep_id, name, 5, [job])
    jobs.dispatch(job_id, "d")
    claim = jobs.claim(job_id, "d", "me", 30)
    assert isinstance(claim, Claim)
    assert jobs.running(claim)
    return claim


def state(jobs: JobStore, job_id: str = "a") -> JobState:
    view = jobs.get(job_id)
    assert view is not None
    return view.state


def test_a_job_is_done_when_its_records_are_stored_and_its_device_is_free_before(
    client: redis.Redis, spool: SlowSpool, store: Store
) -> None:
    jobs = SettlingJobs(client, Mover(spool, store), 30)
    claim = claimed(jobs)
    record = make_record(job=claim.job)
    spool.put(record, [])
    assert jobs.finish(claim, JobState.DONE, {"outcomes": {"ok": 1}})
    assert (state(jobs), jobs.window("d"), store.records.exists(record.run_id)) == (JobState.RUNNING, [], False)
    spool.open.set()
    jobs.join()
    assert (state(jobs), store.records.exists(record.run_id)) == (JobState.DONE, True)


def test_a_failure_is_told_before_the_device_gets_another_job(
    client: redis.Redis, spool: SlowSpool, store: Store
) -> None:
    jobs = SettlingJobs(client, Mover(spool, store), 30)
    claim = claimed(jobs)
    spool.open.set()
    assert jobs.finish(claim, JobState.FAILED, {})
    assert state(jobs) is JobState.FAILED
    assert [view.job_id for view in jobs.failures("d")] == ["a"]


def test_a_claim_that_was_fenced_ends_nothing(client: redis.Redis, spool: SlowSpool, store: Store) -> None:
    jobs = SettlingJobs(client, Mover(spool, store), 30)
    claim = claimed(jobs)
    client.hset("farm:job:a", "token", "another attempt's")
    assert not jobs.finish(claim, JobState.DONE, {})
    assert state(jobs) is JobState.RUNNING


def test_a_store_that_is_away_holds_up_no_job(client: redis.Redis, spool: SlowSpool, tmp_path: Path) -> None:
    away = Store(tmp_path / "nowhere")
    jobs = SettlingJobs(client, Mover(spool, away), 30)
    claim = claimed(jobs)
    spool.put(make_record(job=claim.job), [])
    spool.open.set()
    assert jobs.finish(claim, JobState.DONE, {})
    jobs.join()
    assert state(jobs) is JobState.DONE
    assert len(spool.entries()) == 1, "it waits in the spool"
    with pytest.raises(UnavailableError):
        away.check_writable()


def test_what_measures_the_processor_waits_until_nothing_is_moved(spool: SlowSpool, store: Store) -> None:
    mover, stop, looks = Mover(spool, store), threading.Event(), []
    assert PokingSpool(spool, mover).flush(store) == 0, "nobody waits here"

    def look() -> Preflight:
        looks.append(spool.passes)
        return Preflight()

    settle = Settle(0, 0, mover.quiet)
    thread = threading.Thread(target=settle.until_fit, args=(look, stop, lambda _note: None))
    thread.start()
    wait_until(lambda: spool.open.is_set() or thread.is_alive(), "the wait")
    assert looks == []
    spool.open.set()
    thread.join(30)
    assert looks == [1]


def test_a_job_that_must_stop_waits_for_no_mover(spool: SlowSpool, store: Store) -> None:
    mover, stop = Mover(spool, store), threading.Event()
    mover.poke()
    stop.set()
    mover.quiet(stop)
    assert spool.passes == 0
    spool.open.set()
