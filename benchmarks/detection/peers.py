# SPDX-License-Identifier: Apache-2.0
"""What other projects would have said of the same nights. Also a script, run where asv and otava are installed.

Each gets one value a night and no re-run, and is asked after every night. The two without a library to call are written
down from their rules: TorchBench compares two nightlies and takes 7 % for a regression
(`userbenchmark/torch-nightly/regression_detector.py`); Conbench's look-back z-score, |z| > 5, is the distance to the
mean of the last 100 values over the standard deviation of their residuals, outliers left out, with a person who begins
the distribution anew at each alert (`conbench/entities/history.py`).

Whoever finds a step again on the next night has told it once.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

#: A step found again within this many nights of one that was told is the same.
SAME = 3
Step = tuple[int, bool]  # index of the first value after the change, whether the values rose
Finder = Callable[[Sequence[float], list[Step]], list[Step]]


def torchbench(values: Sequence[float], told: list[Step]) -> list[Step]:
    """Tonight against the night before."""
    if len(values) < 2:
        return []
    delta = values[-1] / values[-2] - 1
    return [(len(values) - 1, delta > 0)] if abs(delta) > 0.07 else []


def conbench(values: Sequence[float], told: list[Step]) -> list[Step]:
    """Tonight's z-score."""
    *before, tonight = values
    starts = {at for at, _ in told}
    outliers = _outliers(before)
    segment: list[float] = []
    residuals: list[float] = []
    total = 0.0
    for at, value in enumerate(before):
        if at in starts:
            segment, total = [], 0.0
        if at not in outliers:
            residuals.append(value - total / len(segment) if segment else 0.0)
            segment.append(value)
            total += value - (segment.pop(0) if len(segment) > 100 else 0.0)
    if not segment or len(residuals) < 2:
        return []
    spread = _deviation(residuals[-100:])
    away = tonight - total / len(segment)
    return [(len(before), away > 0)] if spread > 0 and abs(away) / spread > 5 else []


def _deviation(values: Sequence[float]) -> float:
    """As `statistics.stdev`, whose exact fractions take most of the benchmark's time."""
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def _outliers(values: Sequence[float]) -> set[int]:
    """Where the values jump by more than 5 trimmed standard deviations of their differences, and jump again next."""
    jumps = [b - a for a, b in pairwise(values)]
    if len(jumps) < 5:
        return set()
    low, *_, high = statistics.quantiles(jumps, n=20, method="inclusive")
    kept = [jump for jump in jumps if low <= jump <= high]
    if len(kept) < 2 or not (spread := _deviation(kept)):
        return set()
    centre = statistics.fmean(kept)
    large = {at + 1 for at, jump in enumerate(jumps) if abs(jump - centre) / spread > 5}
    return {at for at in large if at + 1 in large}


def asv(values: Sequence[float], told: list[Step]) -> list[Step]:
    """The steps of asv's L1-Potts fit that are larger than the 5 % which `asv publish` asks for."""
    from asv.step_detect import detect_steps

    steps = detect_steps(list(values))
    pairs = pairwise(steps)
    return [(after[0], after[2] > before[2]) for before, after in pairs if abs(after[2] / before[2] - 1) > 0.05]


def otava(values: Sequence[float], told: list[Step]) -> list[Step]:
    """Otava's change points with its defaults, p < 0.001."""
    return _otava(values, 0.001, 0.0)


def otava_strict(values: Sequence[float], told: list[Step]) -> list[Step]:
    """Otava's change points with p < 0.0001 and 2 % at least."""
    return _otava(values, 0.0001, 0.02)


def _otava(values: Sequence[float], p_value: float, magnitude: float) -> list[Step]:
    from otava.analysis import compute_change_points

    if len(values) < 4:
        return []
    found, _ = compute_change_points(list(values), max_pvalue=p_value, min_magnitude=magnitude)
    return [(int(point.index), bool(point.stats.mean_2 > point.stats.mean_1)) for point in found]


HERE: dict[str, Finder] = {"TorchBench, 7 %": torchbench, "Conbench, z > 5": conbench}
APART: dict[str, Finder] = {
    "asv, steps > 5 %": asv,
    "Otava, defaults": otava,
    "Otava, p 1e-4, 2 %": otava_strict,
}


def online(values: Sequence[float | None], find: Finder) -> list[tuple[int, int, bool]]:
    """Ask after every night: (night, first night of the new level, whether the values rose) for all that is new."""
    nights: list[int] = []
    known: list[float] = []
    told: list[Step] = []
    alerts = []
    for night, value in enumerate(values):
        if value is None or not math.isfinite(value):
            continue
        nights.append(night)
        known.append(value)
        for step in find(known, told):
            if not any(abs(nights[step[0]] - nights[at]) <= SAME and rose == step[1] for at, rose in told):
                told.append(step)
                alerts.append((night, nights[step[0]], step[1]))
    return alerts


def main() -> int:
    """JSON of all series' values on stdin, JSON of their alerts for every peer on stdout."""
    series = json.load(sys.stdin)
    found = {name: {key: online(values, find) for key, values in series.items()} for name, find in APART.items()}
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
