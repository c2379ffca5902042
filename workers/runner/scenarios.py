# SPDX-License-Identifier: Apache-2.0
"""The scenarios beside `single`, from loaded workflow to numbers: `streams` (K requests in flight) and `offline`."""

import contextlib
import sys
from array import array
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from farm.contract.job import Protocol
from workers.runner import concurrent, measure, usage
from workers.runner.concurrent import Load, Pass
from workers.runner.lanes import Crew
from workers.workflows.base import Lane, Workflow, default_threads
from workers.workflows.errors import WorkflowError

#: Two passes in a row of this length with rates this close are a steady state.
_STEADY_PASS_NS, _STEADY_CHANGE = 500_000_000, 0.02


@dataclass
class Measured:
    """What a stage found, for the result."""

    samples: "Dict[str, array[int]]" = field(default_factory=dict)
    metrics: Dict[str, float] = field(default_factory=dict)
    effective: Dict[str, Any] = field(default_factory=dict)


def check(protocol: Protocol) -> None:
    """Refuse switches that do not go together. Raises WorkflowError; a sweep with them does not get this far."""
    if protocol.scenario == "offline" and protocol.boundary != "compute":
        raise WorkflowError("offline has the boundary `compute` alone", None, "bad-request")
    if protocol.streams > 1 and protocol.scenario != "streams":
        raise WorkflowError("more than one stream needs the scenario `streams`", None, "bad-request")
    if (protocol.contexts or protocol.sessions) and protocol.scenario != "streams":
        raise WorkflowError("contexts and sessions need the scenario `streams`", None, "bad-request")


class Streams:
    """`protocol.in_flight` lanes, one host thread with one request in flight each.

    Made and closed in the runner's thread. The outputs that are compared are the first lane's.
    """

    def __init__(self, workflow: Workflow, protocol: Protocol) -> None:
        self._workflow, self._protocol, self._batch = workflow, protocol, workflow.ctx.batch_size
        self._lanes = workflow.lanes(protocol.in_flight)
        self._crew = Crew(len(self._lanes))
        self._attached = 0
        self._placed: List[List[Any]] = []
        self._bodies = [_body(lane, protocol.boundary) for lane in self._lanes]

    def place(self, host: Sequence[Any]) -> Dict[str, Any]:
        """Give each lane its inputs, one lane after the other; return facts for the record."""
        shares = share(host, len(self._lanes))

        def work(number: int) -> List[Any]:
            lane = self._lanes[number]
            lane.attach()
            self._attached = number + 1
            if self._protocol.boundary == "end_to_end":
                return list(shares[number])
            return [lane.to_device(item) for item in shares[number]]

        self._placed = self._crew.each(work)
        at_work = self._workflow.threads_at_work()
        return {
            "scenario": "streams",
            "streams": self._protocol.streams,
            "in_flight": len(self._lanes),
            "lane_input_counts": [len(placed) for placed in self._placed],
            **({} if at_work is None else {"threads_at_work": at_work, "processors": default_threads()}),
        }

    def first(self) -> int:
        """Nanoseconds of the first lane's first inference, the others idle; theirs follow, one after another."""
        once = self._crew.each(lambda lane: measure.once(lambda: self._bodies[lane](self._placed[lane][0])))
        return once[0]

    def warm_up(self) -> Measured:
        """The protocol's minima for each lane; with its rule `steady`, on until two passes have the same rate."""
        least, count = measure.warm_up_limits(self._protocol), len(self._lanes)
        # A maximum would be shared: a quick lane must not use up what a slow one warms up with.
        fixed = measure.Limits(least.min_iterations * count, least.min_ns, sys.maxsize, least.max_ns)
        passes = [self._pass(fixed, least.min_iterations)]
        facts: Dict[str, Any] = {"ended_by": passes[0].ended_by}
        if self._protocol.warmup_rule == "steady":
            facts = self._until_steady(passes)
        samples = array("q")
        for done in passes:
            samples.extend(done.joined)
        facts.update(iterations=len(samples), wall_ns=sum(done.wall_ns for done in passes))
        return Measured({"warm_up": samples}, {}, {"warm_up_" + name: fact for name, fact in facts.items()})

    def _until_steady(self, passes: List[Pass]) -> Dict[str, Any]:
        """Add passes of one length until two in a row have the same rate; `rate_change` is that of the last two."""
        limits = measure.Limits(1, _STEADY_PASS_NS, sys.maxsize, _STEADY_PASS_NS)
        longest_ns = self._protocol.warmup_max_s * 1e9
        rates: List[float] = []
        change: Optional[float] = None
        while sum(done.wall_ns for done in passes) < longest_ns:
            passes.append(self._pass(limits))
            rates.append(passes[-1].count / passes[-1].wall_ns)
            if len(rates) < 2:
                continue
            change = rates[-1] / rates[-2] - 1
            if abs(change) <= _STEADY_CHANGE:
                return {"ended_by": "steady", "rate_change": change}
        return {"ended_by": "max_s", "rate_change": change}

    def timed(self) -> Measured:
        """The timed stage: every request's latency on the host, throughput over the wall clock of the whole."""
        before = usage.usage()
        done = self._pass(measure.timed_limits(self._protocol))
        after = usage.usage()
        metrics = usage.usage_metrics(before, after, done.wall_ns)
        metrics["requests_per_s"] = done.count / (done.wall_ns / 1e9)
        metrics["throughput_per_s"] = metrics["requests_per_s"] * self._batch
        rates = concurrent.window_rates(done)
        return Measured(
            {"latency": done.joined},
            metrics,
            {
                "timed_iterations": done.count,
                "timed_wall_ns": done.wall_ns,
                "timed_ended_by": done.ended_by,
                "lane_counts": [len(samples) for samples in done.samples],
                "window_rates_per_s": None if rates is None else [rate * self._batch for rate in rates],
            },
        )

    def enqueue(self) -> Measured:
        """What handing work over costs the host while all lanes do it: `enqueue_threads` of 1 is one whole interpreter.

        With `compute` only, as for one request in flight.
        """
        lanes = self._lanes
        samples, threads = concurrent.enqueue_loop(
            self._crew, [lane.infer for lane in lanes], [lane.synchronize for lane in lanes], self._placed
        )
        return Measured({"enqueue": samples}, {}, {"enqueue_threads": threads})

    def load(self, least_ns: int, each_ns: float) -> Load:
        """A steady load of all lanes."""
        return concurrent.lanes_load(self._crew, self._bodies, self._placed, least_ns, each_ns)

    def outputs(self, host: Any) -> List[Tuple[str, Any]]:
        """The first lane's outputs for a host input, which it is given once more."""

        def work(number: int) -> List[Tuple[str, Any]]:
            if number:
                return []
            lane = self._lanes[0]
            end_to_end = self._protocol.boundary == "end_to_end"
            lane.infer(lane.to_device(host) if end_to_end else self._placed[0][0])
            lane.synchronize()
            return lane.outputs()

        return self._crew.each(work)[0]

    def close(self) -> None:
        """Have each thread let its lane go, end the threads, free the lanes."""
        attached = self._attached
        self._placed = []
        # After a failure a lane may not be let go in good order: the failure is what counts.
        with contextlib.suppress(Exception):
            self._crew.each(lambda number: self._lanes[number].detach() if number < attached else None)
        self._crew.close()
        for lane in self._lanes:
            with contextlib.suppress(Exception):
                lane.close()

    def _pass(self, limits: measure.Limits, least_each: int = 0) -> Pass:
        return concurrent.lane_loop(self._crew, self._bodies, self._placed, limits, least_each)


def offline(workflow: Workflow, protocol: Protocol, placed: Sequence[Any], each_ns: float) -> Measured:
    """The timed stage of `offline`; `each_ns` is about what one inference takes in a queue. It has no latencies."""
    count = concurrent.offline_count(measure.timed_limits(protocol), each_ns)
    before = usage.usage()
    wall_ns = concurrent.queued(workflow.queue, workflow.synchronize, placed, count)
    after = usage.usage()
    metrics = usage.usage_metrics(before, after, wall_ns)
    metrics["throughput_per_s"] = count * workflow.ctx.batch_size / (wall_ns / 1e9)
    facts = {"timed_iterations": count, "timed_wall_ns": wall_ns, "timed_ended_by": "count"}
    return Measured({}, metrics, facts)


def queued_each_ns(workflow: Workflow, protocol: Protocol, placed: Sequence[Any]) -> float:
    """About what one inference takes in a queue, from a short one: part of warming up."""
    count = max(1, min(protocol.min_iterations, concurrent.ENERGY_LEAST))
    return concurrent.queued(workflow.queue, workflow.synchronize, placed, count) / count


def share(host: Sequence[Any], lanes: int) -> List[List[Any]]:
    """Deal the inputs out to the lanes, the first to the first; fewer inputs than lanes are shared. Pure."""
    return [list(host[lane::lanes]) or [host[lane % len(host)]] for lane in range(lanes)]


def energy_facts(load: Load, batch_size: int) -> Dict[str, Any]:
    """What a record tells of an energy pass."""
    return {
        "energy_inputs": load.count * batch_size,
        "energy_iterations": load.count,
        "energy_wall_ns": load.wall_ns,
    }


def _body(lane: Lane, boundary: str) -> Callable[[Any], Any]:
    infer, synchronize = lane.infer, lane.synchronize
    if boundary == "compute":

        def compute(placed: Any) -> None:
            infer(placed)
            synchronize()

        return compute

    def end_to_end(host: Any) -> None:
        infer(lane.to_device(host))
        synchronize()
        lane.outputs()

    return end_to_end
