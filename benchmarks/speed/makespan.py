# SPDX-License-Identifier: Apache-2.0
"""200 simulated devices, 10,000 jobs from ten seconds to a quarter of an hour: how good the scheduler's decisions are.

The clock is simulated; the decisions are the scheduler's own: expand, match, the learned prediction, choose, steal, and
the filling of windows. A job takes what was predicted times a factor that the scheduler does not know.

Makespan is held against the lower bound for identical machines, max(sum of all lengths / devices, the longest job)
(Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 17(2), 1969), of each class of devices, since a
job is bound to its class; the worst class counts. Graham's bound for any list order is 2 - 1/m of it, for the longest
first 4/3 - 1/(3m).

The error of fair shares is the largest relative distance of a sweep's device-seconds from the mean of all sweeps',
counted in the true lengths of the jobs that are handed out while every sweep has jobs that wait for every class, all of
one priority: what start-time fair queueing bounds (Goyal, Vin, Cheng, IEEE/ACM Trans. Networking 5(5), 1997). Two of
the five sweeps join late; what was in the devices' windows by then is not counted.
    python -m benchmarks.speed.makespan [--rounds N]
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.speed.line import Line
from farm.broker.jobs import Dispatched, Head, JobState, JobView, rank
from farm.broker.register import DeviceEntry
from farm.contract.catalogue import TORCHVISION_MODELS
from farm.contract.device import Announcement, DeviceInfo, StackInfo
from farm.contract.job import JobSpec
from farm.store.columns import protocol_id
from farm.store.durations import Took
from farm.sweep import SweepSpec, parse_sweep
from scheduler.choose import Slot, stealable
from scheduler.dispatch import Board, fill
from scheduler.expand import expand
from scheduler.learned import Predictor
from scheduler.match import match

TOPIC = "makespan"
DEVICES, CLASSES, WINDOW = 200, 4, 2
SWEEPS, JOBS = 5, 10_000
_SHORTEST_S, _LONGEST_S = 10.0, 900.0
#: How far predictions are off: the standard deviation of the logarithm of true / predicted.
_SIGMA = 0.25
#: Sweeps 3 and 4 join then.
_LATE_S = 1500.0
_CASES = JOBS // SWEEPS // CLASSES
_PACES = 10


def entries() -> list[DeviceEntry]:
    """The devices, in classes of the same size."""
    stack = StackInfo("default", "/usr/bin/python3", "3.11.7", {})
    infos = [
        DeviceInfo(f"lab-{i:03d}-cpu", f"class-{i % CLASSES}", "cpu", f"lab-{i:03d}", "CPU", {"cores": 8})
        for i in range(DEVICES)
    ]
    return [DeviceEntry(Announcement(info, [stack], "0.1.0", 1), 1.0, True, "ready", None) for info in infos]


def sweep(index: int) -> SweepSpec:
    """One of the sweeps: models x ways to run them, on every class."""
    models = TORCHVISION_MODELS[: _CASES // _PACES]
    workflows = ", ".join(f"{{name: fake, latency_ms: {2 + pace}}}" for pace in range(_PACES))
    lines = [f"name: sweep-{index}", f"models: [{', '.join(models)}]", f"workflows: [{workflows}]", "batch: [1]"]
    return parse_sweep("\n".join(lines), "sweep.yaml")


def history(jobs: Sequence[JobSpec], draw: random.Random) -> list[Took]:
    """What the records would say: each case on each class took its own time, log-uniform."""
    found = {}
    for job in jobs:
        key = job.model.name, job.options["latency_ms"], job.target.device_class
        seconds = _SHORTEST_S * math.exp(draw.random() * math.log(_LONGEST_S / _SHORTEST_S))
        found[key] = Took(
            job.model.name, job.workflow, job.precision, f"latency_ms={job.options['latency_ms']}", "",
            str(job.target.device_class), protocol_id(job.protocol), 1, 0.95 * seconds, 5.0, 0.05 * seconds, 1,
        )  # fmt: skip
    return list(found.values())


@dataclass
class Work:
    """One job of the simulation."""

    view: JobView
    true_s: float


@dataclass
class Memory:
    """The waiting lines, as Redis holds them: what `scheduler.dispatch` asks of a `JobStore`."""

    lines: dict[tuple[str, str], list[tuple[float, str]]] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)

    def submit(self, works: Sequence[Work]) -> None:
        """A sweep joins at the smallest `served` of those that wait, as SUBMIT has it."""
        waiting = {sweep for (sweep, _), line in self.lines.items() if line}
        sweep_id = works[0].view.sweep_id
        self.served[sweep_id] = min((self.served[sweep] for sweep in waiting), default=0.0)
        for one in works:
            self.work[one.view.job_id] = one
            self.lines.setdefault((sweep_id, one.view.target_key), []).append(_place(one.view))
        for line in self.lines.values():
            line.sort()

    def heads(self) -> list[Head]:
        """The first of every line."""
        return [self._head(key, line[0]) for key, line in self.lines.items() if line]

    def dispatch_head(self, head: Head, _device_id: str) -> Dispatched:
        """The first of a line goes."""
        key = head.sweep_id, head.target_key
        line = self.lines[key]
        assert line[0][1] == head.job_id
        line.pop(0)
        self.served[head.sweep_id] += head.predicted_s
        behind = self._head(key, line[0]) if line else None
        return Dispatched(True, head.job_id, self.served[head.sweep_id], behind)

    def recall(self, view: JobView) -> None:
        """One that was sent ahead comes back into its line."""
        insort(self.lines[view.sweep_id, view.target_key], _place(view))
        self.served[view.sweep_id] -= view.predicted_s

    def _head(self, key: tuple[str, str], first: tuple[float, str]) -> Head:
        view = self.work[first[1]].view
        return Head(*key, view.job_id, 5, self.served[key[0]], view.order, view.predicted_s)


def _place(view: JobView) -> tuple[float, str]:
    return rank(view.target_key, view.order, view.predicted_s), view.job_id


class Simulation:
    """Devices that work off what they are sent. Times are seconds since its beginning."""

    def __init__(self, devices: Sequence[DeviceEntry]) -> None:
        self.memory = Memory()
        self._class = {e.device_id: e.announcement.device.device_class for e in devices}
        self._windows: dict[str, list[JobView]] = {device_id: [] for device_id in self._class}
        self._events: list[tuple[float, str]] = []
        #: When each job was handed out, and which; ends by class.
        self.sent: list[tuple[float, str]] = []
        self.ends: dict[str, float] = defaultdict(float)
        #: When a sweep first had nothing that waits for one of the classes.
        self.drained = math.inf
        self._now = 0.0

    def until(self, limit_s: float) -> None:
        """Work, until then or until there is nothing left."""
        self._hand_out(list(self._windows))
        while self._events and self._events[0][0] < limit_s:
            self._now, device_id = heapq.heappop(self._events)
            self._windows[device_id].pop(0)
            self._hand_out([device_id])
        if math.isfinite(limit_s):
            self._now = limit_s

    def _hand_out(self, device_ids: Sequence[str]) -> None:
        for device_id in device_ids:
            self._start(device_id)
        board = Board(self.memory.heads())
        slots = [self._slot(device_id) for device_id in device_ids]
        idle = [slot for slot in slots if not slot.window and not board.of(slot)]
        if idle:
            for job_id in stealable([self._slot(device_id) for device_id in self._windows], self.memory.heads()):
                self._recall(job_id)
            board = Board(self.memory.heads())
        fill(self.memory, slots, board, self._send, WINDOW)  # type: ignore[arg-type]
        if not all(self.memory.lines.values()):
            self.drained = min(self.drained, self._now)

    def _recall(self, job_id: str) -> None:
        view = self.memory.work[job_id].view
        for window in self._windows.values():
            window[:] = [kept for kept in window if kept.job_id != job_id]
        self.memory.recall(view)

    def _send(self, job_id: str, queue: str, _name: str) -> None:
        device_id = queue.removeprefix("dev.")
        self._windows[device_id].append(self.memory.work[job_id].view)
        self.sent.append((self._now, job_id))
        if len(self._windows[device_id]) == 1:
            self._start(device_id)

    def _start(self, device_id: str) -> None:
        window = self._windows[device_id]
        if not window or window[0].state is JobState.RUNNING:
            return
        window[0] = replace(window[0], state=JobState.RUNNING)
        end = self._now + self.memory.work[window[0].job_id].true_s
        heapq.heappush(self._events, (end, device_id))
        name = self._class[device_id]
        self.ends[name] = max(self.ends[name], end)

    def _slot(self, device_id: str) -> Slot:
        return Slot(device_id, self._class[device_id], tuple(self._windows[device_id]))


def simulate(seed: int) -> tuple[float, float]:
    """Makespan over its lower bound, in the worst class, and the error of fair shares."""
    draw, devices = random.Random(seed), entries()
    plans = [match(spec, expand(spec), devices) for spec in map(sweep, range(SWEEPS))]
    classes = {entry.device_id: entry.announcement.device.device_class for entry in devices}
    predict = Predictor(history(plans[0].jobs, draw), classes)
    works = [[_work(job, order, predict, draw) for order, job in enumerate(plan.jobs)] for plan in plans]
    run = Simulation(devices)
    for early in works[:3]:
        run.memory.submit(early)
    run.until(_LATE_S)
    for late in works[3:]:
        run.memory.submit(late)
    run.until(math.inf)
    assert {job_id for _, job_id in run.sent} == set(run.memory.work)
    return _makespan(run, [one for of in works for one in of]), _unfairness(run)


def _work(job: JobSpec, order: int, predict: Predictor, draw: random.Random) -> Work:
    predicted_s = predict.predicted_s(job)
    view = JobView(
        job.job_id, job.name, job.sweep_id, JobState.DISPATCHED, job.target.key, None, 0, 5, predicted_s, order,
        {}, {}, {"dispatched": 0.0}, None, job,
    )  # fmt: skip
    return Work(view, predicted_s * math.exp(draw.gauss(0.0, _SIGMA)))


def _makespan(run: Simulation, works: Sequence[Work]) -> float:
    ratios = []
    for name, end in run.ends.items():
        lengths = [one.true_s for one in works if one.view.target_key == f"cls:{name}"]
        ratios.append(end / max(sum(lengths) / (DEVICES / CLASSES), *lengths))
    return max(ratios)


def _unfairness(run: Simulation) -> float:
    got: dict[str, float] = defaultdict(float)
    for at, job_id in run.sent:
        if _LATE_S <= at < run.drained:
            work = run.memory.work[job_id]
            got[work.view.sweep_id] += work.true_s
    mean = sum(got.values()) / len(got)
    return max(abs(seconds - mean) for seconds in got.values()) / mean


def measure(rounds: int) -> list[Line]:
    """The lines of the table; each round has lengths and errors of its own."""
    found = [simulate(seed) for seed in range(rounds)]
    what = f"{JOBS:,} jobs of {_SHORTEST_S:.0f} to {_LONGEST_S:.0f} s on {DEVICES} simulated devices"
    spans, shares = tuple(row[0] for row in found), tuple(100 * row[1] for row in found)
    note = f"predictions off by {_SIGMA:.0%} (one standard deviation)"
    return [
        Line(TOPIC, f"{what}: makespan over its lower bound", "ratio", spans, limit=1.05, note=note),
        Line(TOPIC, f"{what}: error of fair shares of {SWEEPS} sweeps", "%", shares, limit=5.0, note=note),
    ]


def main() -> None:
    """Print the lines."""
    from benchmarks.speed.table import markdown

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    print(markdown(measure(parser.parse_args().rounds), {}))


if __name__ == "__main__":
    main()
