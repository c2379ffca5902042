# SPDX-License-Identifier: Apache-2.0
"""The stopwatch, timing real calls."""

from __future__ import annotations

import dataclasses
import gc
import mmap
import os
import subprocess
import sys
import time
from array import array
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from farm.contract.protocols import PROTOCOLS
from workers.runner import environment, measure, stages, usage
from workers.runner.measure import Limits, timed_loop
from workers.runner.stop_rules import EndRule
from workers.workflows.base import DeviceTimer, Workflow
from workers.workflows.errors import WorkflowError

_FOREVER_NS = 60 * 10**9
_MS = 10**6


def test_the_loop_goes_on_until_both_minima_are_reached() -> None:
    by_time = timed_loop(lambda _: time.sleep(0.001), [0], Limits(3, 200_000_000, 10_000, _FOREVER_NS))
    by_count = timed_loop(lambda _: None, [0], Limits(500, 0, 10_000, _FOREVER_NS))
    assert by_time.wall_ns >= 200_000_000
    assert len(by_time.samples) >= 3
    assert len(by_count.samples) == 500
    assert by_time.ended_by == by_count.ended_by == "minima"


def test_either_maximum_ends_the_loop_and_is_named() -> None:
    by_count = timed_loop(lambda _: None, [0], Limits(5, _FOREVER_NS, 7, _FOREVER_NS))
    by_time = timed_loop(lambda _: time.sleep(0.002), [0], Limits(10_000, 0, 10_000, 20_000_000))
    assert (len(by_count.samples), by_count.ended_by) == (7, "max_iterations")
    assert by_time.ended_by == "max_s"
    assert len(by_time.samples) <= 10


def test_inputs_are_taken_in_turn() -> None:
    seen: list[str] = []
    timed_loop(seen.append, ["a", "b", "c"], Limits(7, 0, 7, _FOREVER_NS))
    assert "".join(seen) == "abcabca"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still unless told: `clock.ns += ...`."""
    fake = SimpleNamespace(ns=10**12)
    fake.perf_counter_ns = lambda: fake.ns
    monkeypatch.setattr(measure, "time", fake)
    return fake


def test_each_sample_covers_its_call_and_nothing_of_the_others(clock: SimpleNamespace) -> None:
    naps = iter([4_000_000, 1_000_000, 4_000_000, 1_000_000])

    def nap(_: object) -> None:
        clock.ns += next(naps)

    series = timed_loop(nap, [0], Limits(4, 0, 4, _FOREVER_NS))
    assert list(series.samples) == [4_000_000, 1_000_000, 4_000_000, 1_000_000]
    assert sum(series.samples) <= series.wall_ns


class _Costly(EndRule):
    """A rule that takes 1 ms to say no, wants to be asked after every 10 samples, and says yes at `end`."""

    def __init__(self, clock: SimpleNamespace, end: int) -> None:
        self.clock, self.end = clock, end
        self.asked: list[int] = []

    def ended_by(self, samples: array[int]) -> str | None:
        self.asked.append(len(samples))
        self.clock.ns += _MS
        return "enough" if len(samples) >= self.end else None

    def next_look(self, done: int) -> int:
        return done + 10


def test_a_rule_is_asked_from_the_minima_on_and_its_time_is_nobodys(clock: SimpleNamespace) -> None:
    def body(_: int) -> None:
        clock.ns += 10 * _MS

    rule = _Costly(clock, 45)
    series = timed_loop(body, [0], Limits(20, 250 * _MS, 1000, _FOREVER_NS), rule)
    assert rule.asked == [25, 35, 45]
    assert (list(series.samples), series.ended_by) == ([10 * _MS] * 45, "enough")
    assert (series.wall_ns, series.asking_ns) == (450 * _MS, 3 * _MS)


def test_a_rule_is_never_asked_for_more_than_a_fiftieth_of_the_time(clock: SimpleNamespace) -> None:
    def body(_: int) -> None:
        clock.ns += _MS // 10

    rule = _Costly(clock, 10**6)
    series = timed_loop(body, [0], Limits(1, 0, 10**6, 1000 * _MS), rule)
    assert series.ended_by == "max_s"
    assert rule.asked[:3] == [1, 501, 1001]
    assert series.asking_ns <= series.wall_ns / 50 + _MS


@pytest.mark.parametrize(
    ("limits", "ended_by"),
    [(Limits(20, 0, 30, _FOREVER_NS), "max_iterations"), (Limits(20, 0, 1000, 300 * _MS), "max_s")],
)
def test_the_maxima_hold_whatever_a_rule_says(clock: SimpleNamespace, limits: Limits, ended_by: str) -> None:
    def body(_: int) -> None:
        clock.ns += 10 * _MS

    series = timed_loop(body, [0], limits, _Costly(clock, 10**6))
    assert series.ended_by == ended_by
    assert 29 <= len(series.samples) <= 30
    assert series.wall_ns == len(series.samples) * 10 * _MS


def test_where_both_say_so_it_is_the_rule_that_ended_the_loop(clock: SimpleNamespace) -> None:
    assert timed_loop(lambda _: None, [0], Limits(20, 0, 20, _FOREVER_NS), _Costly(clock, 20)).ended_by == "enough"


def _loops(clock: SimpleNamespace, latency_ns: Any, **switches: Any) -> tuple[measure.Series, measure.Series]:
    """Warm-up and timed loop of a protocol; `latency_ns` of the number of the call."""
    protocol = dataclasses.replace(PROTOCOLS["quick"], **switches)
    calls = iter(range(10**9))

    def body(_: int) -> None:
        clock.ns += int(latency_ns(next(calls)))

    rule = measure.warm_up_rule(protocol)
    warm = timed_loop(body, [0], measure.warm_up_limits(protocol), rule)
    return warm, timed_loop(body, [0], measure.timed_limits(protocol), measure.stop_rule(protocol))


def test_without_rules_the_minima_end_both_loops_as_ever(clock: SimpleNamespace) -> None:
    warm, timed = _loops(clock, lambda i: (100 + i % 7) * _MS)
    assert (warm.ended_by, len(warm.samples), timed.ended_by, len(timed.samples)) == ("minima", 10, "minima", 30)
    assert (timed.wall_ns, timed.asking_ns) == (sum(timed.samples), 0)


def test_a_model_that_gets_faster_for_a_while_is_warm_only_then(clock: SimpleNamespace) -> None:
    warm, _ = _loops(clock, lambda i: max(100 - i, 40) * _MS, warmup_rule="steady")
    assert warm.ended_by == "steady"
    assert 60 + 20 < len(warm.samples) <= 60 + 40


def test_a_model_that_gets_slower_for_ever_is_measured_all_the_same(clock: SimpleNamespace) -> None:
    warm, timed = _loops(clock, lambda i: (20 + i) * _MS, warmup_rule="steady", warmup_max_s=5.0, max_iterations=40)
    assert warm.ended_by == "max_s"
    assert 5e9 <= warm.wall_ns < 5.2e9
    assert timed.ended_by == "minima"


def test_a_steady_warm_up_has_its_own_limit_alone(clock: SimpleNamespace) -> None:
    """20,000 timed runs of 20 us are over in 0.4 s, before there are two windows."""
    warm, _ = _loops(clock, lambda _: 20_000, warmup_rule="steady", max_iterations=20_000)
    assert warm.ended_by == "steady"
    assert len(warm.samples) >= 50_000


def test_the_timed_loop_goes_on_until_the_median_is_known_well_enough(clock: SimpleNamespace) -> None:
    def latency(number: int) -> int:
        return 10 * _MS + number * 1_236_069 % 2_000_003  # uniform within 10 % of 11 ms

    counts = []
    for target in (0.02, 0.005):
        _, timed = _loops(clock, latency, target_half_width=target, min_s=0.0, max_s=600.0)
        assert timed.ended_by == "target"
        counts.append(len(timed.samples))
    assert 30 < counts[0] < counts[1]
    _, few = _loops(clock, latency, target_half_width=0.0001, max_iterations=300)
    assert (few.ended_by, len(few.samples)) == ("max_iterations", 300)
    _, settled = _loops(clock, latency, noise_plateau=True)
    assert settled.ended_by == "plateau"


def test_a_warm_up_rule_that_is_none_is_refused() -> None:
    with pytest.raises(WorkflowError, match="no warm-up rule 'boiling'"):
        measure.warm_up_rule(dataclasses.replace(PROTOCOLS["quick"], warmup_rule="boiling"))


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_protocols_with_fixed_numbers_have_no_rules(name: str) -> None:
    assert measure.warm_up_rule(PROTOCOLS[name]) is None
    assert measure.stop_rule(PROTOCOLS[name]) is None


class _Timer(DeviceTimer):
    """Events of a device that takes 3 ms for each inference, from when it was asked to."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock = clock

    def start(self) -> None:
        self.begin = self.clock.ns

    def stop(self) -> None:
        self.end = self.begin + 3 * _MS

    def elapsed_ns(self) -> int:
        assert self.clock.ns >= self.end, "asked before the device was waited for"
        return self.end - self.begin


def test_the_devices_time_is_told_from_the_time_to_start_an_inference(clock: SimpleNamespace) -> None:
    timer, seen = _Timer(clock), []

    def infer(item: str) -> None:
        seen.append(item)
        clock.ns += 20_000

    def synchronize() -> None:
        clock.ns = timer.end

    split = measure.device_loop(infer, synchronize, timer, ["a", "b"])
    assert list(split.device) == [3 * _MS] * len(seen)
    assert list(split.enqueue) == [20_000] * len(seen)
    assert len(seen) >= 10
    assert seen[:3] == ["a", "b", "a"]


def test_the_collector_is_quiet_while_timing_and_back_afterwards() -> None:
    states: list[bool] = []
    with measure.quiet_collector():
        timed_loop(lambda _: states.append(gc.isenabled()), [0], Limits(2, 0, 2, _FOREVER_NS))
    assert states == [False, False]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_the_clock_knows_its_own_cost_and_step() -> None:
    facts = measure.clock_facts()
    assert 0 < facts.overhead_ns < 100_000
    assert 0 < facts.resolution_ns < 100_000


def test_warm_up_has_the_timed_loops_maxima() -> None:
    limits = measure.warm_up_limits(PROTOCOLS["quick"])
    assert (limits.min_iterations, limits.min_ns) == (10, 1_000_000_000)
    assert (limits.max_iterations, limits.max_ns) == (20000, 30_000_000_000)


def test_once_is_the_time_of_one_call() -> None:
    assert measure.once(lambda: time.sleep(0.003)) >= 3_000_000


def test_memory_is_read_in_bytes_and_left_out_where_it_cannot_be_had(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nVmSwap:\t 1 kB\n")
    assert usage.memory_metrics(str(status)) == {"host_rss_peak_bytes": 2048.0 * 1024, "host_rss_bytes": 1024.0 * 1024}
    status.write_text("Name:\tpython\nVmRSS:\t unknown\n")
    assert usage.memory_metrics(str(status)) == {}
    assert usage.memory_metrics(str(tmp_path / "none")) == {}


def test_memory_of_this_process_grows_with_what_it_takes() -> None:
    before = usage.memory_metrics()["host_rss_bytes"]
    # Fresh pages from the kernel: an allocator may still hold freed ones of tests that ran before in this process.
    with mmap.mmap(-1, 64_000_000) as kept:
        kept[::4096] = b"\x01" * len(range(0, len(kept), 4096))
        assert usage.memory_metrics()["host_rss_bytes"] >= before + 60_000_000


def test_utilisation_is_cpu_time_over_wall_clock() -> None:
    values = usage.usage_metrics(usage.Usage(1.0, 10), usage.Usage(4.0, 25), 2_000_000_000)
    assert values == {"cpu_utilisation": 1.5, "involuntary_switches": 15.0}
    assert "cpu_utilisation" not in usage.usage_metrics(usage.Usage(1.0, 0), usage.Usage(1.0, 0), 0)


def test_the_wait_share_is_over_the_threads_that_are_left() -> None:
    before = usage.Usage(1.0, 0, {1: (1_000, 500), 2: (7_000, 9_000)})
    after = usage.Usage(2.0, 0, {1: (3_000, 1_000), 3: (5_000, 500)})
    assert usage.usage_metrics(before, after, 1)["cpu_wait_share"] == 1_000 / 8_000
    for kept in ({}, {1: (1_000, 500)}):
        nothing = usage.usage_metrics(before, usage.Usage(2.0, 0, kept), 1)
        assert "cpu_wait_share" not in nothing, "no account, or nothing done, is no share of 0"


def test_the_account_of_threads_is_the_kernels(tmp_path: Path) -> None:
    for name, text in (("11", "900 100 3\n"), ("12", "gone"), ("x", "1 2 3\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    (tmp_path / "13").mkdir()
    assert usage.usage(str(tmp_path)).threads == {11: (900, 100)}
    assert usage.usage(str(tmp_path / "none")).threads == {}


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel keeps no account of waits")
def test_threads_that_share_one_processor_wait_half_of_the_time() -> None:
    """The kernel's account for real: two processes that never sleep, bound to one processor."""
    spin = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\nwhile True: pass"
    first, second = (subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2))
    try:
        tasks = f"/proc/{first.pid}/task"
        while any(process_cpu_s(p.pid) < 0.3 for p in (first, second)):
            time.sleep(0.01)
        before = usage.usage(tasks)
        until = process_cpu_s(first.pid) + 0.5
        while process_cpu_s(first.pid) < until:
            time.sleep(0.01)
        assert usage.usage_metrics(before, usage.usage(tasks), 1)["cpu_wait_share"] > 0.35
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def process_cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_the_clock_is_named(tmp_path: Path) -> None:
    source = tmp_path / "current_clocksource"
    source.write_text("tsc\n")
    found = measure.clock_source(str(source))
    assert (found["source"], found["monotonic"]) == ("tsc", True)
    assert "source" not in measure.clock_source(str(tmp_path / "none"))


class _Recorded(Workflow):
    """Notes the order in which a sample's parts are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def to_device(self, host_input: Any) -> Any:
        self.calls.append("to_device")
        return host_input + " there"

    def infer(self, batch: Any) -> None:
        self.calls.append(f"infer {batch}")

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def outputs(self) -> Any:
        self.calls.append("outputs")
        return []


@pytest.mark.parametrize(
    ("boundary", "calls"),
    [
        ("compute", ["infer x", "synchronize"]),
        ("end_to_end", ["to_device", "infer x there", "synchronize", "outputs"]),
    ],
)
def test_a_sample_covers_what_its_boundary_says(boundary: str, calls: list[str]) -> None:
    workflow = _Recorded()
    stages._body(workflow, replace(PROTOCOLS["quick"], boundary=boundary))("x")
    assert workflow.calls == calls


def test_a_boundary_that_nobody_knows_is_refused() -> None:
    with pytest.raises(WorkflowError, match="boundary"):
        stages._body(_Recorded(), replace(PROTOCOLS["quick"], boundary="whole"))


def test_the_environment_is_plain_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("SOME_SECRET", "hush")
    found = environment.capture()
    assert found["variables"]["OMP_NUM_THREADS"] == "2"
    assert "SOME_SECRET" not in found["variables"]
    assert found["affinity"]


def test_cpu_flags_are_those_that_matter(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu avx2 sse avx512_vnni\n")
    assert environment.cpu_flags(str(info)) == ["avx2", "avx512_vnni"]
    assert environment.cpu_flags(str(tmp_path / "none")) == []
