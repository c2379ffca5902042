#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What tells a busy host from a quiet one while something is measured? Two readings, on this machine's processors.

    python benchmarks/host_noise.py [--phases 5] [--seconds 1] [--foreign 1 --foreign 2]

A fixed workload (every thread hashes the same bytes, then all wait for each other, as the threads of one inference do)
runs in fresh processes with one thread, half of the processors and all of them; each alone and beside k processes that
never sleep. Rounds take the cases in random order, so that whatever else changes on the host meets all of them. A phase
in which something else kept more than 10 % of the processors at work does not count, since nobody knows what it is; its
case is taken again. Printed
for each case: involuntary context switches a second, `cpu_wait_share` (of the time in which the process's threads could
run, how much they waited for a processor), what others kept at work, and the latency against the same threads alone.

Then how well each reading tells the phases without foreign processes from those in which there are more threads and
foreign processes than processors: the largest of the first, the smallest of the second, and the limit between them that
puts the fewest on the wrong side.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from farm.thresholds import DEFAULTS  # noqa: E402 - found by the line above where the farm is not installed

#: Run in a process of its own: THREADS SECONDS. Prints the samples in ns and what `usage` found between both ends.
WORKLOAD = """
import hashlib, json, sys, threading, time
sys.path.insert(0, sys.argv[1])
from workers.runner import usage
threads, seconds, data = int(sys.argv[2]), float(sys.argv[3]), bytes(2_000_000)
start, done = threading.Barrier(threads), threading.Barrier(threads)
def share():
    start.wait()
    hashlib.sha256(data).digest()
    done.wait()
def helper():
    while True:
        share()
others = [threading.Thread(target=helper, daemon=True) for _ in range(threads - 1)]
for other in others:
    other.start()
def run(until):
    samples = []
    while time.perf_counter() < until:
        begin = time.perf_counter_ns()
        share()
        samples.append(time.perf_counter_ns() - begin)
    return samples
run(time.perf_counter() + 0.3)
before, begin = usage.usage(), time.perf_counter_ns()
samples = run(time.perf_counter() + seconds)
wall, after = time.perf_counter_ns() - begin, usage.usage()
print(json.dumps({"samples": samples, "wall_s": wall / 1e9, **usage.usage_metrics(before, after, wall)}))
"""
SPIN = "while True: pass"


@dataclass(frozen=True)
class Phase:
    """One process's measurement. `others`: processors that neither it nor the foreign processes kept at work."""

    threads: int
    foreign: int
    latency_ms: float
    iqr_over_median: float
    switches_per_s: float
    wait_share: float | None
    others: float


#: The readings that are judged, by the names of their columns.
READINGS: dict[str, Callable[[Phase], float | None]] = {
    "involuntary switches/s": lambda phase: phase.switches_per_s,
    "cpu_wait_share": lambda phase: phase.wait_share,
}


@dataclass(frozen=True)
class Separation:
    """How a reading tells quiet phases from crowded ones. `wrong`: phases on the wrong side of the best `limit`."""

    largest_quiet: float
    smallest_crowded: float
    limit: float
    wrong: int


def separation(quiet: Sequence[float], crowded: Sequence[float]) -> Separation:
    """The limit that puts the fewest phases on the wrong side; of equally good ones, the widest gap's middle."""

    def wrong(limit: float) -> int:
        return sum(value > limit for value in quiet) + sum(value <= limit for value in crowded)

    ordered = sorted({*quiet, *crowded})
    gaps = [*pairwise(ordered), (ordered[-1], ordered[-1])]
    low, high = min(gaps, key=lambda gap: (wrong(sum(gap) / 2), gap[0] - gap[1]))
    limit = (low + high) / 2
    return Separation(max(quiet), min(crowded), limit, wrong(limit))


@contextmanager
def foreign_processes(count: int) -> Iterator[list[psutil.Process]]:
    """`count` processes that never sleep, once each of them is at work."""
    started = [subprocess.Popen([sys.executable, "-I", "-c", SPIN]) for _ in range(count)]
    try:
        known = [psutil.Process(process.pid) for process in started]
        while any(cpu_s(process) < 0.1 for process in known):
            time.sleep(0.01)
        yield known
    finally:
        for process in started:
            process.kill()
            process.wait()


def cpu_s(process: psutil.Process) -> float:
    """Processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def busy_s() -> float:
    """Processor time that all processes of the host have used."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def measure(threads: int, foreign: int, seconds: float) -> Phase:
    """One phase. `others` is over the whole life of the measured process, whose own time is taken off."""
    with foreign_processes(foreign) as spinning:
        busy, spun, begin = busy_s(), sum(map(cpu_s, spinning)), time.monotonic()
        children = os.times()
        argv = [sys.executable, "-I", "-c", WORKLOAD, str(ROOT), str(threads), str(seconds)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60 + 3 * seconds)
        now = os.times()
        own = (now.children_user + now.children_system) - (children.children_user + children.children_system)
        others = busy_s() - busy - own - (sum(map(cpu_s, spinning)) - spun)
        took = time.monotonic() - begin
    found = json.loads(done.stdout)
    low, median, high = statistics.quantiles(found["samples"], n=4)
    return Phase(
        threads,
        foreign,
        latency_ms=median / 1e6,
        iqr_over_median=(high - low) / median,
        switches_per_s=found["involuntary_switches"] / found["wall_s"],
        wait_share=found.get("cpu_wait_share"),
        others=max(0.0, others / took),
    )


def table(phases: Sequence[Phase], cpus: int) -> str:
    """A line for each case: medians over its phases, with the smallest and the largest of both readings."""
    lines = [
        "| threads | foreign | phases | switches/s | cpu_wait_share | others | latency / alone | IQR / median |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for threads, foreign in sorted({(phase.threads, phase.foreign) for phase in phases}):
        case = [phase for phase in phases if (phase.threads, phase.foreign) == (threads, foreign)]
        alone = [phase.latency_ms for phase in phases if (phase.threads, phase.foreign) == (threads, 0)]
        slower = statistics.median(p.latency_ms for p in case) / statistics.median(alone) if alone else float("nan")
        waits = [phase.wait_share for phase in case if phase.wait_share is not None]
        cells = [
            f"{threads} of {cpus}",
            str(foreign),
            str(len(case)),
            _span([phase.switches_per_s for phase in case], "{:.0f}"),
            _span(waits, "{:.4f}") if waits else "not told",
            f"{statistics.median(phase.others for phase in case):.2f}",
            f"{slower:.2f}",
            f"{statistics.median(phase.iqr_over_median for phase in case):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(values: Sequence[float], form: str) -> str:
    middle, low, high = (form.format(v) for v in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def judged(phases: Sequence[Phase], cpus: int) -> list[str]:
    """A line for each reading: how it tells quiet phases from crowded ones."""
    lines = []
    for name, reading in READINGS.items():
        quiet = [value for p in phases if p.foreign == 0 and (value := reading(p)) is not None]
        crowded = [v for p in phases if p.foreign and p.threads + p.foreign > cpus and (v := reading(p)) is not None]
        if not quiet or not crowded:
            lines.append(f"{name}: too few phases to judge it by")
            continue
        found = separation(quiet, crowded)
        lines.append(
            f"{name}: quiet up to {found.largest_quiet:.4g}, crowded from {found.smallest_crowded:.4g}; a limit of"
            f" {found.limit:.4g} puts {found.wrong} of {len(quiet) + len(crowded)} on the wrong side"
        )
    return lines


def measured(cases: Sequence[tuple[int, int]], given: argparse.Namespace, most_others: float) -> Iterator[Phase]:
    """Phases that count, round by round, until each case has enough or the time is up."""
    left, end = Counter({case: given.phases for case in cases}), time.monotonic() + given.limit_s
    while +left and time.monotonic() < end:
        for case in random.sample(cases, len(cases)):
            if left[case] > 0 and (phase := measure(*case, given.seconds)).others <= most_others:
                left[case] -= 1
                yield phase
        print(f"{sum((+left).values())} phases to go", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", type=int, default=5, help="of each case (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one phase (default 1)")
    parser.add_argument("--limit-s", type=float, default=600.0, help="stop after so long (default 600)")
    parser.add_argument("--foreign", type=int, action="append", help="foreign processes; may be repeated")
    given = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    counts = sorted({0, *(given.foreign or (1, cpus))})
    cases = [(threads, foreign) for threads in sorted({1, max(1, cpus // 2), cpus}) for foreign in counts]
    phases = list(measured(cases, given, DEFAULTS["foreign_cpu_share"] * cpus))
    print(table(phases, cpus), "", *judged(phases, cpus), sep="\n")


if __name__ == "__main__":
    main()
