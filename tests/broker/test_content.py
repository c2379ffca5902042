# SPDX-License-Identifier: Apache-2.0
"""What jobs have in common is kept once, whole jobs of earlier versions are read as before, and forged ones are not."""

from __future__ import annotations

import dataclasses
import json

import pytest
import redis

from farm.broker.content import Packer, Reader, whole
from farm.broker.jobs import Claim, JobState, JobStore, rank
from farm.contract.codec import to_json
from farm.contract.job import Calibration, Target
from tests.factories import make_job


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    return JobStore(client)


def test_packed_jobs_are_read_as_what_they_were() -> None:
    some = [
        make_job(job_id=f"j{i}", precision=precision, options={"b": [], "a": 0.1}, calibration=calibration)
        for i, (precision, calibration) in enumerate([("fp32", None), ("int8", Calibration(percentile=99.9))])
    ]
    some.append(dataclasses.replace(some[0], job_id="j9", target=Target(device_class="cpu-y")))
    packed, reader = Packer().pack(some), Reader()
    reader.parts |= packed.parts
    assert [reader.read(job.job_id, text) for job, text in zip(some, packed.texts, strict=True)] == some
    assert len(packed.parts) == 3, "one that all share, and one for each of two cases"


def test_a_part_that_is_missing_and_another_job_are_no_job() -> None:
    packed = Packer().pack([make_job(job_id="j1")])
    with pytest.raises(ValueError, match="missing"):
        Reader().read("j1", packed.texts[0])
    with pytest.raises(ValueError, match="is job j1"):
        whole("j2", json.dumps(to_json(make_job(job_id="j1"))))
    with pytest.raises(ValueError, match="target"):
        Reader().read("j1", "@ab cd dev:../x")


def test_a_worker_claims_the_very_job_that_was_submitted(jobs: JobStore) -> None:
    for target in (Target(device_id="d"), Target(device_class="cpu-test")):
        job = make_job(job_id=f"j-{target.key[:3]}", target=target, options={"x": 1.5, "y": {}})
        jobs.submit(job.sweep_id, "s", 5, [job])
        jobs.dispatch(job.job_id, "d")
        claim = jobs.claim(job.job_id, "d", "me", 30)
        assert isinstance(claim, Claim)
        assert claim.job == job
        view = jobs.get(job.job_id)
        assert view is not None
        assert view.spec == job


def test_what_a_reader_remembers_is_bounded_and_read_again(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.broker.content.MOST_PARTS", 0)
    job = make_job(job_id="j1", target=Target(device_id="d"))
    jobs.submit(job.sweep_id, "s", 5, [job])
    for _ in range(2):
        view = jobs.get("j1")
        assert view is not None
        assert view.spec == job


def test_a_job_as_earlier_versions_kept_it_goes_its_way(jobs: JobStore, client: redis.Redis) -> None:
    """An upgrade finds such jobs in the waiting lines."""
    job = make_job(job_id="old")
    jobs.submit(job.sweep_id, "s", 5, [job])
    client.set("farm:spec:old", json.dumps(to_json(job)))
    assert [view.spec for view in jobs.sweep_jobs(job.sweep_id)] == [job]
    (head,) = jobs.heads()
    assert jobs.dispatch_head(head, "d").done
    claim = jobs.claim("old", "d", "me", 30)
    assert isinstance(claim, Claim)
    assert claim.job == job


def test_many_jobs_of_a_sweep_cost_little_each(jobs: JobStore, client: redis.Redis) -> None:
    many = [make_job(job_id=f"{i:016x}", target=Target(device_id=f"lab-{i % 200:03d}")) for i in range(2000)]
    before = client.info("memory")["used_memory"]
    assert jobs.submit("sweep-1", "s", 5, many, [214.29] * len(many)) == len(many)
    assert (client.info("memory")["used_memory"] - before) / len(many) < 1024
    assert jobs.submit("sweep-1", "s", 5, many[:10]) == 0


def test_all_of_a_sweep_are_cancelled_in_few_calls(jobs: JobStore, client: redis.Redis) -> None:
    many = [make_job(job_id=f"j{i:04d}") for i in range(1200)]
    jobs.submit("sweep-1", "s", 5, many)
    jobs.dispatch("j0000", "d")
    jobs.dispatch("j0001", "d")
    running = jobs.claim("j0001", "d", "me", 30)
    assert isinstance(running, Claim)
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    answers = jobs.cancel_all([job.job_id for job in many])
    # Three blocks, and once more for a server that has not seen the script.
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before <= 4
    assert answers[1] == (JobState.CLAIMED, False)
    assert all(answer == (JobState.CANCELLED, True) for i, answer in enumerate(answers) if i != 1)
    assert jobs.sweeps()[0].counts == {"cancelled": 1199, "claimed": 1}
    assert jobs.heads() == []
    assert jobs.cancel_all(["j0000", "nobody"]) == [(JobState.CANCELLED, False), (None, False)]
    assert client.scard("farm:owed") == 1199


def test_a_line_that_devices_share_goes_by_length_and_a_device_s_own_as_it_was_listed(jobs: JobStore) -> None:
    seconds = [1.0, 300.0, 20.0, 310.0, 0.5, 64.0]
    for kind, target in (("shared", Target(device_class="c")), ("own", Target(device_id="d"))):
        many = [make_job(job_id=f"{kind}{i}", sweep_id=kind, target=target) for i in range(len(seconds))]
        jobs.submit(kind, kind, 5, many, seconds)
        wanted = sorted(range(len(seconds)), key=lambda i: rank(target.key, i, seconds[i]))
        got = []
        while heads := [head for head in jobs.heads() if head.sweep_id == kind]:
            assert jobs.dispatch_head(heads[0], "d").done
            got.append(heads[0].job_id)
        assert got == [f"{kind}{i}" for i in wanted]
    assert [i for i in sorted(range(6), key=lambda i: rank("cls:c", i, seconds[i]))] == [1, 3, 5, 2, 0, 4]


def test_a_dispatch_tells_what_became_of_the_line(jobs: JobStore) -> None:
    jobs.submit("sweep-1", "s", 5, [make_job(job_id="a"), make_job(job_id="b")], [10.0, 20.0])
    (head,) = jobs.heads()
    first = jobs.dispatch_head(head, "d")
    assert first.done
    assert first.behind is not None
    assert (first.behind.job_id, first.behind.predicted_s, first.behind.served_s) == ("b", 20.0, 10.0)
    assert not jobs.dispatch_head(head, "d").done, "it is gone already"
    assert jobs.dispatch_head(first.behind, "d").behind is None


def test_a_job_that_settles_leaves_its_device_and_is_done_later(jobs: JobStore) -> None:
    jobs.submit("sweep-1", "s", 5, [make_job(job_id="a"), make_job(job_id="b")])
    jobs.dispatch("a", "d")
    claim = jobs.claim("a", "d", "me", 30)
    assert isinstance(claim, Claim)
    assert jobs.running(claim)
    assert jobs.settle(claim, {"ok": 3})
    view = jobs.get("a")
    assert view is not None
    assert (view.state, view.progress["stage"], jobs.window("d")) == (JobState.RUNNING, "store", [])
    assert jobs.dispatch("b", "d")
    assert isinstance(jobs.claim("b", "d", "me", 30), Claim), "the next one need not wait for it"
    assert jobs.finish(claim, JobState.DONE, {})
    assert not jobs.settle(claim, {}), "it has ended"


def test_what_settled_when_its_worker_died_is_queued_again_and_is_not_blamed(jobs: JobStore) -> None:
    jobs.submit("sweep-1", "s", 5, [make_job(job_id="a")])
    jobs.dispatch("a", "d")
    claim = jobs.claim("a", "d", "gone", 30)
    assert isinstance(claim, Claim)
    assert jobs.settle(claim, {})
    assert jobs.disown("d", "me") == 1
    assert jobs.reap(3) == [("a", JobState.QUEUED)]
    view = jobs.get("a")
    assert view is not None
    assert view.kills == 0
    assert not jobs.finish(claim, JobState.DONE, {}), "the dead worker's claim changes nothing"
