#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How many changes does the farm's detector find, how late, and how often does it cry wolf? Simulated nights.

    python benchmarks/detector.py                seeds 100-119: the farm's detector, TorchBench's and Conbench's rules
    python benchmarks/detector.py --peers        asv and Otava besides, installed by pip into an environment apart
    python benchmarks/detector.py --seeds 0-9    the seeds that the detector was tuned on

A seed is a farm of five devices, 60 series each, over 60 nights; half of the series change once, by 2 to 20 %
(benchmarks/detection/nights.py says how they scatter). The detector is `farm.history` as it runs every night, its
re-runs simulated; a device spends at most `--budget` of its measuring time on them. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from detection import peers  # noqa: E402 - found by the line above
from detection.nights import SIZES, Farm, simulate  # noqa: E402
from detection.online import Alert, watch  # noqa: E402
from detection.score import Score, poisson_upper, score  # noqa: E402

from farm.accuracy import wilson  # noqa: E402

OURS = "Inferfarm"
PACKAGES = ("asv==0.6.6", "apache-otava==0.8.0")
#: What must be reached on seeds that nothing was tuned on: recall by size, false alarms in 1000, nights.
RECALL = {0.05: 0.90, 0.10: 0.97}
FALSE, DELAY = 0.2, 1.0


@dataclass
class Devices:
    """Device-wide shifts: how many began or ended, how many were told that night, and what was told besides."""

    moves: int = 0
    found: int = 0
    false: int = 0
    fixed_false: int = 0


@dataclass
class Result:
    """All of one seed, or of several."""

    scores: dict[str, Score] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    devices: Devices = field(default_factory=Devices)

    def add(self, other: Result) -> None:
        """Take another's counts in."""
        for name, found in other.scores.items():
            self.scores.setdefault(name, Score()).add(found)
            self.seeds[name] = self.seeds.get(name, 0) + other.seeds[name]
        for name in vars(self.devices):
            setattr(self.devices, name, getattr(self.devices, name) + getattr(other.devices, name))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds, default=seeds("100-119"), help="such as 0-9 (default 100-119)")
    parser.add_argument("--budget", type=float, default=0.5, help="of measuring time, for re-runs (default 0.5)")
    parser.add_argument("--peers", action="store_true", help="install asv and Otava apart, and ask them too")
    parser.add_argument("--peer-seeds", type=int, default=1, help="how many of the seeds they are asked (default 1)")
    parser.add_argument("--venv", type=Path, help="where they are, or are installed (default: a temporary folder)")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args(argv)


def seeds(text: str) -> list[int]:
    """`3` or `0-9`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def one_seed(seed: int, budget: float, python: str | None) -> Result:
    """The farm's detector and its peers over the nights of one seed."""
    farm = simulate(seed)
    values = {one.key: one.values for one in farm.series}
    told = {name: {key: peers.online(of, find) for key, of in values.items()} for name, find in peers.HERE.items()}
    if python:
        ran = subprocess.run(
            [python, str(ROOT / "benchmarks/detection/peers.py")],
            input=json.dumps(values), capture_output=True, text=True, check=True,
        )  # fmt: skip
        told |= json.loads(ran.stdout)
    course = watch(farm, budget)
    result = Result({OURS: score(farm, course.alerts, course.reruns)}, {OURS: 1}, devices(farm, course.moves))
    changed = {one.key for one in farm.series if one.change > 0}
    result.devices.fixed_false = sum(key in changed for key, _ in course.fixed)
    for name, by_key in told.items():
        alerts = [Alert(key, *alert) for key, found in by_key.items() for alert in found]
        result.scores[name], result.seeds[name] = score(farm, alerts), 1
    return result


def devices(farm: Farm, moves: Iterable[tuple[str, int]]) -> Devices:
    """How the device-level events compare with the shifts of devices."""
    told = set(moves)
    nights = len(farm.names)
    truth = {(name, at) for name, begin, end, _ in farm.shifts for at in (begin, end) if at < nights}
    return Devices(len(truth), len(truth & told), len(told - truth))


def environment(folder: Path) -> str:
    """Python with asv and Otava in `folder`, installed where they are not there yet."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True, capture_output=True)
    return str(python)


def table(result: Result) -> list[str]:
    """One row a detector, in Markdown."""
    sizes = " | ".join(f"{100 * size:g} %" for size in SIZES)
    lines = [
        f"| detector | seeds | precision | not false | {sizes} | delay | false per 1000 | at most | re-runs per 1000 |",
        "|---" * (8 + len(SIZES)) + "|",
    ]
    for name, found in sorted(result.scores.items(), key=lambda pair: pair[0] != OURS):
        hits, alerts = found.strict
        recall = " | ".join(f"{found.hits[size] / max(found.changes[size], 1):.2f}" for size in SIZES)
        per = 1000 / max(found.null_nights, 1)
        false = f"{per * found.null_false:.3f} | {per * poisson_upper(found.null_false):.3f}"
        lines.append(
            f"| {name} | {result.seeds[name]} | {hits / max(alerts, 1):.2f} | {1 - found.false / max(alerts, 1):.3f}"
            f" | {recall} | {found.delay:g} | {false} | {1000 * found.reruns / max(found.nights, 1):.0f} |"
        )
    return lines


def counts(result: Result) -> list[str]:
    """The confusion counts by series with Wilson's intervals, in Markdown."""
    lines = [
        "| detector | found | missed | null series alerted | null series quiet | recall | null series alerted |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in sorted(result.scores.items(), key=lambda pair: pair[0] != OURS):
        of = found.series
        recall, wrong = (wilson(of[a], of[a] + of[b]) for a, b in (("TP", "FN"), ("FP", "TN")))
        lines.append(
            f"| {name} | {of['TP']} | {of['FN']} | {of['FP']} | {of['TN']} | {_interval(recall)} | {_interval(wrong)} |"
        )
    return lines


def detail(result: Result) -> list[str]:
    """Recall of the farm's detector by kind of noise, in Markdown."""
    found = result.scores[OURS]
    names = sorted({name for name, _ in found.by_class})
    lines = ["| noise | " + " | ".join(f"{100 * size:g} %" for size in SIZES) + " |", "|---" * (1 + len(SIZES)) + "|"]
    for name in names:
        cells = (found.by_class[name, size] for size in SIZES)
        lines.append(f"| {name} | " + " | ".join(f"{hits} of {of}" for hits, of in cells) + " |")
    return lines


def missed(found: Score) -> list[str]:
    """The targets that were not reached."""
    wrong = []
    for size, target in RECALL.items():
        share = found.hits[size] / max(found.changes[size], 1)
        if share < target:
            wrong.append(f"recall {share:.3f} at {100 * size:g} %, {target} was asked for")
    rate = 1000 * found.null_false / max(found.null_nights, 1)
    if rate > FALSE:
        wrong.append(f"{rate:.3f} false alarms per 1000 null series-nights, {FALSE} at most were asked for")
    if not found.delay <= DELAY:
        wrong.append(f"a median delay of {found.delay:g} nights, {DELAY:g} at most was asked for")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where a target was missed."""
    given, began = arguments(argv), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        python = environment(given.venv or Path(folder)) if given.peers else None
        asked = given.seeds[: given.peer_seeds]
        work = [(seed, given.budget, python if seed in asked else None) for seed in given.seeds]
        total = Result()
        with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
            for result in pool.starmap(one_seed, work, chunksize=1):
                total.add(result)
    print(f"seeds {given.seeds[0]}-{given.seeds[-1]}, budget {given.budget:g}, {time.monotonic() - began:.0f} s\n")
    if not python:
        print("asv and Otava were not asked: `--peers` installs them into an environment of their own\n")
    for part in (table(total), counts(total), detail(total)):
        print("\n".join(part), end="\n\n")
    told = total.devices
    print(f"Device-wide shifts: {told.found} of {told.moves} told on the night that they begin or end,", end=" ")
    print(f"{told.false} device-level events besides.")
    print(f"Regressions called fixed that were still there: {told.fixed_false}.")
    wrong = missed(total.scores[OURS])
    print("\n".join(wrong) or "All targets are reached.")
    return 1 if wrong else 0


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


if __name__ == "__main__":
    sys.exit(main())
