# SPDX-License-Identifier: Apache-2.0
"""From several processes of one thing to one estimate, with an interval that says what it covers. Pure.

Iterations of one process share its memory layout, threads and clocks: they are no replicates of one another, processes
are (Kalibera and Jones, 2013; Barrett et al., 2017). So the estimate of a time is the median of the processes' medians.
Its interval is

    from 5 processes on   Student's t on the logarithms of the medians, at 95 %
    of 2 to 4             the range of the medians. Each lies below the true median with probability 1/2, so the range
                          covers it with 1 - 2 * 0.5^n: 50 %, 75 %, 87.5 %. That is what `confidence` says

t speaks of the mean of the logarithms, which skewed processes put beside the median: where that leaves the estimate
outside, the interval is widened to hold it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from farm.contract.metrics import METRICS
from farm.contract.record import Flag, Interval
from farm.student import quantile
from farm.thresholds import DEFAULTS, Limits

CONFIDENCE = 0.95

#: Below this, t would rest on a standard deviation that is hardly known: at 3 processes +-t is 4.3 standard errors.
FEWEST_FOR_T = 5

#: What has an interval between processes. One process has none of a throughput: it has one wall clock.
ESTIMATED = ("latency_ms", "device_latency_ms", "throughput_per_s", "energy_per_input_j")

#: Of what a peak is the largest, of these too; of a smallest sample the smallest.
_LARGEST = frozenset({"latency_max_ms", "memory_available_drop_bytes", "cpu_temperature_c", "gpu_temperature_c"})
_SMALLEST = frozenset({"latency_min_ms"})
#: Of how far outputs are from the reference the worst: a median would hide the one process that computes nonsense.
_COMPARED = ("mismatch_", "relative_l2_error", "max_abs_error", "mean_abs_error", "top1_agreement", "cosine")

#: Reasons that are told in full of one flag: ten processes would make a page of it.
_MOST_TOLD = 2

Metrics = Mapping[str, float | None]


def scope(count: int, what: str = "processes") -> str:
    """What an interval over so many covers: `between 5 processes`."""
    return f"between {count} {what}"


def coverage_of_range(count: int) -> float:
    """How often the range of `count` independent values holds the median of what they were drawn from."""
    return max(0.0, 1 - 2 * 0.5**count)


def between(values: Sequence[float], what: str = "processes") -> Interval | None:
    """The interval of the median of `values`, one for each process (or build); None for fewer than two."""
    count = len(values)
    if count < 2 or not all(math.isfinite(value) for value in values):
        return None
    if count < FEWEST_FOR_T or min(values) <= 0:
        covered = coverage_of_range(count)
        return Interval(min(values), max(values), covered, f"range of {count} medians", scope(count, what))
    low, high = _t_interval(values)
    estimate = statistics.median(values)
    method = f"t on the logarithms of {count} medians"
    return Interval(min(low, estimate), max(high, estimate), CONFIDENCE, method, scope(count, what))


def relative_half_width(values: Sequence[float]) -> float:
    """Half the width of the t-interval over the median; infinite where there is none."""
    if len(values) < 2 or min(values) <= 0 or not all(math.isfinite(value) for value in values):
        return math.inf
    low, high = _t_interval(values)
    return (high - low) / 2 / statistics.median(values)


def over(
    metrics: Sequence[Metrics], withheld: Sequence[Mapping[str, str]]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The metrics over all processes, and why some are withheld. `metrics` and `withheld` have one entry for each.

    The median of those that have a value; of peaks and other extremes the extreme; of distances from the reference the
    worst. What any process withholds (a percentile that its samples cannot bound) is withheld.
    """
    reasons = {name: told(_reasons(withheld, name), len(withheld)) for name in _names(withheld) if _is_metric(name)}
    found: dict[str, float | None] = {}
    for name in _names(metrics):
        known = [value for of in metrics if (value := of.get(name)) is not None]
        found[name] = _one(name, known) if known and name not in reasons else None
    return found, reasons


def intervals(metrics: Sequence[Metrics], withheld: Mapping[str, str]) -> dict[str, Interval]:
    """The intervals between processes of what every process has, by metric."""
    found: dict[str, Interval] = {}
    for name in ESTIMATED:
        known = [value for of in metrics if (value := of.get(name)) is not None]
        made = between(known) if len(known) == len(metrics) and name not in withheld else None
        if made is not None:
            found[name] = made
    return found


def disagreement(medians: Sequence[float], own: Sequence[Interval | None], limits: Limits = DEFAULTS) -> Flag | None:
    """A doubt about medians that scatter far more than the processes' own intervals allow.

    `own` are the intervals within each process. That processes differ by somewhat more is normal, and no doubt.
    """
    if len(medians) < 2 or min(medians) <= 0:
        return None
    spread = statistics.stdev(math.log(value) for value in medians)
    widths = [(i.high - i.low) / 2 / m for i, m in zip(own, medians, strict=True) if i is not None]
    width = statistics.median(widths) if widths else 0.0
    share, factor = limits["process_sd"], limits["process_sd_over_interval"]
    if spread <= share or spread <= factor * width:
        return None
    times = f", {spread / width:.0f} times the half width of their own intervals (limit {factor:g})" if width else ""
    return Flag(
        "processes_disagree",
        "suspect",
        f"medians of {len(medians)} processes from {min(medians):.4g} to {max(medians):.4g} ms: their standard "
        f"deviation is {100 * spread:.1f} % (limit {100 * share:g} %){times}",
    )


def joint_flags(flags: Sequence[Sequence[Flag]]) -> list[Flag]:
    """The flags of all processes, each name and level once, with the processes that raised it in the evidence."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for index, of in enumerate(flags, 1):
        for flag in of:
            found.setdefault((flag.name, flag.level), []).append((index, flag.evidence))
    return [Flag(name, level, told(said, len(flags))) for (name, level), said in found.items()]


def told(said: Iterable[tuple[int, str]], count: int) -> str:
    """`process 3 of 5: why; processes 1, 2 of 5: another reason`; what all say is said once.

    Of more than two reasons the rest is counted: each process keeps its own.
    """
    by_text: dict[str, list[int]] = {}
    for index, text in said:
        by_text.setdefault(text, []).append(index)
    parts = [f"{_who(indexes, count)}: {text}" for text, indexes in by_text.items()]
    others = sorted({index for indexes in list(by_text.values())[_MOST_TOLD:] for index in indexes})
    return "; ".join(parts[:_MOST_TOLD] + ([f"likewise {_who(others, count)}"] if others else []))


def _who(indexes: Sequence[int], count: int) -> str:
    if len(indexes) == count > 1:
        return f"all {count} processes"
    return f"process{'es' if len(indexes) > 1 else ''} {', '.join(map(str, indexes))} of {count}"


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    logs = [math.log(value) for value in values]
    centre = statistics.fmean(logs)
    reach = quantile(CONFIDENCE, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    # Of two medians far apart +-t reaches beyond what a double can be.
    return math.exp(max(centre - reach, -700.0)), math.exp(min(centre + reach, 700.0))


def _one(name: str, known: Sequence[float]) -> float:
    if "_peak_" in name or name in _LARGEST:
        return max(known)
    if name in _SMALLEST:
        return min(known)
    if name.startswith(_COMPARED):
        metric = METRICS.get(name)
        return min(known) if metric is not None and metric.better == "higher" else max(known)
    return statistics.median(known)


def _names(of: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for each in of for name in each))


def _is_metric(name: str) -> bool:
    return not name.startswith("interval:")


def _reasons(withheld: Sequence[Mapping[str, str]], name: str) -> list[tuple[int, str]]:
    return [(index, of[name]) for index, of in enumerate(withheld, 1) if name in of]
