# SPDX-License-Identifier: Apache-2.0
"""The one table of where a doubt about a run begins, and who says so. Pure, standard library.

A laptop and a board in a data centre differ: settings may override any limit for a kind, a class or one device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farm.contract.device import DeviceInfo

#: Limits by their names in `THRESHOLDS`.
Limits = Mapping[str, float]


@dataclass(frozen=True)
class Threshold:
    """Where a doubt begins, in which unit, and who says so."""

    limit: float
    unit: str
    source: str


#: "Ours": no source found, chosen and open to change.
THRESHOLDS = {
    # The samples themselves.
    "min_samples": Threshold(10, "samples", "nvbench's minimum of samples"),
    "rcv": Threshold(0.025, "share", "trtexec warns of an unstable result above a coefficient of variation of 2.5 %"),
    "iqr_over_median": Threshold(0.10, "share", "torch.utils.benchmark warns above an IQR of 10 % of the median"),
    "window_rate_spread": Threshold(
        0.10, "share", "Triton's perf_analyzer, of its last windows: largest rate over least"
    ),
    "interpreter_threads": Threshold(
        0.9, "threads", "ours: handing work over at once; one interpreter runs one thread at a time"
    ),
    "median_over_timer": Threshold(100, "times", "ours: the clock may account for 1 % of the median at most"),
    # The warm-up.
    "slow_start": Threshold(
        5, "times", "ours: warm-up over the earliest end; noise of up to 10 % alone takes 4.4 in 1 of 100"
    ),
    # Processes of one point against one another.
    "process_sd": Threshold(
        0.05, "share", "ours: of the logarithms of the medians; twice what the samples of one process may scatter"
    ),
    "process_sd_over_interval": Threshold(
        3,
        "times",
        "ours: of the half width of their own intervals, which would be 2 standard errors of a steady process",
    ),
    # The host.
    "busy_load_per_cpu": Threshold(0.5, "load per processor", "ours"),
    "busy_share": Threshold(0.25, "share", "ours: the load average still shows work that ended a minute ago"),
    "low_memory_share": Threshold(0.10, "share", "ours"),
    "foreign_cpu_share": Threshold(0.10, "share", "ours: suspect above it"),
    "foreign_cpu_invalid_share": Threshold(0.50, "share", "ours: invalid above it"),
    "stolen_share": Threshold(0.02, "processors", "ours"),
    "cpu_wait_share": Threshold(
        0.05,
        "share",
        "benchmarks/host_noise.py, two processors: up to 0.02 on a quiet host, from 0.31 on a crowded one",
    ),
    # The device.
    "thermal_share": Threshold(
        0.01, "share", "NVIDIA's DCGM notes that a board may report a slowdown while it changes its P-state"
    ),
    "thermal_invalid_share": Threshold(0.10, "share", "ours: invalid above it"),
    "power_capped_share": Threshold(0.20, "share", "ours: the power limit is normal at full load, so no doubt"),
    "clock_low_share": Threshold(0.75, "share", "nvbench discards samples below 75 % of the default SM clock"),
    "clock_drift": Threshold(0.03, "share", "ours: last third of the timed stage against the first"),
    # Energy and the telemetry itself.
    "energy_min_s": Threshold(5, "s", "Yang, Adamek and Armour, SC'24: 5 s or more, or a sensor's window misleads"),
    "energy_disagreement": Threshold(0.10, "share", "ours: twice the gain error of a board's sensor in the same paper"),
    "telemetry_share": Threshold(0.5, "share", "ours: of the samples that the rate promises for the timed stage"),
    # The canary.
    "canary_min_points": Threshold(5, "canaries", "ours: fewer say too little of a device's own spread"),
    "canary_z": Threshold(3, "times", "Shewhart's limits: three standard deviations"),
    "canary_shift": Threshold(0.03, "share", "ours: a smaller change of a device is not worth a mark"),
    "canary_floor": Threshold(0.002, "share", "ours: the least spread between canaries that is believed"),
    "canary_pool": Threshold(0.01, "share", "ours: the spread assumed until other devices of the class show theirs"),
    # What is found across records (docs/findings.md).
    "assumed_process_sd": Threshold(
        0.025, "share", "ours: scatter assumed between processes where too few show it; half of process_sd"
    ),
    "stronger_ratio": Threshold(1.10, "times", "ours: a device class this much faster in PyTorch fp32 is the stronger"),
    "fallback_share": Threshold(0.05, "share", "ours: of the operators outside of the engine asked for"),
    # Nights side by side: which change of a series is one. docs/regressions.md.
    "history_points": Threshold(20, "nights", "ours: what a night is judged by; older ones tell of another machine"),
    "history_min_points": Threshold(5, "nights", "ours: with fewer, the series' own spread is not believed"),
    "history_fewest_points": Threshold(3, "nights", "ours: with fewer, a night is not judged"),
    "history_z": Threshold(3, "times", "Shewhart's limits: three standard deviations"),
    "history_pool_weight": Threshold(10, "nights", "ours: how many nights the spread of the class counts for"),
    "history_pool": Threshold(0.01, "share", "ours: the spread assumed until other series of the class show theirs"),
    "history_floor": Threshold(0.002, "share", "ours: the least spread between nights that is believed"),
    "history_slow_points": Threshold(12, "nights", "Perfherder asks for 12 values before a change"),
    "history_slow_window": Threshold(40, "nights", "ours: how far back a slow change is looked for"),
    "history_slow_right": Threshold(3, "nights", "ours: the fewest nights after a slow change"),
    "history_slow_t": Threshold(
        3, "times", "ours, below Perfherder's 7: a measurement settles it; chosen with benchmarks/detector.py"
    ),
    "history_quiet": Threshold(7, "nights", "ours: no slow change is looked for after a measurement that found none"),
    "history_common_share": Threshold(0.3, "share", "ours: of a device's series, moved alike, it is the device"),
    "history_common_z": Threshold(2, "times", "ours: what counts as moved there"),
    "history_common_fewest": Threshold(3, "series", "ours: fewer that moved alike say nothing of the device"),
    "history_queue_q": Threshold(0.05, "share", "Benjamini and Hochberg 1995: false ones among what is measured again"),
    "history_at_once": Threshold(0.10, "share", "ours: from here on one measurement is enough, else a second night's"),
    "history_tries": Threshold(3, "nights", "ours: measurements that may leave a change open before it is let go"),
    "history_back": Threshold(3, "nights", "ours: back in the band for that long, a regression is fixed"),
    "history_processes": Threshold(5, "processes", "a side: the fewest that reach 99 %, 1 - 2 / C(10, 5) = 99.2 %"),
    "history_most_processes": Threshold(15, "processes", "ours: a side, while the answer is open"),
    "history_time": Threshold(0.02, "share", "Perfherder alerts from 2 % on"),
    "history_memory": Threshold(0.01, "share", "BenchmarkTools: the tolerance of memory is 1 %"),
    "history_memory_bytes": Threshold(8 * 2**20, "bytes", "ours: allocators give memory out in blocks of megabytes"),
    "history_build": Threshold(0.20, "share", "ours: the builder's own timings vary, and the build time with them"),
    "history_engine": Threshold(0.01, "share", "ours: as memory; other tactics need other weights beside"),
    "history_engine_bytes": Threshold(64 * 2**10, "bytes", "ours: a smaller difference is a header"),
    "history_accuracy": Threshold(0.01, "share", "MLPerf Inference: 99 % of the reference's quality"),
    "history_mismatch_pct": Threshold(1, "%", "ours: the band around a series' own mismatch"),
    "history_fallback": Threshold(0.01, "share", "ours: one operator of a hundred"),
}

DEFAULTS: Limits = {name: threshold.limit for name, threshold in THRESHOLDS.items()}


def limits_for(overrides: Mapping[str, Limits], device: DeviceInfo) -> dict[str, float]:
    """All limits for one device: the table's, then those for `all`, its kind, its class and itself."""
    found = dict(DEFAULTS)
    for key in ("all", device.kind, device.device_class, device.device_id):
        found |= overrides.get(key, {})
    return found


def unknown_names(overrides: Mapping[str, Limits]) -> list[str]:
    """The names in `overrides` that no threshold has, as `KEY.NAME`."""
    return [f"{key}.{name}" for key, limits in overrides.items() for name in limits if name not in THRESHOLDS]
