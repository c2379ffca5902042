# SPDX-License-Identifier: Apache-2.0
"""The only stopwatch of the farm: the host's monotonic clock in integer nanoseconds, every sample kept."""

import contextlib
import gc
import sys
import time
from array import array
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Optional, Sequence

from farm.contract.job import WARM_UP_RULES, Protocol
from workers.runner.steady import SteadyState
from workers.runner.stop_rules import EndRule, StopRule
from workers.workflows.base import DeviceTimer
from workers.workflows.errors import WorkflowError

_CLOCK_ROUNDS = 2000
_CLOCK_SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
#: Enough for a median and its interval; device times vary little.
_DEVICE_LEAST, _DEVICE_MOST, _DEVICE_NS = 10, 100, 1_000_000_000
#: After asking a rule, samples are taken for so many times what asking took: 2 % of the wall clock at most.
_LOOK_SHARE = 50


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
    """A loop ends once both minima are reached (with a rule: and that ends it), or at either maximum."""

    min_iterations: int
    min_ns: int
    max_iterations: int
    max_ns: int


@dataclass(frozen=True)
class Series:
    """`samples` in ns; `ended_by` says which limit or rule ended the loop.

    `wall_ns` is from the first start to the last end, without the time in which a rule was asked: that is `asking_ns`.
    """

    samples: "array[int]"
    wall_ns: int
    ended_by: str
    asking_ns: int = 0


@dataclass(frozen=True)
class Split:
    """Samples in ns of the same inferences: `device` between two events on the stream, `enqueue` of `infer` alone."""

    device: "array[int]"
    enqueue: "array[int]"


def clock_source(source: str = _CLOCK_SOURCE) -> Dict[str, Any]:
    """What the stopwatch reads: the system call behind it and, on Linux, the kernel's source of it (`tsc`)."""
    info = time.get_clock_info("perf_counter")
    found: Dict[str, Any] = {"reads": info.implementation, "monotonic": info.monotonic}
    with contextlib.suppress(OSError):
        with open(source, encoding="ascii", errors="replace") as stream:
            found["source"] = stream.read().strip()
    return found


def other_clocks() -> Dict[str, int]:
    """How far other clocks are ahead of this one in ns, each read between two readings of it.

    `uncertainty_ns` is half of the widest of these intervals.
    """
    found, widest = {"monotonic_ns": now_ns()}, 0
    for name in ("CLOCK_BOOTTIME", "CLOCK_REALTIME"):
        number = getattr(time, name, None)
        if number is not None:
            before = now_ns()
            read = time.clock_gettime_ns(number)
            after = now_ns()
            found[name.lower() + "_ahead_ns"] = read - (before + after) // 2
            widest = max(widest, after - before)
    return dict(found, uncertainty_ns=(widest + 1) // 2)


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


def timed_loop(
    body: Callable[[Any], Any], inputs: Sequence[Any], limits: Limits, rule: Optional[EndRule] = None
) -> Series:
    """Call `body` on the inputs in turn and time each call, one at a time.

    Between two samples, and once both minima are reached, `rule` is asked whether to end; without one, they end it.
    """
    clock, count, samples = time.perf_counter_ns, len(inputs), array("q")
    least, least_ns = limits.min_iterations, limits.min_ns
    done, asking_ns, begin = 0, 0, clock()
    while True:
        item = inputs[done % count]
        start = clock()
        body(item)
        end = clock()
        samples.append(end - start)
        done += 1
        elapsed = end - begin
        may_end = done >= least and elapsed >= least_ns
        if may_end:
            ended_by = rule.ended_by(samples) if rule else "minima"
            if ended_by:
                break
        if done >= limits.max_iterations or elapsed >= limits.max_ns:
            ended_by = "max_iterations" if done >= limits.max_iterations else "max_s"
            break
        if may_end and rule:
            least, took = rule.next_look(done), clock() - end
            least_ns = elapsed + (1 + _LOOK_SHARE) * took
            asking_ns += took
    # The last time that the rule was asked came after the last end.
    return Series(samples, elapsed - asking_ns, ended_by, asking_ns + clock() - end)


def device_loop(
    infer: Callable[[Any], Any], synchronize: Callable[[], Any], timer: DeviceTimer, inputs: Sequence[Any]
) -> Split:
    """Time inferences by events on the device, and by the host how long `infer` alone takes.

    In a loop of its own, since recording the events is work that the latency samples must not hold.
    """
    clock, count = time.perf_counter_ns, len(inputs)
    enqueue, device = array("q"), array("q")
    begin = clock()
    for i in range(_DEVICE_MOST):
        timer.start()
        start = clock()
        infer(inputs[i % count])
        end = clock()
        timer.stop()
        synchronize()
        enqueue.append(end - start)
        device.append(timer.elapsed_ns())
        if clock() - begin >= _DEVICE_NS and i + 1 >= _DEVICE_LEAST:
            break
    return Split(device, enqueue)


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
    """Warm-up's minima; its own maximum until it is steady, else the timed loop's, so that none goes on for ever."""
    if protocol.warmup_rule == "steady":
        most, longest = sys.maxsize, protocol.warmup_max_s
    else:
        most, longest = max(protocol.max_iterations, protocol.warmup_min_iterations), protocol.max_s
    longest = max(longest, protocol.warmup_min_s)
    return Limits(protocol.warmup_min_iterations, _ns(protocol.warmup_min_s), most, _ns(longest))


def warm_up_rule(protocol: Protocol) -> Optional[SteadyState]:
    """What ends warm-up after its minima; None: they do.

    Raises:
        WorkflowError: there is no such rule.
    """
    if protocol.warmup_rule not in WARM_UP_RULES:
        raise WorkflowError("there is no warm-up rule {!r}".format(protocol.warmup_rule), None, "bad-request")
    return SteadyState() if protocol.warmup_rule == "steady" else None


def timed_limits(protocol: Protocol) -> Limits:
    """The timed loop's limits."""
    return Limits(protocol.min_iterations, _ns(protocol.min_s), protocol.max_iterations, _ns(protocol.max_s))


def stop_rule(protocol: Protocol) -> Optional[StopRule]:
    """What ends the timed loop after its minima; None: they do."""
    if protocol.target_half_width is None and not protocol.noise_plateau:
        return None
    return StopRule(protocol.target_half_width, protocol.noise_plateau)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
