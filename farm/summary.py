# SPDX-License-Identifier: Apache-2.0
"""The numbers of one run's latency samples: pure, standard library, no sample left out.

Quantiles and the median's interval are those of `farm.contract.quantiles`. The interval speaks of this run alone, and
says nothing about what another process, build or day would give. Throughput has no interval: a run has one wall clock,
and batch size over the interval of the median would be that of another quantity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from farm.contract.metrics import PERCENTILE_MIN_SAMPLES
from farm.contract.quantiles import CONFIDENCE, INTERVAL_MIN_SAMPLES, median_ranks, quantile
from farm.contract.record import Flag, Interval
from farm.thresholds import DEFAULTS, Limits

#: Makes the median absolute deviation of a normal distribution its standard deviation.
MAD_SCALE = 1.4826

WITHIN_RUN = "within this run"
_NS_PER_MS = 1e6
_NS_PER_S = 1e9


@dataclass(frozen=True)
class Summary:
    """What a record keeps of one run's samples, named as in `farm.contract.metrics`.

    A metric that could not be had is None, and `withheld` says why. `withheld` has `interval:latency_ms` where the
    median has no interval.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)


def summarise(
    latencies_ns: Sequence[int],
    *,
    batch_size: int,
    wall_ns: int,
    timer_overhead_ns: float | None = None,
    timer_resolution_ns: float | None = None,
    limits: Limits = DEFAULTS,
) -> Summary:
    """Summarise the latency samples of one timed stage.

    Args:
        latencies_ns: every sample, in nanoseconds, in any order.
        batch_size: inputs per inference.
        wall_ns: wall clock of the whole timed stage, in nanoseconds. Throughput is batch size times samples over it.
        timer_overhead_ns: what reading the clock twice costs.
        timer_resolution_ns: the clock's smallest step.
        limits: where doubts begin, by the names of `farm.thresholds`.

    Raises:
        ValueError: a negative latency or wall clock, or a batch size below 1.
    """
    _check(latencies_ns, batch_size, wall_ns)
    samples = sorted(latencies_ns)
    metrics, withheld = _metrics(samples)
    metrics["sample_count"] = float(len(samples))
    metrics["throughput_per_s"] = _throughput(len(samples), batch_size, wall_ns, withheld)
    interval = _median_interval(samples, withheld)
    return Summary(
        metrics=metrics,
        intervals={"latency_ms": interval} if interval else {},
        withheld=withheld,
        flags=list(_flags(samples, metrics, timer_overhead_ns, timer_resolution_ns, limits)),
    )


def median_ms(samples_ns: Sequence[int]) -> float:
    """The median in milliseconds. `samples_ns` must not be empty."""
    return quantile(sorted(samples_ns), 0.5) / _NS_PER_MS


def _check(latencies_ns: Sequence[int], batch_size: int, wall_ns: int) -> None:
    if batch_size < 1:
        raise ValueError(f"a batch size of {batch_size} is none: 1 is the least")
    if wall_ns < 0:
        raise ValueError(f"a wall clock of {wall_ns} ns runs backwards")
    if latencies_ns and min(latencies_ns) < 0:
        raise ValueError(f"a latency of {min(latencies_ns)} ns runs backwards")


def _metrics(ordered: Sequence[int]) -> tuple[dict[str, float | None], dict[str, str]]:
    """All latency metrics, and the reasons for those that are None."""
    count = len(ordered)
    metrics: dict[str, float | None] = {}
    withheld: dict[str, str] = {}

    def put(name: str, needed: int, value_ns: float) -> None:
        metrics[name] = value_ns / _NS_PER_MS if count >= needed else None
        if count < needed:
            withheld[name] = _needs(needed, count)

    known = ordered or [0]
    put("latency_ms", 1, quantile(known, 0.5))
    put("latency_mean_ms", 1, sum(known) / len(known))
    put("latency_min_ms", 1, known[0])
    put("latency_max_ms", 1, known[-1])
    put("latency_sd_ms", 2, _standard_deviation(known))
    put("latency_p25_ms", 1, quantile(known, 0.25))
    put("latency_p75_ms", 1, quantile(known, 0.75))
    for percent, needed in PERCENTILE_MIN_SAMPLES.items():
        put(f"latency_p{percent}_ms", needed, quantile(known, percent / 100))
    metrics["latency_rcv"] = _robust_cv(ordered, withheld)
    return metrics, withheld


def _standard_deviation(samples: Sequence[int]) -> float:
    """The sample standard deviation, from whole numbers: nothing cancels. 0 for one sample."""
    count, total = len(samples), sum(samples)
    squares = count * sum(x * x for x in samples) - total * total
    return math.sqrt(squares / (count * (count - 1))) if count > 1 else 0.0


def _robust_cv(ordered: Sequence[int], withheld: dict[str, str]) -> float | None:
    """1.4826 x the median absolute deviation, over the median."""
    if not ordered:
        withheld["latency_rcv"] = _needs(1, 0)
        return None
    median = quantile(ordered, 0.5)
    if median == 0:
        withheld["latency_rcv"] = "the median is 0"
        return None
    # Twice the deviation is a whole number, as twice the median is.
    doubled = sorted(abs(2 * x - int(2 * median)) for x in ordered)
    return MAD_SCALE * quantile(doubled, 0.5) / 2 / median


def _throughput(count: int, batch_size: int, wall_ns: int, withheld: dict[str, str]) -> float | None:
    if count == 0 or wall_ns == 0:
        withheld["throughput_per_s"] = "the wall clock of the timed stage is 0" if count else _needs(1, 0)
        return None
    return batch_size * count * _NS_PER_S / wall_ns


def _median_interval(ordered: Sequence[int], withheld: dict[str, str]) -> Interval | None:
    ranks = median_ranks(len(ordered))
    if ranks is None:
        withheld["interval:latency_ms"] = _needs(INTERVAL_MIN_SAMPLES, len(ordered))
        return None
    low, high, covered = ranks
    return Interval(
        low=ordered[low - 1] / _NS_PER_MS,
        high=ordered[high - 1] / _NS_PER_MS,
        confidence=CONFIDENCE,
        method=f"order statistics {low} and {high} of {len(ordered)} (binomial, covers {100 * covered:.1f} %)",
        scope=WITHIN_RUN,
    )


def _flags(
    ordered: Sequence[int],
    metrics: dict[str, float | None],
    overhead_ns: float | None,
    resolution_ns: float | None,
    limits: Limits,
) -> Iterator[Flag]:
    fewest = limits["min_samples"]
    if len(ordered) < fewest:
        yield Flag("too_few_samples", "suspect", f"{len(ordered)} samples, {fewest:.0f} is the least")
    if not ordered:
        return
    median = quantile(ordered, 0.5)
    spread = list(_spread(ordered, median, metrics["latency_rcv"], limits))
    if spread:
        yield Flag("unstable", "suspect", "; ".join(spread))
    coarse = list(_coarse(median, {"overhead": overhead_ns, "resolution": resolution_ns}, limits))
    if coarse:
        yield Flag("timer_too_coarse", "suspect", "; ".join(coarse))


def _spread(ordered: Sequence[int], median_ns: float, rcv: float | None, limits: Limits) -> Iterator[str]:
    limit = limits["rcv"]
    if rcv is not None and rcv > limit:
        yield f"robust coefficient of variation {100 * rcv:.2f} %, limit {100 * limit:g} %"
    limit = limits["iqr_over_median"]
    ratio = (quantile(ordered, 0.75) - quantile(ordered, 0.25)) / median_ns if median_ns else 0.0
    if ratio > limit:
        yield f"interquartile range {100 * ratio:.1f} % of the median, limit {100 * limit:g} %"


def _coarse(median_ns: float, timer_ns: dict[str, float | None], limits: Limits) -> Iterator[str]:
    factor = limits["median_over_timer"]
    for what, value_ns in timer_ns.items():
        if value_ns is not None and median_ns < factor * value_ns:
            yield f"the median is {median_ns:.0f} ns, under {factor:.0f} times the clock's {what} of {value_ns:.0f} ns"


def _needs(needed: int, has: int) -> str:
    return f"needs {needed} samples, has {has}"
