# SPDX-License-Identifier: Apache-2.0
"""Several requests in flight, and all at once: loops over the one clock of `measure`.

Throughput is what was completed over the wall clock of a whole pass, from the moment at which all lanes are let go to
the end of the last request, ramp and rest included. It is never batch size over a latency.
"""

import itertools
import threading
from array import array
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence, Tuple

from workers.runner import measure
from workers.runner.lanes import Crew
from workers.runner.measure import Limits

#: A pass is cut in so many windows of equal length, as Triton's perf_analyzer compares its last three.
WINDOWS = 3
#: Fewer completions a lane and window say nothing: one more or less at a border is then 10 % of the rate.
_LEAST_IN_WINDOW = 20
#: The energy pass looks at the clock about so often, and not at every inference.
_LOOK_NS = 20_000_000
_MOST_BETWEEN_LOOKS = 1000
#: Fewer repetitions than this are no load for a sensor (Yang, Adamek and Armour, SC'24).
ENERGY_LEAST = 32
_SPLIT_MOST, _SPLIT_NS = 100, 1_000_000_000

#: What one lane does with one of its inputs.
Body = Callable[[Any], Any]


@dataclass(frozen=True)
class Pass:
    """What lanes did: `starts` and `samples` in ns, one array for each lane; `begin` is when they were let go."""

    starts: "List[array[int]]"
    samples: "List[array[int]]"
    begin_ns: int
    wall_ns: int
    ended_by: str

    @property
    def count(self) -> int:
        """Requests completed."""
        return sum(len(of_lane) for of_lane in self.samples)

    @property
    def joined(self) -> "array[int]":
        """The samples of all lanes, lane after lane."""
        found = array("q")
        for of_lane in self.samples:
            found.extend(of_lane)
        return found


@dataclass(frozen=True)
class Load:
    """A steady load without samples: how many inferences, in how long."""

    count: int
    wall_ns: int


class _Gate:
    """Lets all lanes go at once and tells them when to end. `begin` is read by the last to arrive."""

    def __init__(self, count: int) -> None:
        self.begin = 0
        self.ended_by = ""
        self._barrier = threading.Barrier(count, action=self._start)

    def _start(self) -> None:
        self.begin = measure.now_ns()

    def wait(self) -> None:
        self._barrier.wait()

    def end(self, why: str) -> None:
        self.ended_by = self.ended_by or why

    def fail(self) -> None:
        self.end("failed")
        self._barrier.abort()


def lane_loop(
    crew: Crew, bodies: Sequence[Body], inputs: Sequence[Sequence[Any]], limits: Limits, least_each: int = 0
) -> Pass:
    """Keep one request of each lane in flight until the limits, which hold for all lanes together.

    No more requests are begun than `limits.max_iterations`, and each that was begun is completed and kept. With
    `least_each` the minima are reached only once every lane has completed so many.
    """
    gate, tickets = _Gate(len(bodies)), itertools.count()
    longest, counts = limits.max_iterations, [0] * len(bodies)

    def work(lane: int) -> "Tuple[array[int], array[int]]":
        clock, body, own, count = measure.now_ns, bodies[lane], inputs[lane], len(inputs[lane])
        starts, samples, done = array("q"), array("q"), 0
        gate.wait()
        begin = gate.begin
        while not gate.ended_by:
            ticket = next(tickets)  # one step of the interpreter, so that no two lanes get the same
            if ticket >= longest:
                gate.end("max_iterations")
                break
            item = own[done % count]
            start = clock()
            body(item)
            end = clock()
            starts.append(start)
            samples.append(end - start)
            done += 1
            elapsed = end - begin
            if ticket + 1 >= limits.min_iterations and elapsed >= limits.min_ns:
                counts[lane] = done
                if not least_each or min(counts) >= least_each:
                    gate.end("minima")
            if elapsed >= limits.max_ns:
                gate.end("max_s")
        return starts, samples

    found = crew.together(work, gate.fail)
    starts, samples = [pair[0] for pair in found], [pair[1] for pair in found]
    last = max(s[-1] + d[-1] for s, d in zip(starts, samples) if len(s))
    return Pass(starts, samples, gate.begin, last - gate.begin, gate.ended_by)


def enqueue_loop(
    crew: Crew, infers: Sequence[Body], waits: Sequence[Callable[[], Any]], inputs: Sequence[Sequence[Any]]
) -> "Tuple[array[int], float]":
    """Time `infer` alone in each lane while all are at work: the samples in ns, and their sum over the wall clock.

    The sum is how many host threads were handing work over on average. Python runs one of them at a time, so from about
    1 on it is the host that limits, not the device.
    """
    gate = _Gate(len(infers))

    def work(lane: int) -> "Tuple[array[int], int]":
        clock, infer, wait, own = measure.now_ns, infers[lane], waits[lane], inputs[lane]
        samples = array("q")
        gate.wait()
        end = begin = gate.begin
        while len(samples) < _SPLIT_MOST and end - begin < _SPLIT_NS:
            start = clock()
            infer(own[len(samples) % len(own)])
            samples.append(clock() - start)
            wait()
            end = clock()
        return samples, end

    found = crew.together(work, gate.fail)
    samples = array("q")
    for of_lane, _ in found:
        samples.extend(of_lane)
    wall = max(end for _, end in found) - gate.begin
    return samples, sum(samples) / max(wall, 1)


def window_rates(done: Pass, windows: int = WINDOWS) -> Optional[List[float]]:
    """Requests completed a second in each of `windows` equal parts of a pass; None for too few to tell."""
    counts = [0] * windows
    for starts, samples in zip(done.starts, done.samples):
        for start, sample in zip(starts, samples):
            at = (start + sample - done.begin_ns) * windows // max(done.wall_ns, 1)
            counts[min(at, windows - 1)] += 1
    if min(counts) < _LEAST_IN_WINDOW * len(done.samples):
        return None
    return [count * windows * 1e9 / done.wall_ns for count in counts]


def queued(queue: Body, synchronize: Callable[[], Any], inputs: Sequence[Any], count: int) -> int:
    """Queue `count` inferences on the inputs in turn, wait once at the end, and return the wall clock in ns."""
    turns = [inputs[i % len(inputs)] for i in range(count)]
    begin = measure.now_ns()
    for item in turns:
        queue(item)
    synchronize()
    return measure.now_ns() - begin


def offline_count(limits: Limits, each_ns: float) -> int:
    """How many inferences an offline pass takes, when one takes about `each_ns`: fixed before it begins. Pure."""
    wanted = max(limits.min_iterations, -(-limits.min_ns // max(int(each_ns), 1)))
    most = min(limits.max_iterations, int(limits.max_ns // max(each_ns, 1.0)))
    return max(1, min(wanted, most))


def steady_load(body: Body, inputs: Sequence[Any], least_ns: int, each_ns: float) -> Load:
    """Repeat `body` for at least `least_ns` and 32 times, with no book-keeping but a counter.

    `each_ns`, about what one takes, says how seldom the clock need be looked at.
    """
    step, count, done, begin = between_looks(each_ns), len(inputs), 0, measure.now_ns()
    while True:
        for _ in range(step):
            body(inputs[done % count])
            done += 1
        wall = measure.now_ns() - begin
        if wall >= least_ns and done >= ENERGY_LEAST:
            return Load(done, wall)


def lanes_load(
    crew: Crew, bodies: Sequence[Body], inputs: Sequence[Sequence[Any]], least_ns: int, each_ns: float
) -> Load:
    """`steady_load` in all lanes at once; each ends by its own clock, so all are at work until the least is reached."""
    gate = _Gate(len(bodies))

    def work(lane: int) -> Load:
        gate.wait()
        return steady_load(bodies[lane], inputs[lane], least_ns, each_ns)

    loads = crew.together(work, gate.fail)
    return Load(sum(load.count for load in loads), measure.now_ns() - gate.begin)


def queue_load(
    queue: Body, synchronize: Callable[[], Any], inputs: Sequence[Any], least_ns: int, each_ns: float
) -> Load:
    """`steady_load` for queued work: each look at the clock waits, so that what is counted is done."""
    step, done, begin = max(between_looks(each_ns), ENERGY_LEAST), 0, measure.now_ns()
    while True:
        queued(queue, synchronize, inputs, step)
        done += step
        wall = measure.now_ns() - begin
        if wall >= least_ns:
            return Load(done, wall)


def between_looks(each_ns: float) -> int:
    """Inferences between two looks at the clock. Pure."""
    return max(1, min(_MOST_BETWEEN_LOOKS, int(_LOOK_NS / max(each_ns, 1.0))))
