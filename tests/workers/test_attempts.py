# SPDX-License-Identifier: Apache-2.0
"""What lost attempts leave: small, kept once, for their own device, and safe from a store or a broker that is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from farm.broker.jobs import JobState, JobStore, JobView
from farm.contract.names import SAMPLES_DIR
from farm.store import Store
from scheduler.reconcile import awaits_logs, settle
from tests.factories import make_job
from tests.workers.support import make_control, wait_until
from workers.daemon.attempts import discard, keep_lost, lost_of, set_aside_leftovers
from workers.daemon.control import job_dir

JOB = make_job()


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    made = JobStore(client)
    made.submit(JOB.sweep_id, "sweep", 5, [JOB])
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create()
    return made


def leave(tmp_path: Path) -> Path:
    """An attempt whose worker was killed while it measured."""
    control = make_control(tmp_path, JOB)
    control.log.write_text("a word\n")
    control.events.write_text('{"kind": "stage_start", "stage": "measure", "monotonic_ns": 1}\nhalf a li')
    (control.path / SAMPLES_DIR / "latency.i64").write_bytes(bytes(10**6))
    return tmp_path / "work"


def view(jobs: JobStore) -> JobView:
    found = jobs.get(JOB.job_id)
    assert found is not None
    return found


def test_only_its_own_device_s_and_only_what_is_small(tmp_path: Path, jobs: JobStore, store: Store) -> None:
    work = leave(tmp_path)
    assert set_aside_leftovers(work, "other-cpu") == 0
    assert set_aside_leftovers(work, "box-cpu") == 1
    assert set_aside_leftovers(work, "box-cpu") == 0
    assert sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) < 10_000
    assert keep_lost(work, "other-cpu", store, jobs) == 0
    assert lost_of(work, "box-cpu")
    assert keep_lost(work, "box-cpu", store, jobs) == 0
    assert not list(work.glob("*/*"))
    log, facts = sorted(view(jobs).logs, key=lambda ref: ref["kind"], reverse=True)
    assert (log["kind"], store.blobs.read(log["sha256"])) == (
        "log:attempt-1", f"== {JOB.run_id(1)}\na word\n".encode(),
    )  # fmt: skip
    told = json.loads(store.blobs.read(facts["sha256"]))
    assert told["runs"][0] | {"directory": ""} == {
        "directory": "", "run_id": JOB.run_id(1), "mode": "measure", "batch_size": 1, "last_stage": "measure",
        "stages_begun": ["measure"], "supervisor": None, "result": False,
    }  # fmt: skip
    assert keep_lost(tmp_path / "nowhere", "box-cpu", store, jobs) == 0


def test_a_worker_killed_while_it_makes_or_clears_a_directory_leaves_nothing_for_ever(
    tmp_path: Path, jobs: JobStore, store: Store
) -> None:
    work = tmp_path / "work"
    begun = job_dir(work, "box-cpu", JOB.job_id, 1)
    (begun / JOB.run_id(1) / SAMPLES_DIR).mkdir(parents=True)
    cleared = job_dir(work, "box-cpu", JOB.job_id, 2)
    (cleared / JOB.run_id(1)).mkdir(parents=True)
    cleared.rename(cleared.with_name(cleared.name + ".gone"))
    assert set_aside_leftovers(work, "box-cpu") == 2
    assert [path.name for path in lost_of(work, "box-cpu")] == [f"{JOB.job_id}-a1.lost"]
    assert keep_lost(work, "box-cpu", store, jobs) == 0
    assert not list(work.glob("*/*"))
    assert {ref["kind"] for ref in view(jobs).logs} == {"log:attempt-1", "failure:attempt-1"}


def test_a_directory_is_discarded_whether_it_is_there_or_not(tmp_path: Path) -> None:
    work = leave(tmp_path)
    directory = job_dir(work, "box-cpu", JOB.job_id, 1)
    assert directory.is_dir()
    discard(directory)
    discard(directory)
    assert not list(work.glob("*/*"))


def test_they_wait_for_a_store_that_is_away_and_are_noted_once(tmp_path: Path, jobs: JobStore, store: Store) -> None:
    work = leave(tmp_path)
    set_aside_leftovers(work, "box-cpu")
    aside = store.root.rename(tmp_path / "away")
    assert keep_lost(work, "box-cpu", store, jobs) == 1
    assert lost_of(work, "box-cpu")
    aside.rename(store.root)
    assert keep_lost(work, "box-cpu", store, jobs) == 0
    before = view(jobs).logs
    jobs.keep_logs(JOB.job_id, before)
    assert view(jobs).logs == before
    jobs.keep_logs("unknown", before)
    assert jobs.get("unknown") is None


def test_the_record_waits_a_little_for_a_log_that_may_come_and_names_only_blobs_that_are_there(
    jobs: JobStore, store: Store, client: redis.Redis
) -> None:
    assert jobs.dispatch(JOB.job_id, "box-cpu")
    assert not isinstance(jobs.claim(JOB.job_id, "box-cpu", "worker", 0.001), str)
    wait_until(lambda: jobs.reap(max_attempts=1) == [(JOB.job_id, JobState.QUARANTINED)], "the end of the lease")
    given_up_s = view(jobs).times["quarantined"]
    assert awaits_logs(view(jobs), given_up_s + 1)
    assert not awaits_logs(view(jobs), given_up_s + 3600)
    settle(jobs, store, given_up_s + 1)
    assert not store.records.exists(JOB.run_id(None))
    kept = store.blobs.put_bytes(b"a log")
    refs = [{"kind": "log:attempt-1", "sha256": sha256, "size_bytes": 5} for sha256 in (kept.sha256, "ab" * 32, "../x")]
    jobs.keep_logs(JOB.job_id, [*refs, {"kind": "log:attempt-1", "sha256": kept.sha256 + "0"}])
    assert not awaits_logs(view(jobs), given_up_s + 1)
    settle(jobs, store, given_up_s + 1)
    record = store.records.read(JOB.run_id(None))
    assert [ref.sha256 for ref in record.artifacts] == [kept.sha256]
    assert list(store.verify()) == []
