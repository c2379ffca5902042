# SPDX-License-Identifier: Apache-2.0
"""A device whose canary has shifted: every point measured on it says so, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from farm.broker.canaries import CanaryBook
from farm.broker.embedded import EmbeddedBroker
from farm.broker.jobs import Claim, JobStore
from farm.canary import CanaryState
from farm.contract.job import JobSpec
from tests.factories import make_job
from tests.workers.support import FAST, fake_job
from workers.daemon.bench import Bench
from workers.daemon.canary import CanaryWord
from workers.daemon.clock import boottime
from workers.daemon.execute import execute

SHIFTED = CanaryState(
    verdict="shifted",
    since="2026-03-02T04:00:00+00:00",
    steady_at="2026-03-01T04:00:00+00:00",
    evidence="11 ms against 10 ms",
)


@pytest.fixture
def book(client: redis.Redis) -> CanaryBook:
    return CanaryBook(client)


def test_a_shifted_canary_is_a_doubt_of_everything_but_the_canary(book: CanaryBook) -> None:
    word = CanaryWord(book, "box-cpu")
    assert word.doubts(make_job()) == []
    book.judged("box-cpu", SHIFTED)
    (flag,) = word.doubts(make_job())
    assert (flag.name, flag.level) == ("canary_shift", "suspect")
    assert flag.evidence == (
        "the device's canary has shifted since 2026-03-02 04:00: 11 ms against 10 ms; "
        "it was last steady on 2026-03-01 04:00"
    )
    assert word.doubts(make_job(sweep_name="canary", protocol=replace(FAST, name="canary"))) == []
    assert word.doubts(make_job(sweep_name="canary")) == [flag], "a sweep that only has the name"
    assert CanaryWord(book, "other").doubts(make_job()) == []
    book.judged("box-cpu", CanaryState(verdict="steady"))
    assert word.doubts(make_job()) == []


def test_the_last_word_holds_while_the_broker_is_away(book: CanaryBook, broker: EmbeddedBroker) -> None:
    word = CanaryWord(book, "box-cpu")
    book.judged("box-cpu", SHIFTED)
    before = word.doubts(make_job())
    broker.stop()
    assert word.doubts(make_job()) == before


def test_the_flag_is_in_the_record_and_costs_no_other_try(
    book: CanaryBook, bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim]
) -> None:
    job = fake_job("marked", bench.device.device_id, sizes=(1, 2))
    book.judged(bench.device.device_id, SHIFTED)
    marked = replace(bench, doubts=CanaryWord(book, bench.device.device_id).doubts)
    assert execute(marked, jobs, claim(job), boottime()) == "done: 2 ok"
    for size in (1, 2):
        record = bench.store.records.read(job.run_id(size))
        assert [flag.evidence for flag in record.flags if flag.name == "canary_shift"] == [SHIFTED.doubt]
        assert "earlier_tries" not in record.provenance
