# SPDX-License-Identifier: Apache-2.0
"""What belongs to one series, and what does not."""

from __future__ import annotations

import dataclasses

import pytest

from farm.contract.job import Rebuild
from farm.identity import series_id
from farm.store.columns import protocol_id
from tests.factories import make_job, make_record
from tests.report import demo


def test_a_repeat_on_another_night_is_of_the_same_series() -> None:
    job = make_job()
    again = dataclasses.replace(job, sweep_id="other", job_id="other", generation=3)
    later = make_record(job=again, started_at="2026-03-02T10:00:00.000000+00:00", metrics={"latency_ms": 9.0})
    assert series_id(make_record(job=job)) == series_id(later)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp16"},
        {"options": {"threads": 2}},
        {"seed": 1},
        {"protocol": dataclasses.replace(make_job().protocol, min_iterations=7)},
        {"rebuild": Rebuild(0, 3)},
    ],
)
def test_a_switch_makes_another_series(change: dict[str, object]) -> None:
    job = make_job()
    assert series_id(make_record(job=job)) != series_id(make_record(job=dataclasses.replace(job, **change)))


def test_switches_that_came_later_and_are_not_set_change_no_id() -> None:
    """Ids of records from before there were contexts, sessions and inter-op threads."""
    record = demo.ok(demo.job(), 1)
    assert (series_id(record), protocol_id(record.job.protocol)) == ("7820e26887571b48", "bc11121c77e6")
    protocol = dataclasses.replace(record.job.protocol, scenario="streams", streams=4, threads=2)
    streamed = dataclasses.replace(record, job=dataclasses.replace(record.job, protocol=protocol))
    assert (series_id(streamed), protocol_id(protocol)) == ("47618d7c436c8b85", "df1ec861c7ac")
    for switch in ("contexts", "sessions", "inter_threads"):
        set_so = dataclasses.replace(protocol, **{switch: 2})
        other = dataclasses.replace(streamed, job=dataclasses.replace(streamed.job, protocol=set_so))
        assert series_id(other) != series_id(streamed)
        assert protocol_id(set_so) != protocol_id(protocol)


def test_the_builds_of_one_engine_are_one_series_and_an_accuracy_is_another() -> None:
    job = make_job()
    builds = [make_record(job=dataclasses.replace(job, rebuild=Rebuild(index, 3))) for index in range(3)]
    assert len({series_id(record) for record in builds}) == 1
    timed = make_record(job=job)
    assert series_id(timed) != series_id(dataclasses.replace(timed, point="accuracy"))


def test_text_that_is_no_character_has_an_id_too() -> None:
    job = make_job()
    odd = dataclasses.replace(job, model=dataclasses.replace(job.model, name="resnet\ud800"))
    assert series_id(make_record(job=odd)) != series_id(make_record(job=job))
