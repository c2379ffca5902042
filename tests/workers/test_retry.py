# SPDX-License-Identifier: Apache-2.0
"""What a doubtful run is worth: a wait, another try, or neither; and that both are bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.contract.record import Flag
from tests.factories import make_flag, make_record
from tests.workers.support import fake_job
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute
from workers.daemon.preflight import Preflight
from workers.daemon.reporter import Progress
from workers.daemon.retry import Retries, try_facts, worth_another_try, worth_waiting
from workers.daemon.settle import Settle


@pytest.mark.parametrize(
    ("flags", "again"),
    [
        ([], False),
        ([make_flag("unstable")], True),
        ([make_flag("foreign_process", "invalid")], True),
        ([make_flag("power_capped", "info")], False),
        ([make_flag("unstable"), make_flag("power_capped", "info")], True),
        ([make_flag("on_battery")], False),
        ([make_flag("unstable"), make_flag("on_battery")], False),
        ([make_flag("no_steady_state"), make_flag("unstable")], True),
        ([make_flag("slow_start", "info")], False),
        ([make_flag("too_few_samples")], False),
        ([make_flag("settings_changed", "invalid")], False),
    ],
)
def test_another_try_is_for_doubts_that_may_pass(flags: list[Flag], again: bool) -> None:
    assert worth_another_try(Outcome.OK, flags, tried=1, retries=1, in_vain=0) is again


def test_tries_are_bounded_by_the_settings_and_by_what_they_brought() -> None:
    doubts = [make_flag("unstable")]
    assert not worth_another_try(Outcome.OK, doubts, tried=2, retries=1, in_vain=0)
    assert not worth_another_try(Outcome.OK, doubts, tried=1, retries=0, in_vain=0)
    assert not worth_another_try(Outcome.OK, doubts, tried=1, retries=1, in_vain=2)
    assert not worth_another_try(Outcome.CRASHED, doubts, tried=1, retries=1, in_vain=0)


def test_a_device_that_is_always_doubtful_is_not_tried_again_for_ever() -> None:
    retries, doubtful = Retries(1), make_record(flags=[make_flag("unstable")])
    said = [(retries.again(doubtful, 1), retries.again(doubtful, 2)) for _ in range(4)]
    assert said == [(True, False), (True, False), (False, False), (False, False)]


def test_a_try_that_helped_keeps_hope_up() -> None:
    retries = Retries(1)
    doubtful, sound = make_record(flags=[make_flag("unstable")]), make_record()
    for _ in range(4):
        assert retries.again(doubtful, 1)
        assert not retries.again(sound, 2)


def test_what_stays_of_a_try_is_why_and_what_it_measured() -> None:
    found = try_facts(make_record(flags=[make_flag("unstable")]))
    assert found["flags"] == [{"name": "unstable", "level": "suspect", "evidence": "evidence of it"}]
    assert found["latency_ms"] == 8.25


def test_work_of_others_and_heat_are_waited_for_and_the_rest_is_not() -> None:
    assert worth_waiting([make_flag("on_battery")]) is None
    assert worth_waiting([make_flag("host_busy", "info")]) is None
    busy, hot = make_flag("host_busy"), make_flag("throttled")
    assert worth_waiting([make_flag("on_battery"), busy, hot]) == ("idle", busy)
    assert worth_waiting([hot]) == ("cool", hot)


def looks(*flags: str | None) -> Iterator[Preflight]:
    for name in flags:
        yield Preflight({"hostname": "box"}, [make_flag(name)] if name else [])


def test_a_wait_ends_when_the_host_is_fit_and_watchers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.daemon.settle._LOOK_AGAIN_S", 0.01)
    notes: list[str] = []
    seen = looks("host_busy", "host_busy", "throttled", None)
    found = Settle(30, 60).until_fit(lambda: next(seen), threading.Event(), notes.append)
    assert found.flags == []
    assert found.host["hostname"] == "box"
    assert [note.split(",")[0] for note in notes] == [
        "waiting for other work to end",
        "waiting for other work to end",
        "waiting for the device to cool down",
    ]
    assert found.host["waited_idle_s"] < 30, "its budget"


def test_a_budget_is_spent_once_for_all_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.daemon.settle._LOOK_AGAIN_S", 0.05)
    notes: list[str] = []
    settle, never = Settle(0.12, 0), threading.Event()

    def busy() -> Preflight:
        return next(looks("host_busy"))

    assert [flag.name for flag in settle.until_fit(busy, never, notes.append).flags] == ["host_busy"]
    told = len(notes)
    assert 1 <= told <= 3
    settle.until_fit(busy, never, notes.append)
    assert len(notes) == told


def test_a_job_that_ends_is_not_kept_waiting() -> None:
    stop = threading.Event()
    stop.set()
    found = Settle(1e6, 1e6).until_fit(lambda: next(looks("host_busy")), stop, lambda _note: None)
    assert [flag.name for flag in found.flags] == ["host_busy"]


def test_a_job_that_waits_for_a_busy_host_says_so_to_watchers_and_measures_then(
    bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.settings.idle_wait_s = 1.5
    monkeypatch.setattr(
        "workers.daemon.execute.preflight",
        lambda limits, timed, others: Preflight({}, [Flag("host_busy", "suspect", "load 9")] if timed else []),
    )
    told: list[Progress] = []
    job = fake_job("job", bench.device.device_id)
    execute(bench, jobs, claim(job), boottime(), told.append)
    waits = [progress for progress in told if progress["stage"] == "wait_idle"]
    assert waits
    assert "waiting for other work to end" in waits[0]["note"]
    assert "load 9" in waits[0]["note"]
    record = bench.store.records.read(job.run_id(1))
    assert record.outcome is Outcome.OK, record.failure
    assert record.host["waited_idle_s"] >= 1.4
