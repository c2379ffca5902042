#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How often does `farm compare --measure` call two equal things different? 40 comparisons of a sweep with itself.

    python benchmarks/aa.py                                all 40, five processes a side: 25 minutes on two idle cores
    python benchmarks/aa.py --comparisons 6 --home DIR     a short form; the same HOME goes on where it stopped
    python benchmarks/aa.py --sides fresh,forked           fresh processes against such as are forked from a warm parent

Each comparison measures one cheap case in fresh processes on this machine's CPU, both sides alternately, and prints its
ratio, its verdict and what it took. On idle cores a process takes 3 s, of which 0.8 s are warm-up and timed runs; on
busy ones the farm waits before each as long as `idle_wait_s` allows (FARM_IDLE_WAIT_S, by default 30), measures twice
and flags the records all the same: run this where nothing else runs.

FASTER or SLOWER is a false alarm: 5 % of the comparisons may be (2 of 40), else the exit code is 1. A comparison with
flagged runs may lack the five sound processes that a verdict needs; how many did is printed, since what cannot alarm
proves nothing. The last line gives the noise that `--threshold` should be above on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from farm.api import Farm  # noqa: E402 - found by the line above where the farm is not installed
from farm.compare import Cell, Rules, Verdict, table  # noqa: E402
from farm.local import LocalFarm  # noqa: E402
from farm.sweep import SweepSpec, parse_sweep  # noqa: E402

ALLOWED_SHARE = 0.05
POLICIES = {"fresh": "never", "forked": "always"}
SWEEP = """
name: aa-{number:03}
protocol: {{base: quick, warmup_min_s: 0.3, min_s: 0.5, threads: 1}}
models: [{{name: {model}, input: [3, {size}, {size}]}}]
workflows: [{workflow}]
precisions: [fp32]
batch: [1]
devices: [{{kind: cpu}}]
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=40)
    parser.add_argument("--processes", type=int, default=5, help="a side, in each comparison (default 5)")
    parser.add_argument("--model", default="squeezenet1_1")
    parser.add_argument("--size", type=int, default=64, help="of the input, in pixels (default 64)")
    parser.add_argument("--workflow", default="onnxruntime_cpu")
    parser.add_argument("--accept", action="append", default=[], help="a flag to take as sound; may be repeated")
    parser.add_argument("--sides", type=sides, default=(None, None), help="how processes are started, `fresh,forked`")
    parser.add_argument("--home", type=Path, help="keep the farm here, and go on where it stopped")
    return parser.parse_args()


def sides(text: str) -> tuple[str, str]:
    """`fresh,forked`, or any two of these."""
    base, _, new = text.partition(",")
    if {base, new} <= set(POLICIES):
        return base, new
    raise argparse.ArgumentTypeError(f"two of {', '.join(POLICIES)} with a comma between")


def offer_both() -> None:
    """This interpreter as two stacks, which differ in how their processes are started and in nothing else."""
    stacks = {name: {"python": sys.executable, "warm_runners": policy} for name, policy in POLICIES.items()}
    os.environ["FARM_STACKS"] = json.dumps(stacks)


def sweep(given: argparse.Namespace, number: int, stack: str | None) -> SweepSpec:
    """The sweep of one side of a comparison; only its name differs from the others'."""
    text = SWEEP.format(number=number, model=given.model, size=given.size, workflow=given.workflow)
    return parse_sweep(text, "benchmarks/aa.py").model_copy(update={"stack": stack})


def run(farm: Farm, given: argparse.Namespace) -> list[Cell]:
    """Measure and judge every comparison, a line each."""
    cells = []
    rules = Rules(accept=tuple(given.accept))
    with LocalFarm(farm.settings, say=print):
        for number in range(given.comparisons):
            began = time.monotonic()
            base, new = (sweep(given, number, stack) for stack in given.sides)
            found = farm.compare_measured(base, new, processes=given.processes, devices=None, rules=rules)
            (cell,) = found.cells
            words = [table.side(cell.base), table.side(cell.new), table.ratio(cell.ratio), cell.verdict, *cell.notes]
            cells.append(cell)
            print(f"{number + 1:3} of {given.comparisons}: ", "  ".join(words), f" {time.monotonic() - began:.0f} s;",
                  f"unable so far: {unable(cells)}", flush=True)  # fmt: skip
    return cells


def unable(cells: list[Cell]) -> int:
    """How many comparisons could not have alarmed: too few sound processes, or clocks that differ."""
    return sum(cell.p_value is None for cell in cells)


def report(cells: list[Cell]) -> bool:
    """Print what came of it; whether the false alarms are as few as allowed."""
    counts = Counter(cell.verdict for cell in cells)
    different = counts[Verdict.FASTER] + counts[Verdict.SLOWER]
    allowed = math.ceil(ALLOWED_SHARE * len(cells))
    print("verdicts: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    print(f"without five sound processes a side, or at other clocks, so that no alarm was possible: {unable(cells)}")
    print(f"different: {different} of {len(cells)}; allowed: {allowed}")
    sizes = sorted(abs(math.log(cell.ratio.value)) for cell in cells)
    noise = math.expm1(sizes[math.ceil(0.95 * len(sizes)) - 1])
    print(f"95 % of the ratios lie within {noise:.1%} of 1; a threshold of {max(2.0, 200 * noise):.1f} % is above it")
    return different <= allowed


def main() -> int:
    """Run in the home given, or in one that goes away afterwards."""
    given = arguments()
    if any(given.sides):
        offer_both()
    if given.home is not None:
        return 0 if report(run(Farm(home=given.home), given)) else 1
    with tempfile.TemporaryDirectory(prefix="farm-aa-") as home:
        return 0 if report(run(Farm(home=Path(home)), given)) else 1


if __name__ == "__main__":
    sys.exit(main())
