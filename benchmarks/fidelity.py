#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Is the farm's median the library's? Against a bare loop, and against ONNX Runtime's own timing, as ratios in one run.

    python benchmarks/fidelity.py [--rounds 7] [--threads N] [--home DIR] [MODEL...]

Measures every model on this machine's CPU (onnxruntime_cpu fp32, batch 1, one input), always in a fresh process: by a
farm, and by a loop of a dozen lines over the same ONNX file with the same session options, threads, warm-up and time. A
host's speed changes between processes by more than the farm could add, so a round takes them in an order such as
farm, loop, loop', profile, loop', loop, farm: what drifts evenly cancels within it, and the roles change places from
round to round. loop' is the loop again: loop' over loop, taken exactly as farm over loop is, says what this machine
makes of a ratio that is 1. `profile` is a loop under ONNX Runtime's profiler, whose `model_run` events know nothing of
Python; it notes every node, which makes small models slower, so the loop's own clock is also held against it within
that process. Printed are Hodges and Lehmann's estimate over the rounds (on logarithms) and the exact interval of
Wilcoxon's signed ranks, which takes the ratios as equally likely to be off to either side. Seven rounds: 8 minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from farm.api import Farm  # noqa: E402 - found by the line above where the farm is not installed
from farm.contract.record import LATENCY, Record  # noqa: E402
from farm.local import LocalFarm  # noqa: E402
from farm.settings import Settings  # noqa: E402
from farm.sweep import parse_sweep  # noqa: E402

MODELS = ("resnet18", "mobilenet_v2", "squeezenet1_1")
WARM_UP_S, TIMED_S, MOST = 0.5, 1.0, 1_000_000
SWEEP = """
name: fidelity-{model}
protocol: {{base: quick, inputs: warm, threads: {threads}, warmup_min_s: {warm}, warmup_min_iterations: 3,
  min_s: {timed}, min_iterations: 10, max_iterations: {most}}}
models: [{model}]
workflows: [onnxruntime_cpu]
precisions: [fp32]
batch: [1]
devices: [{{kind: cpu}}]
"""
#: Run in a process of its own: PATH SHAPE THREADS WARM_UP_S TIMED_S PROFILE (empty: none). Prints nanoseconds.
BARE = """
import json, sys, time
import numpy as np, onnxruntime as ort
path, shape, threads, warm_s, timed_s, profile = sys.argv[1], *map(json.loads, sys.argv[2:6]), sys.argv[6]
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
if profile:
    options.enable_profiling, options.profile_file_prefix = True, profile
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed, binding = session.get_inputs()[0], session.io_binding()
binding.bind_cpu_input(feed.name, np.random.default_rng(0).random((1, *shape), dtype=np.float32))
binding.bind_output(session.get_outputs()[0].name, "cpu")
def loop(seconds):
    samples, until = [], time.perf_counter_ns() + seconds * 1e9
    while len(samples) < 10 or time.perf_counter_ns() < until:
        begin = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        samples.append(time.perf_counter_ns() - begin)
    return samples
warm, samples = loop(warm_s), loop(timed_s)
held = session.get_session_options()
names = ("execution_mode", "graph_optimization_level", "intra_op_num_threads", "inter_op_num_threads",
         "enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "use_deterministic_compute")
print(json.dumps({"samples": samples, "warm": len(warm), "profile": session.end_profiling() if profile else None,
                  "options": {name: str(getattr(held, name)) for name in names if hasattr(held, name)}}))
"""
#: Who is first, second and third in a round, from both ends; `loop` and `again` are the same loop.
ORDERS = (("farm", "loop", "again"), ("again", "farm", "loop"), ("loop", "again", "farm"))


@dataclass(frozen=True)
class Estimate:
    """A ratio over all rounds with its interval, and what that covers."""

    value: float
    low: float
    high: float
    coverage: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bare(path: Path, shape: Sequence[int], threads: int, profile: str = "", timed_s: float = TIMED_S) -> dict[str, Any]:
    """Time runs of a file for so long, after a warm-up, in a fresh process; `shape` is one sample's."""
    numbers = [json.dumps(value) for value in (list(shape), threads, WARM_UP_S, timed_s)]
    argv = [sys.executable, "-I", "-c", BARE, str(path), *numbers, profile]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def profiled_ms(events: Sequence[dict[str, Any]], warm: int) -> float:
    """The median of ONNX Runtime's own times of whole runs, in milliseconds, without the first `warm`."""
    runs = [event["dur"] for event in events if event.get("name") == "model_run"]
    return statistics.median(runs[warm:]) / 1e3


def median_ms(found: dict[str, Any]) -> float:
    """The median of a loop's samples."""
    return statistics.median(found["samples"]) / 1e6


def estimate(ratios: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Hodges and Lehmann's estimate with the signed-rank interval: from the k-th of the sorted averages of all pairs.

    Exact; with fewer than six rounds even the widest interval covers less than 95 %, and says what it does.
    """
    logs = [math.log(ratio) for ratio in ratios]
    averages = sorted((a + b) / 2 for i, a in enumerate(logs) for b in logs[i:])
    counts = signed_rank_counts(len(logs))
    total, k, below = 2 ** len(logs), 1, 1
    while 2 * (below + counts[k]) <= (1 - confidence) * total:
        below, k = below + counts[k], k + 1
    ends = (statistics.median(averages), averages[k - 1], averages[-k])
    return Estimate(*map(math.exp, ends), coverage=1 - 2 * below / total)


def signed_rank_counts(n: int) -> list[int]:
    """In how many of the 2^n signs of the ranks 1 .. n their positive sum is 0, 1, ..."""
    counts = [1] + [0] * (n * (n + 1) // 2)
    for rank in range(1, n + 1):
        for total in range(len(counts) - 1, rank - 1, -1):
            counts[total] += counts[total - rank]
    return counts


class Bench:
    """One model: its file, and both ways to measure it."""

    def __init__(self, farm: Farm, model: str, threads: int, scratch: Path) -> None:
        self._farm, self._model, self._threads, self._scratch = farm, model, threads, scratch
        text = SWEEP.format(model=model, threads=threads, warm=WARM_UP_S, timed=TIMED_S, most=MOST)
        self._spec = parse_sweep(text, "benchmarks/fidelity.py")
        first = self._record()  # prepares the file
        (graph,) = [artifact.sha256 for artifact in first.artifacts if artifact.kind == "onnx"]
        self._path, self._shape = scratch / f"{model}.onnx", first.job.model.input_shape
        farm.store.blobs.get(graph, self._path)

    def round(self, order: Sequence[str]) -> dict[str, float]:
        """The four ratios of one round."""
        found: dict[str, list[float]] = {"farm": [], "loop": [], "again": []}
        for who in order:
            found[who].append(self._one(who))
        profiled = bare(self._path, self._shape, self._threads, str(self._scratch / self._model))
        own_ms = self._own_ms(profiled)
        for who in reversed(order):
            found[who].append(self._one(who))
        farm_ms, loop_ms, again_ms = (statistics.geometric_mean(found[who]) for who in ("farm", "loop", "again"))
        print(f"  {self._model}: farm {farm_ms:.3f} ms, loop {loop_ms:.3f}, loop' {again_ms:.3f}, ONNX Runtime's own"
              f" {own_ms:.3f}", flush=True)  # fmt: skip
        return {
            "farm / loop": farm_ms / loop_ms,
            "loop' / loop": again_ms / loop_ms,
            "farm / ONNX Runtime's own": farm_ms / own_ms,
            "loop / ONNX Runtime's own, one process": median_ms(profiled) / own_ms,
        }

    def _one(self, who: str) -> float:
        if who != "farm":
            return median_ms(bare(self._path, self._shape, self._threads))
        latency = self._record().metrics.get("latency_ms")
        if latency is None:
            raise SystemExit(f"{self._model}: the farm has no latency")
        return latency

    def _record(self) -> Record:
        submission = self._farm.submit(self._spec, again=True)
        for _ in self._farm.watch(submission.sweep_id, interval_s=0.1, limit_s=600):
            pass
        (record,) = (r for r in self._farm.records(submission.sweep_id) if isinstance(r, Record) and r.point == LATENCY)
        if record.failure is not None:
            raise SystemExit(f"{record.job.name}: {record.outcome}: {record.failure.message}")
        return record

    def _own_ms(self, profiled: dict[str, Any]) -> float:
        trace = Path(profiled["profile"])
        events = json.loads(trace.read_text())
        trace.unlink()
        return profiled_ms(events, profiled["warm"])


def main() -> None:
    """Measure the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all processors")
    parser.add_argument("--home", type=Path, help="keep the farm here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inferfarm-fidelity-") as scratch:
        home = given.home or Path(scratch) / "farm"
        # No waits and no second tries: both sides start at once, on whatever this host is doing.
        farm = Farm(Settings(home=home, store=home / "store", idle_wait_s=0, cool_down_s=0, suspect_retries=0))
        farm.store.create()
        with LocalFarm(farm.settings, say=print):
            benches = {model: Bench(farm, model, given.threads, Path(scratch)) for model in given.models}
            rounds = []
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds}", flush=True)
                order = ORDERS[number % len(ORDERS)]
                rounds.append({model: bench.round(order) for model, bench in benches.items()})
    print(table(rounds))


def table(rounds: Sequence[dict[str, dict[str, float]]]) -> str:
    """A line for each model, a column for each ratio."""
    names = list(next(iter(rounds[0].values())))
    lines = ["", f"| model | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    found = {m: [estimate([r[m][name] for r in rounds]) for name in names] for m in rounds[0]}
    lines += [f"| {model} | {' | '.join(map(str, estimates))} |" for model, estimates in found.items()]
    coverage = next(iter(found.values()))[0].coverage
    return "\n".join([*lines, "", f"{len(rounds)} rounds; the intervals cover {coverage:.1%}"])


if __name__ == "__main__":
    main()
