# SPDX-License-Identifier: Apache-2.0
"""The parts of the pipeline study that decide: arrivals, windows, utilisation, the bottleneck, overload; the queue."""

from __future__ import annotations

import itertools
import threading
from statistics import mean

import pytest

from farm.contract.pipeline import STAGES, WORKERS, LoadPoint, PipelineSpec, SerialPass, WorkerLoad
from workers.runner import pipeline_analysis as analysis
from workers.runner.arrivals import Scheduled, Steady, schedule
from workers.runner.channel import Channel, Closed, Waited
from workers.runner.measure import now_ns

MS = 1_000_000
ONE = dict.fromkeys(WORKERS, 1)


def serial(batch: int = 4, **ms: float) -> SerialPass:
    """Ten batches in which each stage takes so many ms a call (1 unless told)."""
    spans, at = {name: [] for name in STAGES}, 0  # type: ignore[var-annotated]
    batches = []
    for _ in range(10):
        begin = at
        for name in STAGES:
            for _ in range(batch if name in ("decode", "preprocess") else 1):
                end = at + round(ms.get(name, 1.0) * MS)
                spans[name].append((at, end))
                at = end
        batches.append(at - begin)
    return analysis.serial_pass(spans, at, 10 * batch, batches)


def test_shares_of_a_serial_pass_add_up_and_say_what_one_sample_is() -> None:
    found = serial(infer=9.0)
    by_name = {stage.name: stage for stage in found.stages}
    assert list(by_name) == list(STAGES)
    assert sum(stage.share for stage in found.stages) + found.between_share == pytest.approx(1.0)
    assert (by_name["decode"].per, by_name["decode"].samples, by_name["infer"].per) == ("image", 40, "batch")
    # 4 x (1 + 1) for the images, 9 for the inference, 1 for each of the four others.
    assert found.batch_median_ns == 21 * MS
    assert by_name["infer"].share == pytest.approx(9 / 21)
    assert found.per_s == pytest.approx(4 / 0.021)
    assert by_name["infer"].p95_ns is None, "ten samples bound no percentile"


def test_a_workers_time_for_an_image_is_its_stages_over_its_threads() -> None:
    found = analysis.image_ns(serial(decode=6.0, infer=8.0), {**ONE, "decode": 3})
    assert found["decode"] == pytest.approx(2 * MS)
    assert found["device"] == pytest.approx((1 + 8 + 1) / 4 * MS)
    assert found["postprocess"] == pytest.approx(MS / 4)


def test_the_window_begins_once_queues_have_filled_and_ends_before_images_run_out() -> None:
    done = [index * 10 for index in range(1, 21)]
    assert analysis.window(done, 0, 100) == (30, 100)
    assert analysis.window(done[:2], 0, 100) is None, "two completions, the first of them never counts"
    assert analysis.window([], 0, 100) is None


def test_busy_time_is_what_lies_within_the_window() -> None:
    spans = {name: [(0, 10), (10, 30)] for name in STAGES}
    assert analysis.busy_ns(spans["decode"], (5, 20)) == 15
    loads = {load.name: load for load in analysis.worker_loads(spans, {**ONE, "decode": 2}, (5, 25))}
    assert loads["decode"].utilisation == pytest.approx(0.5)
    assert loads["preprocess"].utilisation == pytest.approx(1.0)
    assert loads["device"].utilisation == pytest.approx(3.0), "three stages at once is more than one thread can do"


def test_a_queue_is_as_long_as_it_was_for_as_long_as_it_was() -> None:
    found = analysis.queue_fill("collate", 2, [10, 20, 30, 60], [1, 2, 1, 0], (0, 100))
    assert found.mean == pytest.approx((10 * 1 + 10 * 2 + 30 * 1) / 100)
    assert (found.full_share, found.empty_share) == (pytest.approx(0.1), pytest.approx(0.5))
    later = analysis.queue_fill("collate", 2, [10, 20, 30, 60], [1, 2, 1, 0], (25, 45))
    assert later.mean == pytest.approx((5 * 2 + 15 * 1) / 20), "what was there before the window is still there"


def loads(**busy: float) -> list[WorkerLoad]:
    shares = {name: busy.get(name, 0.1) for name in WORKERS}
    parts = {"device": {"copy_in": 0.2, "infer": 0.7, "copy_out": 0.1}}
    return [
        WorkerLoad(name, 1, share, {stage: share * part for stage, part in parts.get(name, {name: 1.0}).items()})
        for name, share in shares.items()
    ]


@pytest.mark.parametrize("busiest", list(WORKERS))
def test_the_busiest_worker_is_the_bottleneck_in_any_order(busiest: str) -> None:
    of = loads(**{busiest: 0.9})
    found = {analysis.bottleneck(order, None, ONE).worker for order in map(list, itertools.permutations(of))}
    assert found == {busiest}


def test_the_serial_pass_confirms_a_bottleneck_or_names_another() -> None:
    slow = analysis.bottleneck(loads(device=0.97), serial(infer=30.0), ONE)
    assert (slow.worker, slow.stage, slow.expected, slow.confirmed) == ("device", "infer", "device", True)
    assert "inference" in slow.said and "97 %" in slow.said and "too" in slow.said
    other = analysis.bottleneck(loads(device=0.97), serial(decode=30.0), ONE)
    assert (other.expected, other.confirmed) == ("decode", False)
    assert "decode takes longer" in other.said
    helped = analysis.bottleneck(loads(decode=0.97), serial(decode=30.0, infer=50.0), {**ONE, "decode": 8})
    assert helped.expected == "device", "eight threads decode eight images at a time"
    assert analysis.bottleneck(loads(decode=0.97), None, ONE).confirmed is None
    idle = analysis.bottleneck(loads(decode=0.6), None, ONE)
    assert "no worker more" in idle.said and "no worker more" not in slow.said


def test_the_gain_is_held_against_the_serial_pass_and_against_its_longest_stage() -> None:
    alone = serial(infer=30.0)
    made = analysis.overlapped_pass(loads(device=0.97), [], 100, 1_000 * MS, alone, ONE)
    assert made.bound_per_s == pytest.approx(4 / 0.032)
    assert made.speed_up == pytest.approx(100 / alone.per_s)
    assert made.bound_share == pytest.approx(100 / (4 / 0.032))
    bare = analysis.overlapped_pass(loads(device=0.97), [], 100, 1_000 * MS, None, ONE)
    assert (bare.per_s, bare.speed_up, bare.bound_share) == (pytest.approx(100.0), None, None)


def test_arrivals_are_seeded_and_have_the_rate() -> None:
    first, again = schedule(1000.0, 10.0, "poisson", "0:1"), schedule(1000.0, 10.0, "poisson", "0:1")
    assert first == again and first != schedule(1000.0, 10.0, "poisson", "0:2")
    gaps = [b - a for a, b in itertools.pairwise(first)]
    assert len(first) == 10_000 and mean(gaps) == pytest.approx(MS, rel=0.05)
    # Of an exponential distribution the standard deviation is the mean; of equal gaps it is 0.
    assert mean((gap - MS) ** 2 for gap in gaps) ** 0.5 == pytest.approx(MS, rel=0.1)
    even = schedule(200.0, 1.0, "uniform", "0")
    assert len(even) == 200 and {b - a for a, b in itertools.pairwise(even)} <= {4_999_999, 5_000_000, 5_000_001}
    assert len(schedule(0.1, 1.0, "poisson", "0")) == 1


def test_a_late_image_still_counts_from_when_it_was_due() -> None:
    """A pipeline that stood still for a second: every image that was due meanwhile waited for it."""
    due = [index * 10 * MS for index in range(300)]
    done = {n: (max(at, 1_000 * MS) if 100 * MS < at < 1_000 * MS else at) + MS for n, at in enumerate(due)}
    found = analysis.load_point(due, done, 300, 100.0, 1000.0)
    assert found.overloaded == ""
    assert found.p95_ns is not None and found.p95_ns > 700 * MS, "closed-loop sending would have hidden this"
    assert found.p50_ns == pytest.approx(MS)
    assert found.p99_ns is None, "300 samples bound no p99"


def point(rate: float, service_ms: float, count: int = 900, capacity: float | None = None) -> LoadPoint:
    """One server that takes so long for each image, and images at a constant rate."""
    due, free, done = [], 0, {}
    for number in range(count):
        due.append(round(number / rate * 1e9))
        free = max(free, due[-1]) + round(service_ms * MS)
        done[number] = free
    return analysis.load_point(due, done, count, rate, capacity)


def test_more_than_can_be_done_has_no_steady_latency() -> None:
    steady = point(90.0, 10.0)
    assert (steady.overloaded, steady.p50_ns, steady.unfinished) == ("", 10 * MS, 0)
    assert steady.p99_ns == 10 * MS and steady.of_capacity is None
    grown = point(105.0, 10.0)
    assert "latency grew" in grown.overloaded
    assert (grown.p50_ns, grown.p95_ns, grown.p99_ns) == (None, None, None)
    assert grown.last_ns is not None and grown.first_ns is not None and grown.last_ns > 2 * grown.first_ns
    above = point(90.0, 10.0, capacity=80.0)
    assert "90 images/s are asked for and 80" in above.overloaded and above.p50_ns is None
    assert above.of_capacity == pytest.approx(90 / 80)


def drawn(share: float, count: int, seed: int, capacity: float | None = None) -> LoadPoint:
    """One server that takes 10 ms for each image, and images that come at random, at a share of what it can do."""
    due = schedule(100 * share, count / (100 * share), "poisson", str(seed))
    free, done = 0, {}
    for number, at in enumerate(due):
        free = done[number] = max(free, at) + 10 * MS
    return analysis.load_point(due, done, count, 100 * share, capacity)


def test_few_images_that_come_at_random_are_no_overload() -> None:
    """At 90 % of what can be done a queue grows by itself for a while: of 100 images, every other time for too long."""
    found = [drawn(0.9, 100, seed).overloaded for seed in range(40)]
    assert sum(map(bool, found)) <= 2, found
    assert all("latency grew" in drawn(1.2, 1000, seed).overloaded for seed in range(10))


def test_images_that_were_given_up_make_a_load_an_overload() -> None:
    found = analysis.load_point([0, MS, 2 * MS], {0: 5 * MS}, 1, 1000.0, None)
    assert (found.unfinished, found.p50_ns) == (2, None) and found.overloaded.startswith("2 of 3 images")
    nothing = analysis.load_point([0, MS], {}, 0, 1000.0, None)
    assert (nothing.done_per_s, nothing.mean_batch, nothing.first_ns) == (0.0, 0.0, None)


def test_a_channel_is_bounded_and_ends() -> None:
    channel = Channel("device", 2, now_ns)
    channel.put(1)
    channel.put(2)
    full = threading.Thread(target=channel.put, args=(3,))
    full.start()
    assert [channel.get() for _ in range(3)] == [1, 2, 3]
    full.join(5)
    with pytest.raises(Waited):
        channel.get(now_ns() + MS)
    channel.put(4)
    channel.close()
    assert channel.get() == 4
    with pytest.raises(Closed):
        channel.get()
    with pytest.raises(Closed):
        channel.put(5)
    assert max(channel.lengths) == 2 and channel.lengths[-1] == 0
    assert sorted(channel.changes_ns) == list(channel.changes_ns)


def test_who_waits_for_room_or_for_a_taker_is_let_go_when_a_channel_is_closed() -> None:
    channel, ended = Channel("device", 1, now_ns), []  # type: ignore[var-annotated]
    channel.put(1)

    def expect(call: object) -> None:
        with pytest.raises(Closed):
            call()  # type: ignore[operator]
        ended.append(call)

    waiting = [threading.Thread(target=expect, args=(call,)) for call in (lambda: channel.put(2), channel.await_taker)]
    for thread in waiting:
        thread.start()
    channel.close(discard=True)
    for thread in waiting:
        thread.join(5)
    assert len(ended) == 2


def test_a_taker_is_noticed() -> None:
    channel = Channel("device", 1, now_ns)
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.append(channel.get()))
    taker.start()
    channel.await_taker()
    channel.put(7)
    taker.join(5)
    assert taken == [7]


def test_images_come_when_they_are_due_and_never_before() -> None:
    start = now_ns()
    source = Scheduled([0, 20 * MS, 20 * MS], start, now_ns)
    taken = []
    while (due := source.take()) is not None:
        taken.append((*due, now_ns()))
    assert [number for number, _, _ in taken] == [0, 1, 2]
    assert all(now >= due for _, due, now in taken)
    waiting = Scheduled([3600 * 1000 * MS], start, now_ns)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(waiting.take()))
    thread.start()
    waiting.stop()
    thread.join(5)
    assert found == [None]


def test_steady_images_end_when_there_are_enough() -> None:
    source = Steady(lambda: len(taken) >= 3)
    taken: list[object] = []
    while (due := source.take()) is not None:
        taken.append(due)
    assert taken == [(0, None), (1, None), (2, None)]


def test_a_spec_knows_its_workers_and_about_how_long_it_takes() -> None:
    spec = PipelineSpec(decode_workers=4, preprocess_workers=2, duration_s=3.0)
    assert spec.workers == {"decode": 4, "preprocess": 2, "collate": 1, "device": 1, "postprocess": 1}
    assert spec.seconds == 6.0
    assert {stage for stages in WORKERS.values() for stage in stages} == set(STAGES)
