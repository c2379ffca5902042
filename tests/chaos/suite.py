# SPDX-License-Identifier: Apache-2.0
"""One run of the suite: keep the farm busy, inject, heal, wait until all is done, stop, check."""

from __future__ import annotations

import contextlib
import heapq
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import redis

from farm.broker.jobs import JobState
from farm.errors import FarmError
from tests.chaos.farm import WORKERS, ChaosFarm, held_in_redis, leftovers
from tests.chaos.faults import FAULTS, Injected
from tests.chaos.invariants import ENDED, Evidence, Violation, check, is_complete, never_injected
from tests.chaos.schedule import Planned, schedule, told
from tests.chaos.table import Row, rows

#: A fault that finds nothing to hurt for so long is passed over, and another comes in its place.
_TARGET_LIMIT_S = 10.0
#: After so long without one, the next worker is tried.
_VICTIM_LIMIT_S = 2.0
#: The bounds of "recovers" and "ends": most of it is the deadlines of a machine whose cores are all taken.
RECOVERY_LIMIT_S = 120.0
END_LIMIT_S = 240.0
_START_LIMIT_S = 120.0
_STOP_LIMIT_S = 60.0
_LOOK_S = 0.05
_TOP_UP_S = 0.5

SWEEP = """
name: chaos-{number}
protocol: {{base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 12, min_s: 0.0}}
models: [resnet18, resnet34]
workflows:
  - {{name: fake, latency_ms: 50}}
  - {{name: fake, latency_ms: 40, behaviour: grandchild, stage: warm_up}}
precisions: [fp32, int8]
batch: [1, 2]
{devices}
"""


@dataclass
class Done:
    """A fault that was injected. Times are CLOCK_MONOTONIC nanoseconds; 0: not yet."""

    planned: Planned
    injected: Injected
    began_ns: int
    healed_ns: int = 0
    waits_for: set[str] = field(default_factory=set)
    recovered_ns: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came out of a run. `runs`: how many were recorded; `executions`: how many runners began."""

    done: list[Done]
    violations: list[Violation]
    runs: int
    executions: int
    passed_over: int

    @property
    def table(self) -> list[Row]:
        """The faults by kind."""
        return rows(self.done, self.violations, [fault.name for fault in FAULTS])


class Suite:
    """Injects `count` faults into a farm and tells what came of it. `say` hears of the progress."""

    def __init__(self, farm: ChaosFarm, seed: int, count: int, say: Callable[[str], None]) -> None:
        self._farm = farm
        self._count = count
        self._say = say
        self._plan = schedule(seed, WORKERS)
        self._done: list[Done] = []
        self._healing: list[tuple[float, int, Done]] = []
        self._busy: set[str] = set()
        self._sweeps = 0
        self._top_up_at = 0.0
        self._passed_over: Counter[str] = Counter()

    def run(self) -> Outcome:
        """Do all of it.

        Raises:
            FarmError: the farm did not come up.
        """
        self._wait(self._farm.online, _START_LIMIT_S, "the workers to announce themselves", top_up=False)
        while len(self._done) < self._count:
            self._next_fault()
        self._wait(lambda: not self._healing, RECOVERY_LIMIT_S, "the last fault to be healed")
        unrecovered = self._wait_or_tell(lambda: all(d.recovered_ns for d in self._done), RECOVERY_LIMIT_S)
        self._say("no more faults: waiting for all jobs to end" + (f" ({unrecovered})" if unrecovered else ""))
        self._wait_or_tell(self._all_ended, END_LIMIT_S, top_up=False)
        return self._conclude()

    def _next_fault(self) -> None:
        planned = next(self._plan)
        self._pause(planned.gap_s)
        with (self._farm.base / "schedule.jsonl").open("a") as stream:
            stream.write(json.dumps(told(planned)) + "\n")
        until = time.monotonic() + _TARGET_LIMIT_S
        next_victim_at = time.monotonic() + _VICTIM_LIMIT_S
        while time.monotonic() < until:
            if time.monotonic() > next_victim_at:
                other = replace(planned.pick, victim=(planned.pick.victim + 1) % WORKERS)
                planned, next_victim_at = replace(planned, pick=other), next_victim_at + _VICTIM_LIMIT_S
            if self._inject(planned):
                if len(self._done) % 10 == 0 or len(self._done) == self._count:
                    recovered = sum(1 for done in self._done if done.recovered_ns)
                    self._say(f"{len(self._done)} of {self._count} faults injected, {recovered} recovered from")
                return
            self._pause(_LOOK_S)
        self._passed_over[planned.fault.name] += 1

    def _inject(self, planned: Planned) -> bool:
        need = planned.fault.needs + (str(planned.pick.victim) if planned.fault.needs == "worker" else "")
        if need and need in self._busy:
            return False
        injected = planned.fault.inject(self._farm, planned.pick)
        if injected is None:
            return False
        done = Done(planned, injected, time.monotonic_ns(), waits_for=set(injected.devices))
        self._done.append(done)
        if need:
            self._busy.add(need)
        heapq.heappush(self._healing, (time.monotonic() + injected.lasts_s, planned.number, done))
        return True

    def _heal_due(self) -> None:
        while self._healing and self._healing[0][0] <= time.monotonic():
            _, _, done = heapq.heappop(self._healing)
            if not done.injected.over():
                heapq.heappush(self._healing, (time.monotonic() + 4 * _LOOK_S, done.planned.number, done))
                continue
            done.injected.heal()
            done.healed_ns = time.monotonic_ns()
            fault = done.planned.fault
            self._busy.discard(fault.needs + (str(done.planned.pick.victim) if fault.needs == "worker" else ""))

    def _see_recoveries(self) -> None:
        for line in self._farm.read_log():
            if line.event != "end":
                continue
            for done in self._done:
                if done.healed_ns and not done.recovered_ns and line.monotonic_ns > done.healed_ns:
                    done.waits_for.discard(line.device)
                    if not done.waits_for:
                        done.recovered_ns = line.monotonic_ns

    def _turn(self, *, top_up: bool = True) -> None:
        """One look at everything: the suite's loop is single, so that faults come in the schedule's order."""
        self._farm.keep_alive()
        self._heal_due()
        self._see_recoveries()
        if top_up and time.monotonic() >= self._top_up_at:
            self._top_up()
            self._top_up_at = time.monotonic() + _TOP_UP_S

    def _top_up(self) -> None:
        """Keep jobs waiting for every device. What is away now is asked again in a moment."""
        with contextlib.suppress(redis.RedisError, FarmError, OSError):
            counts = [sweep.counts for sweep in self._farm.jobs.sweeps()]
            waiting = sum(count.get(state, 0) for count in counts for state in (JobState.QUEUED, JobState.DISPATCHED))
            if waiting < 3 * WORKERS and self._farm.online():
                self._submit()

    def _submit(self) -> None:
        # Every third sweep is bound to one device; the number moves on only when the whole submission went through.
        number = self._sweeps + 1
        bound = self._farm.devices[number // 3 % WORKERS]
        text = SWEEP.format(number=number, devices=f"devices: [{{id: {bound}}}]" if number % 3 == 0 else "")
        path = self._farm.base / "sweep.yaml"
        path.write_text(text)
        self._farm.api.submit(path)
        self._sweeps = number

    def _all_ended(self) -> bool:
        with contextlib.suppress(redis.RedisError, FarmError, OSError):
            facts = {fact.run_id: fact for fact in self._farm.facts()}
            states = self._farm.states()
            return (
                all(is_complete(job, facts) for job in self._farm.submitted())
                and all(JobState(state).ended for state in states.values())
                and not self._farm.spooled()
            )
        return False

    def _conclude(self) -> Outcome:
        farm = self._farm
        states, held = farm.states(), held_in_redis(farm)
        farm.stop(_STOP_LIMIT_S)
        left = [*held, *leftovers(farm)]
        farm.read_log()
        left += [f"damaged {text}" for text in farm.damaged]
        facts = farm.facts()
        found = check(Evidence(farm.submitted(), farm.lines, facts, states, left))
        for done in self._done:
            if not done.recovered_ns:
                text = f"{', '.join(sorted(done.waits_for))} ran nothing after it was over"
                kind = f"{done.planned.fault.name} (number {done.planned.number})"
                found.append(Violation(ENDED, f"{kind}: {text}"))
        found += never_injected(self._passed_over, [done.planned.fault.name for done in self._done])
        executions = sum(1 for line in farm.lines if line.event == "start")
        return Outcome(self._done, found, len(facts), executions, self._passed_over.total())

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            self._turn()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_LOOK_S, left))

    def _wait(self, condition: Callable[[], bool], limit_s: float, what: str, *, top_up: bool = True) -> None:
        if self._wait_or_tell(condition, limit_s, top_up=top_up):
            raise FarmError(f"waited {limit_s:.0f} s in vain for {what}; see {self._farm.base}")

    def _wait_or_tell(self, condition: Callable[[], bool], limit_s: float, *, top_up: bool = True) -> str:
        """Wait for the condition; where it does not come, what is wrong is a violation and found by the checks."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            self._turn(top_up=top_up)
            if condition():
                return ""
            time.sleep(4 * _LOOK_S)
        return f"not within {limit_s:.0f} s"
