# SPDX-License-Identifier: Apache-2.0
"""How many processes a point is measured in: the rule, and the loop that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.outcome import Failure, Outcome
from farm.contract.record import BlobRef, Interval
from farm.contract.run import Mismatch
from farm.processes import relative_half_width
from tests.factories import make_flag, make_record
from tests.workers.support import FAST
from workers.daemon.collect import Collected
from workers.daemon.ladder import Run
from workers.daemon.point import Point
from workers.daemon.replicate import MOST, Ended, Replication, ended, replication
from workers.daemon.retry import Retries

POINT = Run("measure", 4)
Results = Iterator[Collected]


def test_a_protocol_says_how_many() -> None:
    assert replication(FAST) == Replication(1, 1)
    assert not replication(FAST).several
    assert replication(replace(FAST, processes=3, max_processes=9)) == Replication(3, 3)
    aimed = replace(FAST, processes=5, processes_half_width=0.01)
    assert replication(aimed) == Replication(5, MOST, 0.01)
    assert replication(replace(aimed, max_processes=7, processes_max_s=60.0)) == Replication(5, 7, 0.01, 60.0)
    assert replication(replace(aimed, processes=12)) == Replication(12, 12, 0.01)
    assert replication(replace(aimed, processes=1)).several


def test_watchers_see_where_the_end_is() -> None:
    assert Replication(5, 5).label(3) == "process 3 of 5"
    assert Replication(5, 10, 0.01).label(6) == "process 6 of 5 to 10"


medians = st.lists(st.floats(0.1, 10) | st.none(), max_size=12)


@given(medians, st.integers(1, 5), st.integers(5, 10), st.floats(0.001, 0.5), st.floats(0, 100), st.floats(1, 50))
def test_the_rule_ends_a_point_and_for_its_reason(
    values: list[float | None], least: int, most: int, width: float, spent_s: float, max_s: float
) -> None:
    why = ended(Replication(least, most, width, max_s), values, spent_s)
    known = [value for value in values if value is not None]
    narrow = len(known) == len(values) and relative_half_width(known) <= width
    if len(values) < least:
        assert why is None
    elif why is None:
        assert len(values) < most
        assert not narrow
        assert spent_s < max_s
    else:
        held = {Ended.HALF_WIDTH: narrow, Ended.MOST: len(values) >= most, Ended.BUDGET: spent_s >= max_s}
        assert held[why]


def test_without_a_target_the_number_alone_counts() -> None:
    assert ended(Replication(3, 3), [8.0, None], 1e9) is None
    assert ended(Replication(3, 3), [8.0, None, 9.0], 0.0) is Ended.COUNT


def one(ms: float = 8.0, *flags: str, **fields: Any) -> Collected:
    metrics = {"latency_ms": ms, "throughput_per_s": 1000 / ms, "host_rss_peak_bytes": ms}
    span = {"latency_ms": Interval(ms * 0.999, ms * 1.001, 0.95, "order statistics", "within this run")}
    given_ = {"metrics": metrics, "intervals": span, "flags": [make_flag(name) for name in flags]}
    return Collected(make_record(**given_ | fields), [])


def failed(outcome: Outcome) -> Collected:
    metrics = {"host_rss_peak_bytes": 1.0}
    failure = Failure("measure", "sigsegv", "it died")
    return one(outcome=outcome, failure=failure, metrics=metrics, intervals={})


@pytest.fixture
def point() -> Callable[..., tuple[Point, list[int]]]:
    """A point whose processes are given; and the numbers of those that were made."""

    def make(
        wanted: Replication, results: list[Collected], *, retries: int = 0, stop_after: int = 99, step_s: float = 1.0
    ) -> tuple[Point, list[int]]:
        made: list[int] = []
        left = iter(results)

        def start(what: Run) -> Collected:
            made.append(what.process)
            return next(left)

        found = Point(
            wanted,
            start,
            Retries(retries),
            lambda: len(made) >= stop_after,
            clock=lambda: len(made) * step_s,
        )
        return found, made

    return make


Make = Callable[..., tuple[Point, list[int]]]


def test_one_process_is_recorded_as_it_was(point: Make) -> None:
    found, made = point(Replication(), [one()])
    assert found.measure(POINT) == one()
    assert made == [1]


def test_several_processes_are_one_record_of_their_medians(point: Make) -> None:
    found, made = point(Replication(3, 3), [one(8.0), one(8.4), one(8.1)])
    record = found.measure(POINT).record
    assert made == [1, 2, 3]
    assert [(p.index, p.metrics["latency_ms"]) for p in record.processes] == [(1, 8.0), (2, 8.4), (3, 8.1)]
    assert record.metrics["latency_ms"] == 8.1
    assert record.metrics["host_rss_peak_bytes"] == 8.4
    span = record.intervals["latency_ms"]
    assert (span.low, span.high, span.confidence, span.scope) == (8.0, 8.4, 0.75, "between 3 processes")
    assert record.processes[0].intervals["latency_ms"].scope == "within this run"
    assert (record.effective["processes"], record.effective["processes_ended_by"]) == (3, "processes")
    assert record.flags == []


def test_a_target_ends_it_when_it_is_met_and_the_largest_number_when_not(point: Make) -> None:
    met, made = point(Replication(2, 9, 0.02), [one(8.0), one(9.0), one(8.5), *[one(8.5)] * 6])
    record = met.measure(POINT).record
    assert len(made) == len(record.processes) == 9
    assert record.effective["processes_ended_by"] == "max_processes"
    met, made = point(Replication(2, 9, 0.02), [one(8.0), one(8.3), *[one(8.15)] * 7])
    record = met.measure(POINT).record
    assert 2 < len(made) < 9
    assert record.effective["processes_ended_by"] == "processes_half_width"


def test_the_budget_ends_it_after_the_smallest_number(point: Make) -> None:
    found, made = point(Replication(3, 9, 1e-6, 2.0), [one(8.0), one(9.0), one(8.5)], step_s=5.0)
    assert found.measure(POINT).record.effective["processes_ended_by"] == "processes_max_s"
    assert made == [1, 2, 3]


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.TIMED_OUT, Outcome.FAILED])
def test_a_process_that_fails_ends_the_point_and_the_earlier_ones_are_evidence(point: Make, outcome: Outcome) -> None:
    found, made = point(Replication(5, 5), [one(8.0), failed(outcome)])
    record = found.measure(POINT).record
    assert made == [1, 2]
    assert record.outcome is outcome
    assert record.failure is not None
    assert (record.failure.reference, record.failure.message) == ("sigsegv", "process 2 of 5: it died")
    assert record.metrics == {"host_rss_peak_bytes": 1.0}
    assert record.intervals == {}
    assert [p.outcome for p in record.processes] == [Outcome.OK, outcome]
    assert record.processes[0].metrics["latency_ms"] == 8.0


def test_a_cancellation_between_processes_is_no_result(point: Make) -> None:
    found, made = point(Replication(5, 5), [one(8.0), one(8.1)], stop_after=2)
    record = found.measure(POINT).record
    assert made == [1, 2]
    assert record.outcome is Outcome.CANCELLED
    assert record.failure is not None
    assert "before process 3 of 5" in record.failure.message
    assert (record.metrics, record.intervals) == ({}, {})
    assert [p.metrics["latency_ms"] for p in record.processes] == [8.0, 8.1]


def test_a_cancellation_after_the_last_process_comes_too_late(point: Make) -> None:
    found, _ = point(Replication(2, 2), [one(8.0), one(8.1)], stop_after=2)
    assert found.measure(POINT).record.outcome is Outcome.OK


def test_a_doubtful_process_is_made_again_and_all_share_the_second_tries(point: Make) -> None:
    results = [one(8.0), one(9.9, "unstable"), one(8.1), one(9.8, "unstable")]
    found, made = point(Replication(3, 3), results, retries=1)
    record = found.measure(POINT).record
    assert made == [1, 2, 2, 3]
    assert [p.metrics["latency_ms"] for p in record.processes] == [8.0, 8.1, 9.8]
    assert [try_["latency_ms"] for try_ in record.processes[1].earlier_tries] == [9.9]
    assert "earlier_tries" not in record.provenance
    assert next((flag.name, flag.evidence) for flag in record.flags) == (
        "unstable",
        "process 3 of 3: evidence of it",
    )


def test_processes_that_disagree_are_a_doubt(point: Make) -> None:
    found, _ = point(Replication(3, 3), [one(8.0), one(10.0), one(8.0)])
    assert [flag.name for flag in found.measure(POINT).record.flags] == ["processes_disagree"]


def test_what_processes_share_is_named_once_and_their_own_with_their_number(point: Make) -> None:
    engine, samples = BlobRef("engine", "e" * 64, 5), BlobRef("samples:latency", "s" * 64, 8, unit="ns", count=1)
    logs = [BlobRef("log", letter * 64, 3) for letter in "ab"]
    results = [one(samples=[samples], artifacts=[engine, log]) for log in logs]
    record = point(Replication(2, 2), results)[0].measure(POINT).record
    assert [(ref.kind, ref.process) for ref in record.artifacts] == [("engine", None), ("log", 1), ("log", 2)]
    assert [(ref.kind, ref.process) for ref in record.samples] == [("samples:latency", 1), ("samples:latency", 2)]


def test_the_outputs_told_of_are_those_farthest_from_the_reference(point: Make) -> None:
    near, far = (Mismatch("output", {"0.001": share}, share, share, 1.0, 0, 10) for share in (0.1, 0.9))
    results = [one(mismatch=[near]), one(mismatch=[far]), one(mismatch=[near])]
    assert point(Replication(3, 3), results)[0].measure(POINT).record.mismatch == [far]


def test_a_budget_that_is_met_by_one_process_leaves_the_interval_within_it(point: Make) -> None:
    record = point(Replication(1, 9, 0.01, 0.5), [one()])[0].measure(POINT).record
    assert record.intervals["latency_ms"].scope == "within this run"
    assert len(record.processes) == 1
