# SPDX-License-Identifier: Apache-2.0
"""Predictions learned from records: what is known is used, what is near it is scaled, and nothing odd breaks it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from farm.broker.jobs import Head
from farm.broker.register import Register
from farm.contract.job import BatchLadder, JobSpec, Protocol, Target
from farm.contract.run import StageTime
from farm.store import Store
from farm.store.columns import protocol_id
from farm.store.durations import Took, durations
from scheduler.choose import choose
from scheduler.learn import learn
from scheduler.learned import Predictor
from scheduler.predict import PROCESS_S, point_s, predicted_s
from tests.factories import make_job, make_record
from tests.scheduler.conftest import announcement

HERE, THERE = Target(device_class="here"), Target(device_class="there")
Predict = Callable[[JobSpec], float]


def took(job: JobSpec, size: int, seconds: float, *, where: str = "here", call_ms: float | None = None) -> Took:
    options = ", ".join(f"{key}={value}" for key, value in job.options.items())
    return Took(
        job.model.name, job.workflow, job.precision, options, "", where, protocol_id(job.protocol), size, seconds,
        call_ms, 6.0, 5,
    )  # fmt: skip


def of(model: str = "resnet18", *, sizes: tuple[int, ...] = (1,), target: Target = HERE, **more: object) -> JobSpec:
    return make_job(model=model, batches=BatchLadder(sizes), target=target, **more)


def test_nothing_known_is_the_formula() -> None:
    for job in (of(), of(sizes=(1, 64, 1024)), of(target=Target(device_id="d"), workflow="pytorch")):
        assert Predictor().predicted_s(job) == pytest.approx(predicted_s(job))


def test_what_ran_is_predicted_as_it_was_point_by_point() -> None:
    job = of(sizes=(1, 4))
    rows = [took(job, 1, 30.0), took(job, 4, 50.0), took(job, 16, 900.0), took(of("alexnet"), 1, 5000.0)]
    # 4 s for the process that prepares, and the 6 s that its stages took.
    assert Predictor(rows).predicted_s(job) == pytest.approx(30 + 50 + 10)
    assert Predictor(rows).predicted_s(of(sizes=(16,))) == pytest.approx(900 + 10)


def test_runs_under_a_profiler_come_on_top_of_what_was_measured() -> None:
    plain, profiled = of(), of(profile=("layers", "timeline"))
    assert Predictor().predicted_s(profiled) == pytest.approx(predicted_s(profiled))
    known = Predictor([took(plain, 1, 30.0, call_ms=10.0)])
    # Two processes, each with 0.5 s of warm-up and 50 inferences of 10 ms that are three times as slow.
    extra = 2 * (PROCESS_S + 0.5 + 3 * 50 * 0.01)
    assert known.predicted_s(profiled) - known.predicted_s(plain) == pytest.approx(extra)


def test_a_device_by_name_is_of_its_class() -> None:
    job = of(target=Target(device_id="d"))
    rows = [took(job, 1, 30.0), took(job, 1, 300.0, where="there")]
    assert Predictor(rows, {"d": "there"}).predicted_s(job) == pytest.approx(310)


def test_another_ladder_follows_from_the_nearest_point() -> None:
    job = of(sizes=(64,))
    rows = [took(job, 32, 100.0, call_ms=400.0), took(job, 1, 20.0, call_ms=12.0)]
    found = Predictor(rows).predicted_s(job) - 10
    assert 100 < found < 200, "at most twice the work of half the batch"


def test_another_class_is_scaled_by_what_both_ran() -> None:
    shared = [took(of(name), 1, 10, where=place, call_ms=ms * factor)
              for name, ms in (("alexnet", 5.0), ("vgg16", 50.0), ("resnet50", 20.0))
              for place, factor in (("here", 3.0), ("there", 1.0))]  # fmt: skip
    rows = [*shared, took(of(), 1, 20.0, where="there", call_ms=7.0)]
    slower = point_s(of().protocol, 3 * 0.007) / point_s(of().protocol, 0.007)
    assert slower > 1.2
    assert Predictor(rows).predicted_s(of()) == pytest.approx(slower * 20 + 10)
    assert Predictor(rows[-1:]).predicted_s(of()) == pytest.approx(20 + 10), "nothing in common: taken as it is"


def test_another_protocol_takes_the_known_call_time_into_the_formula() -> None:
    job = of(sizes=(8,))
    slow = [took(job, 8, 77.0, call_ms=2000.0)]
    patient = replace(job.protocol, min_iterations=2 * job.protocol.min_iterations, max_s=1e6, max_iterations=10**6)
    asked = replace(job, protocol=patient)
    assert Predictor(slow).predicted_s(asked) > 2.0 * patient.min_iterations
    assert Predictor(slow).predicted_s(asked) > 3 * Predictor().predicted_s(asked)


def test_one_odd_cell_changes_little() -> None:
    models = [f"m{number}" for number in range(9)]
    rows = [took(of(name), 1, 10.0, call_ms=21.0) for name in models]
    odd = [*rows, took(of("odd"), 1, 1e6, call_ms=1e9)]
    assert Predictor(odd).predicted_s(of("new")) == pytest.approx(Predictor(rows).predicted_s(of("new")), rel=0.01)


def test_a_hundred_thousand_jobs_are_predicted_in_seconds() -> None:
    names = [f"m{number}" for number in range(200)]
    rows = [took(of(name), size, 10.0 + size, where=place, call_ms=2.0 * size)
            for name in names for size in (1, 2, 4, 8, 16) for place in ("here", "there")]  # fmt: skip
    protocol = make_job().protocol
    jobs = [of(names[number % 200], sizes=(1, 3, 16), protocol=protocol, options={"k": 1} if number % 3 else {})
            for number in range(100_000)]  # fmt: skip
    began = time.process_time()
    predictor = Predictor(rows)
    assert sum(predictor.predicted_s(job) for job in jobs) > 0
    assert time.process_time() - began < 20


def _shares(predict: Predict, cost: dict[str, float], jobs: dict[str, JobSpec], pace: random.Random) -> float:
    """How uneven two sweeps were served on one device while both had work: 0 is fair, 1 is all for one."""
    served, spent, predicted = (
        dict.fromkeys(jobs, 0.0),
        dict.fromkeys(jobs, 0.0),
        {k: predict(j) for k, j in jobs.items()},
    )
    clock = 0.0
    while clock < 50_000.0:
        heads = [Head(name, "cls:here", f"{name}-{clock}", 5, served[name], 0, predicted[name]) for name in jobs]
        head = choose(heads, "d", "here")
        assert head is not None
        lasts = cost[head.sweep_id] * pace.lognormvariate(0.0, 0.1)
        served[head.sweep_id] += head.predicted_s
        spent[head.sweep_id] += lasts
        clock += lasts
    return abs(spent["light"] - spent["heavy"]) / clock


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_fairer_than_by_the_formula(seed: int) -> None:
    """Two sweeps that the formula takes for the same, of which one takes eight times as long."""
    pace = random.Random(seed)
    jobs, cost = {"light": of("squeezenet1_1"), "heavy": of("vgg16")}, {"light": 25.0, "heavy": 200.0}
    rows = [took(job, 1, (cost[name] - 10) * pace.lognormvariate(0.0, 0.1)) for name, job in jobs.items()]
    by_formula = _shares(predicted_s, cost, jobs, random.Random(seed))
    learned = _shares(Predictor(rows).predicted_s, cost, jobs, random.Random(seed))
    assert by_formula > 0.5
    assert learned < 0.2
    assert learned < by_formula / 3


def stored(store: Store, job: JobSpec, seconds: float, *, sweep: str = "past", **more: object) -> None:
    made = replace(job, sweep_id=sweep, job_id=f"{sweep}-job")
    finish = f"2026-03-01T10:{int(seconds) // 60:02}:{seconds % 60:09.6f}+00:00"
    assert store.records.write(
        make_record(
            job=made, started_at="2026-03-01T10:00:00.000000+00:00", finished_at=finish,
            prepare_stages=[StageTime("build", 0, 6_000_000_000)], metrics={"latency_ms": 8.0}, **more,
        )
    )  # fmt: skip


def test_records_are_learned_from_through_the_index(store: Store, register: Register) -> None:
    job = make_job(batches=BatchLadder((1,)), target=Target(device_id="d"))
    register.announce(announcement("d", "cpu-test"))
    for number, seconds in enumerate((40.0, 41.0, 3000.0)):
        stored(store, job, seconds, sweep=f"past-{number}")
    found = learn(store, {job.workflow}, register.devices(), refresh=True).predicted_s(job)
    assert found == pytest.approx(41 + 4 + 6)
    stored(store, job, 20.0, sweep="later")
    stored(store, job, 21.0, sweep="later-2")
    assert learn(store, {job.workflow}, register.devices()).predicted_s(job) == found, "what is indexed"
    assert learn(store, {job.workflow}, register.devices(), refresh=True).predicted_s(job) == pytest.approx(40 + 10)
    assert durations(store.index.in_force, {"pytorch"}) == []


def test_an_index_that_cannot_be_used_is_said_once_and_costs_nothing_else(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(batches=BatchLadder((1,)))
    stored(store, job, 40.0)
    store.index.refresh()
    for part in store.index.in_force:
        part.chmod(0o644)
        part.write_bytes(b"no parquet")
    with caplog.at_level(logging.WARNING):
        assert learn(store, {job.workflow}).predicted_s(job) == pytest.approx(predicted_s(job))
        assert learn(store, {job.workflow}).predicted_s(job) == pytest.approx(predicted_s(job))
    assert sum("by the formula alone" in message for message in caplog.messages) == 1
    learned = learn(store, {job.workflow}, refresh=True)
    assert learned.predicted_s(replace(job, target=Target(device_class="cpu-test"))) == pytest.approx(40 + 10), "mended"
    (store.index.directory / "current.json").unlink()
    assert learn(store, {job.workflow}).predicted_s(job) == pytest.approx(predicted_s(job)), "and one that is gone"


def test_protocols_are_told_apart_by_their_switches_and_not_by_their_names() -> None:
    one: Protocol = make_job().protocol
    assert protocol_id(replace(one, name="other")) == protocol_id(one)
    assert protocol_id(replace(one, processes=7)) != protocol_id(one)
