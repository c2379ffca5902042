#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the farm costs a sweep of short jobs, beside a bare script and beside optimum-benchmark's process launcher.

    python -m benchmarks.speed.overhead [--rounds N] [--jobs 30]

A round of 30 jobs takes about two minutes for each of the two, and one more for the launcher. The farm is at work when
the clock starts, its caches are empty; the script starts with its interpreter. Both make the same weights, graphs and
references, and measure the same points by the same minima, each once, with one thread: two are a busy machine's
neighbours, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import launcher  # noqa: E402 - found by the line above
from benchmarks.speed.line import Line  # noqa: E402
from benchmarks.speed.memory import children, is_warm, peak_mib  # noqa: E402
from farm.api import Farm  # noqa: E402
from farm.contract.protocols import PROTOCOLS  # noqa: E402
from farm.contract.record import Record  # noqa: E402
from farm.local import LocalFarm  # noqa: E402
from farm.settings import load_settings  # noqa: E402

MODELS = ("resnet18", "squeezenet1_1", "mobilenet_v2")
WORKFLOWS = ("pytorch", "onnxruntime_cpu")
BATCHES = (1, 2, 4, 8, 16)
SIZE, THREADS = 64, 1
#: What a person waits for in any case: the script does it, too.
_WORK = ("load_model", "export", "reference", "load_engine", "first_inference", "warm_up", "measure", "outputs")
_LIMIT_S = 1800.0
SWEEP = """
name: overhead-b{batch}
protocol: {{base: quick, threads: {threads}}}
models: [{models}]
workflows: [{workflows}]
precisions: [fp32]
batch: [{batch}]
devices: [{{kind: cpu}}]
"""


class Farmed(NamedTuple):
    """A sweep through the farm, in s: its wall clock, what that went to, and a point's time outside of its work.

    `peaks_mib`: of the farm's processes, by what they are.
    """

    wall_s: float
    split: dict[str, float]
    point_s: float
    peaks_mib: dict[str, float]


def measure(rounds: int, jobs: int = 30) -> list[Line]:
    """Each round: the sweep through the farm, the script, and one point of each model through the launcher."""
    farmed, bare, launched = [], [], []
    batches = BATCHES[: max(1, jobs // (len(MODELS) * len(WORKFLOWS)))]
    count = len(batches) * len(MODELS) * len(WORKFLOWS)
    python, why = launcher.interpreter()
    for _ in range(rounds):
        farmed.append(through_farm(batches))
        bare.append(bare_script(batches))
        if python is not None:
            launched.append(launcher.point_s(python, THREADS))
    split = {name: statistics.median(one.split[name] for one in farmed) for name in farmed[0].split}
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in split.items())
    return [
        Line("overhead", f"a sweep of {count} short jobs", "s", tuple(one.wall_s for one in farmed), tuple(bare),
             "one process, bare script", 1.10, f"seconds in all: {told}"),
        Line("overhead", "a point, outside of its load and runs", "s", tuple(one.point_s for one in farmed),
             tuple(launched), "optimum-benchmark, process launcher", 0.2 if launched else None,
             why or launcher.NOTE),
        *(
            Line("overhead", f"peak memory: {what}", "MiB", tuple(one.peaks_mib[what] for one in farmed))
            for what in farmed[0].peaks_mib
        ),
    ]  # fmt: skip


def through_farm(batches: tuple[int, ...]) -> Farmed:
    """The jobs, a sweep for each batch size so that each is a job of its own, on a farm that has never run one."""
    with tempfile.TemporaryDirectory(prefix="farm-overhead-") as home:
        # The script takes every run as it comes; so does the farm here, which else measures a doubtful one again.
        farm = Farm(load_settings(home=Path(home)).model_copy(update={"suspect_retries": 0}))
        with LocalFarm(farm.settings) as parts:
            began = time.time()
            made = [farm.submit(_write(Path(home), batch)).sweep_id for batch in batches]
            for sweep_id in made:
                for _ in farm.watch(sweep_id, interval_s=0.05, limit_s=_LIMIT_S):
                    pass
            wall_s = time.time() - began
            peaks = peaks_mib(parts)
        records = sorted((one for one in farm.records() if isinstance(one, Record)), key=lambda one: one.started_at)
    bad = [one.run_id for one in records if one.outcome != "ok"]
    if bad or not records:
        raise SystemExit(f"not ok: {', '.join(bad) or 'no record'}")
    return Farmed(wall_s, split(records, began, wall_s), point_s(records), peaks)


def peaks_mib(farm: LocalFarm) -> dict[str, float]:
    """The peak of each of the farm's processes, in MiB. Nothing runs on it any more."""
    found: dict[str, float] = {}
    for part in farm.parts:
        if part.process is None:
            continue
        found[part.name] = peak_mib(part.process.pid)
        below = list(children(part.process.pid))
        if part.is_worker:
            warm = [peak_mib(pid) for pid in below if is_warm(pid)]
            found["the worker's process that runs the jobs"] = peak_mib(below[0])
            found["the largest of its warm parents"] = max(warm, default=float("nan"))
    return found


def split(records: list[Record], began: float, wall_s: float) -> dict[str, float]:
    """Where the wall clock went, in seconds. `between`: from a record's end to the next one's start, without `prepare`.

    That is recording, finishing, the queue, the claim, and the look at the host before a run; `waited` is what it had
    to wait there for other work on the host to end, which a script does not care about. `start`: from the launch
    of a run to the end of its first stage, in which libraries are imported. `end`: from its last stage to its record.
    """
    found = dict.fromkeys(("queue to first point", "between", "waited", "prepare", "start", *_WORK[3:], "end"), 0.0)
    offset, last, seen = time.time() - time.monotonic(), began, set()
    for one in records:
        began_at, ended_at = _epoch(one.started_at), _epoch(one.finished_at)
        prepared, waited = _prepare_s(one), float(one.host.get("waited_idle_s") or 0.0)
        first = not seen
        seen.add(one.run_id)
        found["prepare"] += prepared
        found["waited"] += waited
        found["queue to first point" if first else "between"] += began_at - last - prepared - waited
        found["start"] += one.stages[0].end_ns / 1e9 + offset - began_at
        for stage in one.stages[1:]:
            if stage.name in found:
                found[stage.name] += (stage.end_ns - stage.start_ns) / 1e9
        found["end"] += ended_at - (one.stages[-1].end_ns / 1e9 + offset)
        last = ended_at
    return found | {"rest": wall_s - sum(found.values())}


def point_s(records: list[Record]) -> float:
    """The median time from one record's end to the next one's, less what its stages worked, in s."""
    spent = []
    for before, one in itertools.pairwise(records):
        work = sum(stage.end_ns - stage.start_ns for stage in (*one.stages, *one.prepare_stages) if stage.name in _WORK)
        spent.append(_epoch(one.finished_at) - _epoch(before.finished_at) - work / 1e9)
    return statistics.median(spent) if spent else float("nan")


def bare_script(batches: tuple[int, ...]) -> float:
    """The wall clock of the script, in s."""
    quick = PROTOCOLS["quick"]
    names = ("warmup_min_iterations", "warmup_min_s", "min_iterations", "min_s")
    asked: dict[str, Any] = {name: getattr(quick, name) for name in names}
    asked |= {"models": MODELS, "workflows": WORKFLOWS, "batches": batches, "size": SIZE, "threads": THREADS}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("bare.py")
        began = time.monotonic()
        subprocess.run(
            # -P: modules beside the script have names of the standard library's.
            [sys.executable, "-P", "-W", "ignore", str(script), json.dumps(asked), f"{folder}/out.json"],
            check=True,
        )
        return time.monotonic() - began


def _write(folder: Path, batch: int) -> Path:
    models = ", ".join(f"{{name: {name}, input: [3, {SIZE}, {SIZE}]}}" for name in MODELS)
    path = folder / f"b{batch}.yaml"
    path.write_text(SWEEP.format(batch=batch, threads=THREADS, models=models, workflows=", ".join(WORKFLOWS)))
    return path


def _prepare_s(record: Record) -> float:
    stages = record.prepare_stages
    return (stages[-1].end_ns - stages[0].start_ns) / 1e9 if stages else 0.0


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _lines(found: list[Line]) -> Iterator[str]:
    for line in found:
        low, high = line.spread
        ratio = f"{statistics.median(line.ratios):.3f} [{low:.3f}, {high:.3f}]"
        yield f"{line.what}: {ratio} of {line.against or 'nothing'}; {line.ours} / {line.baseline}; {line.note}"


def main() -> None:
    """Run by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=30, help="a multiple of six (default 30)")
    given = parser.parse_args()
    print("\n".join(_lines(measure(given.rounds, given.jobs))))


if __name__ == "__main__":
    main()
