# SPDX-License-Identifier: Apache-2.0
"""Several requests in flight: that they overlap is shown by lanes that wait for one another, not by times."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workers.runner import concurrent
from workers.runner.concurrent import ENERGY_LEAST, Pass, lane_loop, lanes_load, queue_load, queued, steady_load
from workers.runner.lanes import Crew
from workers.runner.measure import Limits
from workers.runner.scenarios import share

LIMIT_S = 120.0
LONG = 10**12


@pytest.fixture
def crew() -> Iterator[Callable[[int], Crew]]:
    made: list[Crew] = []

    def make(count: int) -> Crew:
        made.append(Crew(count))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("lane-")]


MakeCrew = Callable[[int], Crew]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_lane_has_a_request_in_flight_while_the_others_have_theirs(crew: MakeCrew, count: int) -> None:
    """Each request waits until one of every lane is there: with fewer in flight the barrier would break."""
    meeting = threading.Barrier(count, timeout=LIMIT_S)
    done = lane_loop(crew(count), [lambda _: meeting.wait()] * count, [[lane] for lane in range(count)],
                     Limits(10 * count, 0, 10 * count, LONG))  # fmt: skip
    assert [len(samples) for samples in done.samples] == [10] * count


def test_a_lane_takes_its_own_inputs_in_turn_and_its_calls_stay_in_its_thread(crew: MakeCrew) -> None:
    seen: dict[int, list[str]] = {0: [], 1: []}
    threads: dict[int, set[int]] = {0: set(), 1: set()}
    turn = threading.Barrier(2, timeout=LIMIT_S)

    def body(lane: int) -> Callable[[str], None]:
        def call(item: str) -> None:
            turn.wait()
            seen[lane].append(item)
            threads[lane].add(threading.get_ident())

        return call

    lane_loop(crew(2), [body(0), body(1)], [["a", "b", "c"], ["d"]], Limits(8, 0, 8, LONG))
    assert seen == {0: ["a", "b", "c", "a"], 1: ["d"] * 4}
    assert len(threads[0]) == len(threads[1]) == 1
    assert threads[0] != threads[1]


@pytest.mark.parametrize("most", [1, 7, 50])
def test_no_more_requests_are_begun_than_the_maximum_and_all_are_kept(crew: MakeCrew, most: int) -> None:
    calls: list[int] = []
    done = lane_loop(crew(4), [calls.append] * 4, [[0]] * 4, Limits(most, 0, most, LONG))
    assert done.count == len(calls) == len(done.joined) == most
    assert done.ended_by in ("minima", "max_iterations")


def test_the_wall_clock_spans_the_whole_pass_and_is_not_a_sum_of_latencies(crew: MakeCrew) -> None:
    """Two lanes that always meet: the latencies add up to about twice the wall clock, the count is that of both."""
    meeting, pause = threading.Barrier(2, timeout=LIMIT_S), threading.Event()

    def body(_: Any) -> None:
        meeting.wait()
        pause.wait(0.005)

    done = lane_loop(crew(2), [body] * 2, [[0], [0]], Limits(40, 0, 40, LONG))
    first = min(starts[0] for starts in done.starts)
    last = max(s[-1] + d[-1] for s, d in zip(done.starts, done.samples, strict=True))
    assert done.begin_ns <= first
    assert done.wall_ns == last - done.begin_ns
    assert max(sum(samples) for samples in done.samples) <= done.wall_ns < sum(done.joined)


def test_a_maximum_of_time_ends_all_lanes(crew: MakeCrew) -> None:
    done = lane_loop(crew(3), [lambda _: None] * 3, [[0]] * 3, Limits(10**9, 0, 10**9, 10_000_000))
    assert done.ended_by == "max_s"
    assert done.wall_ns >= 10_000_000


def test_a_slow_lane_gets_its_own_minimum(crew: MakeCrew) -> None:
    pause = threading.Event()
    done = lane_loop(crew(2), [lambda _: None, lambda _: pause.wait(0.002)], [[0], [0]],
                     Limits(1, 0, 10**9, LONG), least_each=5)  # fmt: skip
    assert min(len(samples) for samples in done.samples) >= 5
    assert done.ended_by == "minima"


def test_what_a_lane_raises_ends_the_others_and_is_raised(crew: MakeCrew) -> None:
    calls = threading.Event()

    def fails(_: Any) -> None:
        calls.wait(LIMIT_S)
        raise RuntimeError("lane 1 broke")

    def works(_: Any) -> None:
        calls.set()

    with pytest.raises(RuntimeError, match="lane 1 broke"):
        lane_loop(crew(2), [works, fails], [[0], [0]], Limits(10**9, LONG, 10**9, LONG))


def test_what_a_lane_raises_before_the_start_lets_no_other_wait_for_it(crew: MakeCrew) -> None:
    with pytest.raises(ZeroDivisionError):
        lane_loop(crew(3), [lambda _: None] * 3, [[0], [0], []], Limits(10, LONG, 10**9, LONG))


def test_one_after_the_other_means_that(crew: MakeCrew) -> None:
    inside: list[int] = []
    order: list[int] = []

    def work(lane: int) -> int:
        inside.append(lane)
        assert inside == [lane]
        order.append(lane)
        inside.remove(lane)
        return 10 * lane

    hands = crew(4)
    assert hands.each(work) == [0, 10, 20, 30]
    assert order == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="lane 2"):
        hands.each(lambda lane: _fail(lane, 2))
    assert hands.each(work) == [0, 10, 20, 30], "a crew works on after a failure"


def _fail(lane: int, at: int) -> None:
    if lane == at:
        raise ValueError(f"lane {lane}")


def test_windows_are_equal_parts_of_the_pass_and_too_few_completions_make_none() -> None:
    starts, samples = [array("q", range(0, 3000, 10))], [array("q", [10] * 300)]
    even = Pass(starts, samples, 0, 3000, "minima")
    assert concurrent.window_rates(even) == pytest.approx([1e8] * 3, rel=0.02)
    slow = Pass(
        [array("q", [*range(0, 1000, 10), *range(1000, 3000, 20)])], [array("q", [10] * 200)], 0, 3000, "minima"
    )
    rates = concurrent.window_rates(slow)
    assert rates is not None
    assert max(rates) / min(rates) > 1.5
    assert concurrent.window_rates(Pass([array("q", [0])], [array("q", [10])], 0, 10, "minima")) is None


def test_queued_work_is_waited_for_once_and_after_all_of_it() -> None:
    calls: list[Any] = []
    wall = queued(calls.append, lambda: calls.append("wait"), ["a", "b"], 5)
    assert calls == ["a", "b", "a", "b", "a", "wait"]
    assert wall > 0


@pytest.mark.parametrize(
    ("limits", "each_ns", "count"),
    [
        (Limits(50, 0, 50, LONG), 1e6, 50),
        (Limits(30, 2_000_000_000, 20000, LONG), 1e6, 2000),
        (Limits(30, 2_000_000_000, 500, LONG), 1e6, 500),
        (Limits(30, 0, 20000, 10_000_000), 1e6, 10),
        (Limits(30, 0, 20000, 1), 1e6, 1),
        (Limits(30, 0, 20000, LONG), 0.0, 30),
    ],
)
def test_how_many_inputs_an_offline_pass_takes_follows_from_the_limits(
    limits: Limits, each_ns: float, count: int
) -> None:
    assert concurrent.offline_count(limits, each_ns) == count


def test_a_steady_load_lasts_as_asked_and_has_the_least_repetitions(crew: MakeCrew) -> None:
    calls: list[int] = []
    load = steady_load(calls.append, [1, 2], 0, 1e9)
    assert load.count == len(calls) == ENERGY_LEAST
    assert calls[:3] == [1, 2, 1]
    load = steady_load(calls.append, [1], 5_000_000, 100.0)
    assert load.wall_ns >= 5_000_000
    assert load.count == len(calls) - ENERGY_LEAST
    counts = [[0], [0]]
    bodies = [lambda own: own.__setitem__(0, own[0] + 1)] * 2
    load = lanes_load(crew(2), bodies, [[counts[0]], [counts[1]]], 5_000_000, 1000.0)
    assert load.count == counts[0][0] + counts[1][0]
    assert load.wall_ns >= 5_000_000
    waits: list[int] = []
    load = queue_load(lambda _: None, lambda: waits.append(1), [0], 1_000_000, 1e6)
    assert load.count >= ENERGY_LEAST
    assert len(waits) * 32 == load.count


def test_the_clock_is_looked_at_seldom_where_inferences_are_short() -> None:
    assert concurrent.between_looks(1e9) == 1
    assert concurrent.between_looks(1e6) == 20
    assert concurrent.between_looks(10.0) == 1000


@pytest.mark.parametrize(
    ("inputs", "lanes", "shares"),
    [
        (5, 2, [[0, 2, 4], [1, 3]]),
        (1, 3, [[0], [0], [0]]),
        (2, 3, [[0], [1], [0]]),
        (3, 1, [[0, 1, 2]]),
    ],
)
def test_inputs_are_dealt_out_and_the_first_is_the_first_lanes(
    inputs: int, lanes: int, shares: list[list[int]]
) -> None:
    assert share(list(range(inputs)), lanes) == shares


def test_handing_work_over_is_timed_apart_from_waiting_for_it(crew: MakeCrew) -> None:
    waited: list[int] = []
    samples, threads = concurrent.enqueue_loop(
        crew(2), [lambda _: None] * 2, [lambda: waited.append(1)] * 2, [["a"], ["b"]]
    )
    assert len(samples) == len(waited) == 200
    assert 0 < threads < 2
