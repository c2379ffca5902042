# SPDX-License-Identifier: Apache-2.0
"""When canaries are begun and what they lead to, with a real server and a real store; records stand for the worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from farm.broker.canaries import ASKED, CONFIRM, CanaryBook, CanaryEntry
from farm.broker.jobs import Claim, JobState, JobStore, JobView
from farm.broker.register import DeviceEntry, Register
from farm.canary import CanaryState, is_canary
from farm.contract.outcome import Failure, Outcome
from farm.contract.record import Flag
from farm.settings import Settings
from farm.store import Store
from scheduler import canary_job
from scheduler.canary import Canaries, due
from scheduler.canary_job import CHOICES, PRIORITY, PROTOCOL, canary_sweep
from scheduler.canary_points import point_of
from scheduler.dispatch import one_pass
from scheduler.main import Scheduler
from scheduler.reconcile import rebuild
from scheduler.submit import submit
from tests.factories import make_record
from tests.scheduler.conftest import Sent, announcement, entry, make_spec

DAY_S = 86400.0
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Farm:
    """A farm of one device, `d`, in which the test is scheduler and worker; its clock is the test's."""

    def __init__(self, client: redis.Redis, store: Store, settings: Settings) -> None:
        self.client, self.store, self.settings = client, store, settings
        self.jobs, self.register, self.book = JobStore(client), Register(client), CanaryBook(client)
        self.canaries = self.started()
        self.now = NOON
        self.digest = "r1"
        self.register.announce(announcement("d"))

    def started(self) -> Canaries:
        return Canaries(self.settings, self.store, self.jobs, self.register, self.book)

    def tick(self, times: int = 2) -> None:
        for _ in range(times):
            self.canaries.tick(self.register.devices(), self.now.timestamp())

    @property
    def entry(self) -> CanaryEntry:
        return self.book.read("d")

    @property
    def state(self) -> CanaryState:
        assert self.entry.state is not None
        return self.entry.state

    @property
    def waiting(self) -> list[JobView]:
        views = [view for sweep in self.jobs.sweeps() for view in self.jobs.sweep_jobs(sweep.sweep_id)]
        return [view for view in views if is_canary(view.spec) and not view.state.ended]

    def work(self, latency_ms: float | None, *flags: Flag) -> None:
        """Run the canary that waits; without a latency it fails."""
        (view,) = self.waiting
        assert self.jobs.dispatch(view.job_id, "d")
        claim = self.jobs.claim(view.job_id, "d", "worker", 60)
        assert isinstance(claim, Claim)
        self.now += timedelta(seconds=15)
        fields: dict[str, Any] = {"flags": list(flags), "provenance": {"runner_digest": self.digest}}
        if latency_ms is None:
            failure = Failure("measure", "no-disk", "the disk is full")
            fields |= {"outcome": Outcome.FAILED, "failure": failure, "metrics": {}, "ladder_stop": "failed"}
        else:
            fields |= {"metrics": {"latency_ms": latency_ms}, "ladder_stop": "end"}
        device = announcement("d").device
        at = self.now.isoformat(timespec="microseconds")
        record = make_record(
            job=view.spec, device=device, batch_size=view.spec.batches.sizes[0], started_at=at, finished_at=at, **fields
        )
        assert self.store.records.write(record)
        assert self.jobs.finish(claim, JobState.DONE, {"outcomes": {"ok": 1}})

    def day(self, latency_ms: float | None, *flags: Flag) -> CanaryState:
        """Let a day go by, with its canary."""
        self.now += timedelta(days=1)
        self.tick()
        self.work(latency_ms, *flags)
        self.tick(1)
        return self.state

    def calm(self, days: int = 6) -> None:
        for number in range(days):
            self.day(10 + 0.01 * (number % 3))


@pytest.fixture
def make(client: redis.Redis, store: Store, tmp_path: Path) -> Callable[..., Farm]:
    def build(**more: Any) -> Farm:
        return Farm(client, store, Settings(home=tmp_path / "home", store=store.root, **more))

    return build


def test_a_device_that_is_seen_for_the_first_time_gets_one_ahead_of_all_that_waits(
    make: Callable[..., Farm], sent: Sent
) -> None:
    farm = make()
    ordinary = make_spec("ordinary", priority="9")
    submit(ordinary, store=farm.store, jobs=farm.jobs, register=farm.register)
    farm.tick(1)
    (view,) = farm.waiting
    assert (view.target_key, view.priority, view.spec.protocol) == ("dev:d", PRIORITY, PROTOCOL)
    assert (view.spec.workflow, view.spec.model.name, view.spec.precision) == (
        "onnxruntime_cpu", "squeezenet1_1", "fp32",
    )  # fmt: skip
    one_pass(farm.jobs, farm.register, sent, window=1)
    assert sent.take() == [(view.job_id, "d")]


def test_nothing_is_sent_behind_a_canary_until_it_is_judged(make: Callable[..., Farm], sent: Sent) -> None:
    farm = make()
    farm.calm()
    submit(make_spec("ordinary"), store=farm.store, jobs=farm.jobs, register=farm.register)
    farm.now += timedelta(days=1)
    farm.tick(1)
    for _ in range(3):
        one_pass(farm.jobs, farm.register, sent, window=2)
    ((canary, _),) = sent.take()
    assert farm.waiting[0].job_id == canary
    assert farm.jobs.recall(canary)
    farm.work(12.0)
    farm.tick(1)
    one_pass(farm.jobs, farm.register, sent, window=2)
    ((confirming, _),) = sent.take()
    assert [view.job_id for view in farm.waiting] == [confirming], "a doubt is settled first"
    assert farm.jobs.recall(confirming)
    farm.work(10.0)
    farm.tick(1)
    one_pass(farm.jobs, farm.register, sent, window=2)
    assert len(sent.take()) == 1


def test_however_often_the_scheduler_looks_or_is_started_there_is_one(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.tick(5)
    farm.canaries = farm.started()
    farm.now += timedelta(days=3)
    farm.tick(5)
    assert len(farm.waiting) == 1
    assert not farm.book.begin("d", "another", ASKED, 0)


def test_the_next_one_is_due_after_the_hours_that_the_settings_say(make: Callable[..., Farm]) -> None:
    farm = make(canary_every_h=6)
    farm.tick()
    farm.work(10.0)
    farm.now += timedelta(hours=5.9)
    farm.tick()
    assert farm.waiting == []
    farm.now += timedelta(hours=0.2)
    farm.tick()
    assert len(farm.waiting) == 1


def test_devices_of_one_host_take_turns(make: Callable[..., Farm]) -> None:
    farm = make()
    for device, host in (("d2", "box"), ("e", "other")):
        told = announcement(device)
        farm.register.announce(dataclasses.replace(told, device=dataclasses.replace(told.device, host=host)))
    farm.tick(3)
    assert sorted(view.target_key for view in farm.waiting) == ["dev:d", "dev:e"]
    (first,) = [view for view in farm.waiting if view.target_key == "dev:d"]
    assert farm.jobs.cancel(first.job_id) is JobState.CANCELLED
    farm.now += timedelta(seconds=130)
    farm.tick(2)
    assert sorted(view.target_key for view in farm.waiting) == ["dev:d2", "dev:e"]


def test_a_canary_that_waits_behind_a_long_job_holds_up_no_other_device(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.register.announce(announcement("d2"))
    farm.tick(3)
    farm.now += timedelta(seconds=61)
    farm.tick(1)
    assert sorted(view.target_key for view in farm.waiting) == ["dev:d", "dev:d2"]


def test_without_canaries_there_are_none_unless_one_is_asked_for(make: Callable[..., Farm]) -> None:
    farm = make(canary=False)
    farm.tick()
    assert (farm.waiting, farm.entry.state) == ([], None)
    farm.book.ask("d", ASKED)
    farm.tick()
    assert len(farm.waiting) == 1
    assert farm.entry.asked == ""


def test_five_make_the_baseline_and_then_the_device_is_steady(make: Callable[..., Farm]) -> None:
    farm = make()
    summaries = [farm.day(10.0).summary for _ in range(6)]
    assert summaries[:2] == ["baseline, 1 of 5", "baseline, 2 of 5"]
    assert summaries[5] == "steady, 0.8 %"


def test_one_slow_canary_is_measured_once_more_at_once(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    farm.day(12.0)
    assert farm.state.verdict == "unconfirmed"
    farm.tick(1)
    assert farm.entry.why == CONFIRM
    farm.work(10.0)
    farm.tick()
    assert (farm.state.verdict, farm.waiting, farm.entry.asked) == ("steady", [], "")


def test_two_slow_ones_mark_the_device_and_leave_it_at_work(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    farm.day(12.0)
    farm.tick(1)
    farm.work(12.0)
    farm.tick()
    assert farm.state.shifted
    assert (farm.state.change, farm.waiting) == (pytest.approx(0.199, abs=0.01), [])
    assert farm.register.devices()[0].state == "ready"
    assert farm.day(10.0).verdict == "steady"


def test_a_device_that_is_out_on_both_sides_is_not_measured_for_ever(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    farm.day(12.0)
    farm.tick(1)
    farm.work(8.0)
    farm.tick(3)
    assert (farm.state.verdict, farm.waiting) == ("unconfirmed", [])


def test_a_shifted_device_is_quarantined_where_the_operator_wants_it(make: Callable[..., Farm]) -> None:
    farm = make(canary_quarantine=True)
    farm.calm()
    farm.day(12.0)
    farm.tick(1)
    farm.work(12.0)
    farm.tick()
    (found,) = farm.register.devices()
    assert found.state == "quarantined"
    assert "its canary has shifted +19." in (found.reason or "")
    farm.now += timedelta(days=2)
    farm.tick()
    assert farm.waiting == []
    farm.register.set_state("d", "ready", None)
    assert farm.day(12.0).shifted
    assert farm.register.devices()[0].state == "ready", "who resumed it knows of the shift"


@pytest.mark.parametrize("name", ["foreign_process", "host_busy", "stolen_time"])
def test_a_disturbed_canary_says_nothing_of_the_device(make: Callable[..., Farm], name: str) -> None:
    farm = make()
    farm.calm()
    state = farm.day(15.0, Flag(name, "suspect", "others were at work"))
    assert (state.verdict, state.problem) == ("steady", "disturbed: others were at work")
    farm.tick(3)
    assert farm.waiting == []


def test_a_throttled_canary_does_speak_of_the_device(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    assert farm.day(15.0, Flag("throttled", "invalid", "87 C")).verdict == "unconfirmed"


def test_a_canary_that_fails_is_told_and_not_repeated_before_its_time(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    state = farm.day(None)
    assert (state.verdict, state.problem) == ("steady", "failed: the disk is full")
    farm.tick(3)
    assert farm.waiting == []
    farm.now += timedelta(days=1)
    farm.tick()
    assert len(farm.waiting) == 1


def test_other_software_begins_a_new_series_and_says_what_changed(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    farm.digest = "r2"
    state = farm.day(13.0)
    assert (state.verdict, state.points, state.note) == ("baseline", 1, "new series: runner r1 -> r2")


def test_a_series_begun_by_the_operator_takes_the_device_as_it_is(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    for time in (12.0, 12.0):
        farm.day(time)
        farm.tick(1)
        if farm.waiting:
            farm.work(time)
            farm.tick(1)
    assert farm.state.shifted
    farm.book.ask("d", ASKED, farm.entry.series_number + 1)
    farm.tick()
    farm.work(12.0)
    farm.tick()
    assert (farm.state.verdict, farm.state.number) == ("baseline", 1)
    assert farm.day(12.0).points == 2


def test_after_redis_lost_everything_the_records_give_the_same_state(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.calm()
    farm.day(12.0)
    farm.tick(1)
    farm.work(12.0)
    farm.tick()
    before = farm.state
    farm.client.flushall()
    farm.register.announce(announcement("d"))
    farm.tick(3)
    assert farm.state == before
    assert farm.waiting == [], "the last one is as good as it was"


def test_a_canary_that_was_lost_with_redis_is_not_made_up_for(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.tick()
    assert len(farm.waiting) == 1
    farm.client.flushall()
    assert rebuild(farm.store, farm.jobs) == 0
    farm.register.announce(announcement("d"))
    farm.now += timedelta(seconds=1)
    farm.tick()
    assert len(farm.waiting) == 1


def test_a_scheduler_that_died_before_it_submitted_leaves_nothing_in_the_way(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.book.judged("d", CanaryState())
    assert farm.book.begin("d", "canary-000000000000", ASKED, farm.now.timestamp())
    farm.tick(1)
    (view,) = farm.waiting
    assert (farm.entry.sweep_id, farm.entry.why) == (view.sweep_id, ASKED)


def test_a_store_that_is_away_is_tried_again_later(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.book.judged("d", CanaryState())
    aside = farm.store.root.with_name("aside")
    (farm.store.root / "sweeps").rename(aside)
    farm.tick()
    assert (farm.waiting, farm.entry.sweep_id) == ([], "")
    aside.rename(farm.store.root / "sweeps")
    farm.tick()
    assert farm.waiting == []
    farm.now += timedelta(seconds=61)
    farm.tick()
    assert len(farm.waiting) == 1


def test_a_device_without_a_workflow_for_it_is_told_once_a_day(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.register.announce(announcement("d", libraries={}))
    farm.tick(3)
    assert farm.waiting == []
    assert farm.state.problem.startswith("it cannot run here: no stack of d can run pytorch")
    farm.register.announce(announcement("d"))
    farm.tick()
    assert farm.waiting == []
    farm.now += timedelta(days=1)
    farm.tick()
    assert len(farm.waiting) == 1


@pytest.mark.parametrize(
    ("seen", "automatic", "expected"),
    [
        (entry("d"), True, "start"),
        (entry("d"), False, None),
        (entry("d", online=False), True, None),
        (entry("d", state="drained"), True, None),
        (dataclasses.replace(entry("d"), canary=CanaryEntry(began_s=100.0)), True, None),
        (dataclasses.replace(entry("d"), canary=CanaryEntry(began_s=99.0)), True, "due"),
        (dataclasses.replace(entry("d"), canary=CanaryEntry(asked=ASKED, began_s=100.0)), False, ASKED),
        (dataclasses.replace(entry("d", state="quarantined"), canary=CanaryEntry(asked=ASKED)), True, None),
        (dataclasses.replace(entry("d"), canary=CanaryEntry(asked=ASKED, sweep_id="s")), True, None),
    ],
)
def test_when_one_is_due(seen: DeviceEntry, automatic: bool, expected: str | None) -> None:
    now_s = 99.0 + DAY_S
    assert due(seen, now_s, automatic=automatic, every_s=DAY_S) == expected


@pytest.mark.parametrize("kind", sorted(CHOICES))
def test_every_kind_of_device_has_its_canaries(kind: str) -> None:
    spec = canary_sweep(entry("d", kind=kind), 3, 1e9)
    if kind == "soc":
        assert not hasattr(spec, "sweep_id"), "no workflow runs on these boards yet"
        return
    assert spec.seed == 3  # type: ignore[union-attr]
    assert spec.sweep_id != canary_sweep(entry("d", kind=kind), 3, 1e9 + 0.5).sweep_id  # type: ignore[union-attr]


def test_a_canary_is_what_its_record_says_if_that_speaks_of_the_device() -> None:
    spec = canary_sweep(entry("d"), 0, 1e9)
    from scheduler.expand import jobs_at

    (job,) = jobs_at(spec, ["dev:d"], {})  # type: ignore[arg-type]
    assert len(job.run_ids()) == 1, "one record for a canary"
    sound = make_record(job=job, metrics={"latency_ms": 11.0, "cpu_frequency_mhz": 2400.0})
    found = point_of(sound)
    assert found is not None
    assert (found.latency_ms, found.problem, found.run_id, found.clock_mhz) == (11.0, "", sound.run_id, 2400.0)
    assert "seed" not in found.software
    busy = point_of(make_record(job=job, metrics={"latency_ms": 30.0}, flags=[Flag("host_busy", "suspect", "x")]))
    assert busy is not None
    assert (busy.problem, busy.latency_ms) == ("disturbed: x", None)
    assert point_of(make_record(job=job, metrics={})).problem == "it has no time"  # type: ignore[union-attr]
    assert point_of(make_record()) is None


def test_the_scheduler_does_all_this_as_it_goes_round(
    make: Callable[..., Farm], sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(canary_job.CHOICES, "cpu", (canary_job.Choice("fake", "resnet18", 1),))
    farm = make()
    scheduler = Scheduler(farm.settings, farm.client, farm.store, sent)
    scheduler.tick()
    ((_, device),) = sent.take()
    assert device == "d"
