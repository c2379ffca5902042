# SPDX-License-Identifier: Apache-2.0
"""One pass over a real Redis: windows filled, urgent work first, nothing left with a device that cannot do it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.register import Register
from farm.sweep import SweepSpec
from scheduler.dispatch import one_pass
from scheduler.expand import expand
from scheduler.match import match
from scheduler.reconcile import recall_from_absent
from tests.scheduler.conftest import Sent, announcement, make_spec, states

MANY = "[resnet18, resnet34, resnet50, resnet101, resnet152, alexnet, vgg11, vgg13, vgg16, vgg19]"


def queue(
    jobs: JobStore, register: Register, spec: SweepSpec, *, priority: int = 5, predicted_s: float = 10
) -> list[str]:
    made = match(spec, expand(spec), register.devices())
    assert made.jobs
    jobs.submit(spec.sweep_id, spec.name, priority, made.jobs, [predicted_s] * len(made.jobs))
    return [job.job_id for job in made.jobs]


def test_a_pass_fills_the_window_in_order_and_sends_what_it_dispatched(
    jobs: JobStore, register: Register, sent: Sent
) -> None:
    register.announce(announcement("d"))
    ids = queue(jobs, register, make_spec(models=MANY))
    report = one_pass(jobs, register, sent, 2)
    assert report.sent == ((ids[0], "d"), (ids[1], "d"))
    assert sent.messages[0] == (ids[0], "dev.d", "resnet18/fake/fp32")
    assert Counter(states(jobs, jobs.sweeps()[0].sweep_id)) == {JobState.QUEUED: 8, JobState.DISPATCHED: 2}
    assert one_pass(jobs, register, sent, 2).sent == ()


def test_idle_devices_get_their_first_job_before_anyone_gets_a_second(
    jobs: JobStore, register: Register, sent: Sent
) -> None:
    for device in "abc":
        register.announce(announcement(device))
    ids = queue(jobs, register, make_spec(models="[resnet18, resnet34, resnet50, alexnet]"))
    one_pass(jobs, register, sent, 2)
    assert sent.take() == [(ids[0], "a"), (ids[1], "b"), (ids[2], "c"), (ids[3], "a")]


def test_drained_quarantined_and_offline_devices_get_nothing(jobs: JobStore, register: Register, sent: Sent) -> None:
    for device in "abcd":
        register.announce(announcement(device))
    register.set_state("a", "drained", "maintenance")
    register.set_state("b", "quarantined", "lies")
    register.withdraw("c")
    queue(jobs, register, make_spec(models=MANY))
    one_pass(jobs, register, sent, 1)
    assert [device for _, device in sent.take()] == ["d"]


def test_an_urgent_sweep_goes_before_all_that_has_not_started(
    jobs: JobStore, register: Register, sent: Sent, claim: Callable[..., Claim]
) -> None:
    register.announce(announcement("d"))
    low = queue(jobs, register, make_spec("low", models=MANY))
    one_pass(jobs, register, sent, 2)
    running = claim(low[0], "d")
    high = queue(jobs, register, make_spec("high"), priority=9)
    sent.take()
    report = one_pass(jobs, register, sent, 2)
    assert report.recalled == (low[1],)
    assert sent.take() == [(high[0], "d")]
    assert isinstance(jobs.claim(low[1], "d", "worker", 60), str), (
        "the recalled job's old message finds nothing to claim"
    )
    assert one_pass(jobs, register, sent, 2) == type(report)(), "and that is the end of it"
    jobs.finish(running, JobState.DONE, {})
    claim(high[0], "d")
    one_pass(jobs, register, sent, 2)
    assert sent.take() == [(low[1], "d")]


def test_a_change_of_priority_acts_on_what_was_sent_ahead(jobs: JobStore, register: Register, sent: Sent) -> None:
    register.announce(announcement("d"))
    first, second = make_spec("first", models=MANY), make_spec("second")
    queue(jobs, register, first)
    waiting = queue(jobs, register, second)
    one_pass(jobs, register, sent, 1)
    sent.take()
    jobs.set_priority(second.sweep_id, 9)
    one_pass(jobs, register, sent, 1)
    assert sent.take() == [(waiting[0], "d")]


def test_two_sweeps_take_turns_by_predicted_time(jobs: JobStore, register: Register, sent: Sent) -> None:
    register.announce(announcement("d"))
    long = queue(jobs, register, make_spec("long", models=MANY), predicted_s=30)
    short = queue(jobs, register, make_spec("short", models=MANY), predicted_s=10)
    order = []
    for _ in range(12):
        one_pass(jobs, register, sent, 1)
        ((job_id, device),) = sent.take()
        made = jobs.claim(job_id, device, "worker", 60)
        assert isinstance(made, Claim)
        jobs.finish(made, JobState.DONE, {})
        order.append("long" if job_id in long else "short")
    assert Counter(order) == {"long": 3, "short": 9}
    assert len(long) == len(short)


def test_an_idle_device_takes_over_what_waits_behind_a_running_job(
    jobs: JobStore, register: Register, sent: Sent, claim: Callable[..., Claim]
) -> None:
    register.announce(announcement("a"))
    ids = queue(jobs, register, make_spec(models="[resnet18, resnet34]"))
    one_pass(jobs, register, sent, 2)
    claim(ids[0], "a")
    register.announce(announcement("b"))
    sent.take()
    assert one_pass(jobs, register, sent, 2).recalled == (ids[1],)
    assert sent.take() == [(ids[1], "b")]
    assert one_pass(jobs, register, sent, 2).recalled == ()


def test_a_job_that_a_device_is_about_to_start_is_not_taken_from_it(
    jobs: JobStore, register: Register, sent: Sent
) -> None:
    register.announce(announcement("a"))
    queue(jobs, register, make_spec())
    one_pass(jobs, register, sent, 2)
    register.announce(announcement("b"))
    assert one_pass(jobs, register, sent, 2) == type(one_pass(jobs, register, sent, 2))()


def test_a_job_for_one_device_never_goes_to_another_of_its_class(
    jobs: JobStore, register: Register, sent: Sent, claim: Callable[..., Claim]
) -> None:
    register.announce(announcement("a"))
    register.announce(announcement("b"))
    ids = queue(jobs, register, make_spec(models="[resnet18, resnet34]", devices="[{id: a}]"))
    one_pass(jobs, register, sent, 2)
    claim(ids[0], "a")
    one_pass(jobs, register, sent, 2)
    assert sent.take() == [(ids[0], "a"), (ids[1], "a")]


def test_what_was_sent_to_a_device_that_went_away_goes_to_another(
    jobs: JobStore, register: Register, sent: Sent, claim: Callable[..., Claim]
) -> None:
    register.announce(announcement("a"))
    ids = queue(jobs, register, make_spec(models="[resnet18, resnet34]"))
    one_pass(jobs, register, sent, 2)
    claim(ids[0], "a")
    register.announce(announcement("b"))
    register.withdraw("a")
    assert recall_from_absent(jobs, register.devices()) == [ids[1]]
    sent.take()
    one_pass(jobs, register, sent, 2)
    assert sent.take() == [(ids[1], "b")], "what runs is left to its lease"


def test_a_drained_device_gives_back_what_it_has_not_started(jobs: JobStore, register: Register, sent: Sent) -> None:
    register.announce(announcement("a"))
    ids = queue(jobs, register, make_spec())
    one_pass(jobs, register, sent, 2)
    register.set_state("a", "drained", None)
    assert recall_from_absent(jobs, register.devices()) == ids
    assert states(jobs, jobs.sweeps()[0].sweep_id) == [JobState.QUEUED]


def test_thirty_jobs_on_three_devices_all_run_exactly_once(jobs: JobStore, register: Register, sent: Sent) -> None:
    for device in "abc":
        register.announce(announcement(device))
    spec = make_spec(models=MANY, precisions="[fp32, fp16, int8]")
    ids = queue(jobs, register, spec)
    ran: Counter[str] = Counter()
    by_device: Counter[str] = Counter()
    for _ in range(40):
        one_pass(jobs, register, sent, 2)
        for job_id, device in sent.take():
            made = jobs.claim(job_id, device, "worker", 60)
            if isinstance(made, Claim):
                ran[job_id] += 1
                by_device[device] += 1
                jobs.finish(made, JobState.DONE, {})
    assert ran == Counter(ids)
    assert by_device == {"a": 10, "b": 10, "c": 10}
