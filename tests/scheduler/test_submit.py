# SPDX-License-Identifier: Apache-2.0
"""Submitting: first the store, then the queue; twice adds nothing; what is refused is on record."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from farm.broker.jobs import JobState, JobStore
from farm.broker.register import Register
from farm.contract.canonical import sha256_file
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.errors import UnavailableError, UsageError
from farm.store import Store
from farm.sweep import SweepSpec, load_sweep
from scheduler.submit import Submission, plan, submit
from tests.scheduler.conftest import announcement, make_spec, states
from tests.scheduler.test_reconcile import write
from tests.sweep.test_onnx import write_onnx


@pytest.fixture
def register(client: redis.Redis) -> Register:
    made = Register(client)
    made.announce(announcement("a"))
    return made


def send(spec: SweepSpec, store: Store, jobs: JobStore, register: Register, **more: object) -> Submission:
    return submit(spec, store=store, jobs=jobs, register=register, **more)  # type: ignore[arg-type]


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_twice_the_same_sweep_adds_nothing(store: Store, jobs: JobStore, register: Register) -> None:
    first = send(make_spec(precisions="[fp32, fp16]"), store, jobs, register)
    kept = files(store.root)
    second = send(make_spec(precisions="[fp32, fp16]"), store, jobs, register)
    assert (first.new, first.total) == (2, 2)
    assert (second.sweep_id, second.new, second.total) == (first.sweep_id, 0, 2)
    assert files(store.root) == kept


def test_what_is_recorded_is_not_queued_even_by_an_empty_redis(
    store: Store, jobs: JobStore, register: Register, client: redis.Redis
) -> None:
    first = send(make_spec(), store, jobs, register)
    (view,) = jobs.sweep_jobs(first.sweep_id)
    for size in (1, 2):
        write(store, view.spec, size, None)
    client.flushall()
    register.announce(announcement("a"))
    again = send(make_spec(), store, jobs, register)
    assert (again.new, again.recorded) == (0, 1)
    assert plan(make_spec(), store=store, jobs=jobs, register=register).recorded == {view.job_id}
    assert [found.sweep_id for found in jobs.sweeps()] == [first.sweep_id], "the sweep is known all the same"


def test_again_makes_a_sweep_of_its_own_each_time(store: Store, jobs: JobStore, register: Register) -> None:
    ids = [send(make_spec(), store, jobs, register, again=True).sweep_id for _ in range(3)]
    assert len(set(ids)) == 3
    assert ids[0] == make_spec().sweep_id, "what was never submitted needs no repeat"
    assert all(states(jobs, sweep_id) == [JobState.QUEUED] for sweep_id in ids)


def test_a_refusal_is_recorded_once_with_stage_reason_and_remedy(
    store: Store, jobs: JobStore, register: Register
) -> None:
    for _ in range(2):
        made = send(make_spec(workflows="[pytorch, fake]", precisions="[fp16]"), store, jobs, register)
    (record,) = [r for r in store.records.iterate(made.sweep_id) if isinstance(r, Record)]
    assert (record.outcome, record.batch_size, record.job.workflow) == (Outcome.UNSUPPORTED, None, "pytorch")
    assert record.failure is not None
    assert (record.failure.stage, record.failure.reference) == ("match", "precision-unsupported")
    assert record.failure.hint
    assert made.total == 1


def test_what_was_refused_is_queued_once_it_becomes_possible(store: Store, jobs: JobStore, client: redis.Redis) -> None:
    register = Register(client)
    register.announce(announcement("a", libraries={}))
    assert send(make_spec(workflows="[pytorch]"), store, jobs, register).total == 0
    register.announce(announcement("a"))
    assert send(make_spec(workflows="[pytorch]"), store, jobs, register).new == 1


def test_priority_comes_from_the_command_then_the_sweep_then_what_it_had(
    store: Store, jobs: JobStore, register: Register
) -> None:
    def priority() -> int:
        return jobs.sweeps()[0].priority

    send(make_spec(), store, jobs, register)
    assert priority() == 5
    send(make_spec(), store, jobs, register, priority=8)
    assert priority() == 8
    send(make_spec(), store, jobs, register)
    assert priority() == 8
    send(make_spec(priority="2"), store, jobs, register)
    assert priority() == 2
    send(make_spec(priority="2"), store, jobs, register, priority=0)
    assert priority() == 0


def test_a_plan_has_no_effect(store: Store, jobs: JobStore, register: Register, client: redis.Redis) -> None:
    before = files(store.root), sorted(client.keys("*"))
    spec = make_spec(workflows="[fake, pytorch]", precisions="[fp16]")
    made = plan(spec, store=store, jobs=jobs, register=register)
    assert (len(made.jobs), len(made.refusals)) == (1, 1)
    assert (files(store.root), sorted(client.keys("*"))) == before
    away = Store(store.root / "not" / "there")
    assert plan(spec, store=away, jobs=jobs, register=register, again=True).jobs == made.jobs
    assert not away.root.exists()


def test_without_any_device_nothing_is_stored_and_the_remedy_is_named(
    store: Store, jobs: JobStore, client: redis.Redis
) -> None:
    with pytest.raises(UnavailableError) as caught:
        send(make_spec(), store, jobs, Register(client))
    assert "farm worker" in str(caught.value.hint)
    assert store.sweeps.ids() == []


def test_a_store_that_is_away_leaves_the_queue_alone(
    store: Store, jobs: JobStore, register: Register, client: redis.Redis
) -> None:
    with pytest.raises(UnavailableError):
        send(make_spec(), Store(store.root / "away"), jobs, register)
    assert jobs.sweeps() == []


def test_an_onnx_file_travels_by_its_sha256(store: Store, jobs: JobStore, register: Register, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    write_onnx(path)
    sweep = tmp_path / "s.yaml"
    sweep.write_text("name: a\nmodels: [{name: mine, onnx: mine.onnx, input: [256]}]\nworkflows: [fake]\n")
    spec = load_sweep(sweep)
    send(spec, store, jobs, register)
    assert store.blobs.read(sha256_file(str(path))) == path.read_bytes()
    write_onnx(path, scale=5.0)
    with pytest.raises(UsageError, match="changed while"):
        send(spec, store, jobs, register)


def test_weights_that_the_store_does_not_have_are_refused_at_once(
    store: Store, jobs: JobStore, register: Register
) -> None:
    digest = store.blobs.put_bytes(b"weights").sha256
    assert send(make_spec(weights=f"sha256:{digest}"), store, jobs, register).new == 1
    with pytest.raises(UsageError, match="no file with the sha256"):
        send(make_spec(weights=f"sha256:{'0' * 64}"), store, jobs, register)
