# SPDX-License-Identifier: Apache-2.0
"""The only stopwatch of the farm: the host's monotonic clock in integer nanoseconds, every sample kept."""

import contextlib
import gc
import time
from array import array
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Sequence

from farm.contract.job import Protocol

_CLOCK_ROUNDS = 2000


def now_ns() -> int:
    """The clock that everything is measured with: CLOCK_MONOTONIC on Linux."""
    return time.perf_counter_ns()


@dataclass(frozen=True)
class ClockFacts:
    """`overhead_ns` is the median of two readings in a row, `resolution_ns` the smallest step that was seen."""

    overhead_ns: float
    resolution_ns: float


@dataclass(frozen=True)
class Limits:
    """A loop ends once both minima are reached, or at either maximum."""

    min_iterations: int
    min_ns: int
    max_iterations: int
    max_ns: int


@dataclass(frozen=True)
class Series:
    """`samples` in ns; `wall_ns` from the first start to the last end; `ended_by` says which limit ended the loop."""

    samples: "array[int]"
    wall_ns: int
    ended_by: str


def clock_facts() -> ClockFacts:
    """Measure the clock itself, so that a record tells when its samples are too short for it."""
    clock = time.perf_counter_ns
    readings = [clock() for _ in range(_CLOCK_ROUNDS)]
    steps = sorted(after - before for before, after in zip(readings, readings[1:]))
    pairs = []
    for _ in range(_CLOCK_ROUNDS):
        before = clock()
        pairs.append(clock() - before)
    pairs.sort()
    positive = [step for step in steps if step > 0]
    return ClockFacts(float(pairs[len(pairs) // 2]), float(positive[0] if positive else 0))


def once(body: Callable[[], Any]) -> int:
    """Nanoseconds of one call."""
    begin = time.perf_counter_ns()
    body()
    return time.perf_counter_ns() - begin


def timed_loop(body: Callable[[Any], Any], inputs: Sequence[Any], limits: Limits) -> Series:
    """Call `body` on the inputs in turn and time each call, one at a time."""
    clock, count, samples = time.perf_counter_ns, len(inputs), array("q")
    done, begin = 0, clock()
    while True:
        item = inputs[done % count]
        start = clock()
        body(item)
        end = clock()
        samples.append(end - start)
        done += 1
        elapsed = end - begin
        if done >= limits.min_iterations and elapsed >= limits.min_ns:
            ended_by = "minima"
            break
        if done >= limits.max_iterations or elapsed >= limits.max_ns:
            ended_by = "max_iterations" if done >= limits.max_iterations else "max_s"
            break
    return Series(samples, elapsed, ended_by)


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples: collect, freeze what lives, collect no more until the end."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def warm_up_limits(protocol: Protocol) -> Limits:
    """Warm-up's minima, with the timed loop's maxima so that a slow model does not warm up for ever."""
    most = max(protocol.max_iterations, protocol.warmup_min_iterations)
    longest = max(protocol.max_s, protocol.warmup_min_s)
    return Limits(protocol.warmup_min_iterations, _ns(protocol.warmup_min_s), most, _ns(longest))


def timed_limits(protocol: Protocol) -> Limits:
    """The timed loop's limits."""
    return Limits(protocol.min_iterations, _ns(protocol.min_s), protocol.max_iterations, _ns(protocol.max_s))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
