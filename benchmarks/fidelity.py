#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Is the farm's median the library's? Against a bare loop, and against ONNX Runtime's own timing, as ratios in one run.

    python benchmarks/fidelity.py [--rounds 5] [--home DIR] [MODEL...]

Each round measures every model three ways on this machine's CPU, each in a process of its own: by the farm (protocol
`quick`, onnxruntime_cpu fp32, batch 1), by a loop of a dozen lines over the same ONNX file and session options, and by
ONNX Runtime's profiler, whose `model_run` events know nothing of Python; it notes every node, which makes small models
slower. A ratio is taken within its round; printed are the median over the rounds with the smallest and the largest. 1
means that the farm adds nothing to what it measures. A host whose speed changes between processes shows in the spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from farm.api import Farm  # noqa: E402 - found by the line above where the farm is not installed
from farm.contract.record import LATENCY, Record  # noqa: E402
from farm.settings import Settings  # noqa: E402
from farm.sweep import parse_sweep  # noqa: E402

MODELS = ("resnet18", "mobilenet_v2", "squeezenet1_1")
SWEEP = """
name: fidelity
protocol: {{base: quick, inputs: warm}}
models: [{models}]
workflows: [onnxruntime_cpu]
precisions: [fp32]
batch: [1]
devices: [{{kind: cpu}}]
"""
#: Run in a process of its own: PATH SHAPE THREADS WARM_UP ITERATIONS PROFILE (empty: none). Prints nanoseconds.
BARE = """
import json, sys, time
import numpy as np, onnxruntime as ort
path, shape, threads, warm, count, profile = sys.argv[1], *map(json.loads, sys.argv[2:6]), sys.argv[6]
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
if profile:
    options.enable_profiling, options.profile_file_prefix = True, profile
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed, binding = session.get_inputs()[0], session.io_binding()
binding.bind_cpu_input(feed.name, np.random.default_rng(0).random((1, *shape), dtype=np.float32))
binding.bind_output(session.get_outputs()[0].name, "cpu")
samples = []
for _ in range(warm + count):
    begin = time.perf_counter_ns()
    session.run_with_iobinding(binding)
    samples.append(time.perf_counter_ns() - begin)
print(json.dumps({"samples": samples[warm:], "profile": session.end_profiling() if profile else None}))
"""


def bare(path: Path, shape: Sequence[int], threads: int, warm: int, count: int, profile: str = "") -> dict[str, Any]:
    """Time `count` runs of a file after `warm` of them, in a fresh process; `shape` is one sample's."""
    numbers = [json.dumps(value) for value in (list(shape), threads, warm, count)]
    argv = [sys.executable, "-I", "-c", BARE, str(path), *numbers, profile]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def profiled_ms(events: Sequence[dict[str, Any]], warm: int) -> float:
    """The median of ONNX Runtime's own times of whole runs, in milliseconds, without the first `warm`."""
    runs = [event["dur"] for event in events if event.get("name") == "model_run"]
    return statistics.median(runs[warm:]) / 1e3


def ratio(values: Sequence[float]) -> str:
    """`1.003 (0.991 to 1.012)`: the median over the rounds, the smallest and the largest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def one_round(farm: Farm, models: Sequence[str], scratch: Path) -> dict[str, tuple[float, float]]:
    """For each model: the farm's median over the bare loop's, and over ONNX Runtime's own."""
    spec = parse_sweep(SWEEP.format(models=", ".join(models)), "benchmarks/fidelity.py")
    sweep_id = farm.run(spec, again=bool(farm.store.sweeps.list())).sweep_id
    found = {}
    for record in farm.records(sweep_id):
        if not isinstance(record, Record) or record.point != LATENCY:
            continue
        farms_ms = record.metrics.get("latency_ms")
        if farms_ms is None:
            raise SystemExit(f"{record.job.name}: {record.outcome}: {record.failure and record.failure.message}")
        (graph,) = [a.sha256 for a in record.artifacts if a.kind == "onnx"]
        path = scratch / f"{record.job.model.name}.onnx"
        farm.store.blobs.get(graph, path)
        warm, count = record.effective["warm_up_iterations"], record.effective["timed_iterations"]
        asked = (path, record.job.model.input_shape, record.effective["threads"], warm, count)
        loop_ms = statistics.median(bare(*asked)["samples"]) / 1e6
        trace = bare(*asked, str(scratch / record.job.model.name))["profile"]
        own_ms = profiled_ms(json.loads(Path(trace).read_text()), warm)
        Path(trace).unlink()
        path.unlink()
        flags = ", ".join(flag.name for flag in record.flags)
        print(
            f"  {record.job.model.name}: farm {farms_ms:.3f} ms, loop {loop_ms:.3f}, ONNX Runtime {own_ms:.3f}  {flags}"
        )
        found[record.job.model.name] = (farms_ms / loop_ms, farms_ms / own_ms)
    return found


def main() -> None:
    """Measure the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, help="keep the farm here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inferfarm-fidelity-") as scratch:
        home = given.home or Path(scratch) / "farm"
        farm = Farm(Settings(home=home, store=home / "store"))
        farm.store.create()
        rounds = []
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds}", flush=True)
            rounds.append(one_round(farm, given.models, Path(scratch)))
    print("\n| model | farm / bare loop | farm / ONNX Runtime's own |\n| --- | --- | --- |")
    for model in given.models:
        loop, own = ([found[model][i] for found in rounds] for i in range(2))
        print(f"| {model} | {ratio(loop)} | {ratio(own)} |")


if __name__ == "__main__":
    main()
