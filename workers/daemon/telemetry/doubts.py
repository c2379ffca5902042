# SPDX-License-Identifier: Apache-2.0
"""What in the telemetry of the timed stage speaks against a run, as flags with their evidence. Pure.

`info` is worth knowing, `suspect` keeps a run out of verdicts, `invalid` out of trends. Limits: `farm.thresholds`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from farm.contract.record import Flag
from farm.thresholds import Limits
from workers.daemon.nvml import POWER_CAP_REASON, THERMAL_REASONS, reason_names
from workers.daemon.telemetry.trace import Trace

#: /proc/stat counts in hundredths: a shorter span says nothing about shares.
_SPAN_S = 1.0


def host_doubts(stage: Trace, own_cpus: float | None, limits: Limits) -> Iterator[Flag]:
    """Who else was at work. `own_cpus`: how many processors the measured process itself kept at work, if known."""
    cpus, busy = stage.facts.get("cpus"), stage.rate("cpu_busy_s", _SPAN_S)
    if cpus and busy is not None and own_cpus is not None:
        foreign = busy - own_cpus - (stage.rate("own_cpu_s", _SPAN_S) or 0.0)
        if foreign > limits["foreign_cpu_share"] * cpus:
            level = "invalid" if foreign > limits["foreign_cpu_invalid_share"] * cpus else "suspect"
            evidence = f"other processes kept {foreign:.2f} of {cpus} processors at work in the timed stage"
            yield Flag("foreign_process", level, evidence)
    stolen = stage.rate("cpu_steal_s", _SPAN_S)
    if stolen is not None and stolen > limits["stolen_share"]:
        yield Flag("stolen_time", "suspect", f"the hypervisor took {stolen:.2f} processors' time in the timed stage")


def cpu_doubts(stage: Trace, run: Trace, limits: Limits) -> Iterator[Flag]:
    """Of a run on the processors: their clock, and whether they slowed themselves down (counted over the whole run)."""
    clocks = [statistics.fmean(sample["cpu_mhz"]) for sample in stage.samples if "cpu_mhz" in sample]
    yield from clock_drift(clocks, limits)
    throttles = run.delta("cpu_throttles")
    if throttles:
        evidence = f"the processor slowed itself down {throttles:g} times for its temperature during the run"
        yield Flag("throttled", "suspect", evidence)


def gpu_doubts(stage: Trace, seconds: float, limits: Limits) -> Iterator[Flag]:
    """Of a run on a GPU; `seconds` is what the stage took."""
    reasons = [int(bits) for bits in stage.values("reasons")]
    clocks = stage.values("sm_mhz")
    capped = share(reasons, POWER_CAP_REASON) > limits["power_capped_share"]
    yield from _throttled(stage, reasons, seconds, limits)
    if capped:
        evidence = f"the power limit held the GPU's clock back in {share(reasons, POWER_CAP_REASON):.0%} of the stage"
        yield Flag("power_capped", "info", evidence)
    yield from clock_drift(clocks, limits)
    yield from _low_clock(stage, clocks, capped, limits)
    most = max(stage.values("processes"), default=0)
    if most > 1:
        evidence = f"{most:.0f} processes had the GPU in use in the timed stage, one is the run's"
        yield Flag("foreign_process", "invalid", evidence)


def _low_clock(stage: Trace, clocks: Sequence[float], capped: bool, limits: Limits) -> Iterator[Flag]:
    default = stage.facts.get("clock_sm_default_mhz")
    normal = default or stage.facts.get("gpu_max_mhz")
    if clocks and normal and statistics.median(clocks) < limits["clock_low_share"] * normal:
        evidence = f"the median clock was {statistics.median(clocks):.0f} MHz, the device's own is {normal:.0f}"
        # A Jetson's clock follows its load: low is what light work gets there, and no fault.
        yield Flag("clock_low", "suspect" if default and not capped else "info", evidence)


def settings_doubts(run: Trace) -> Iterator[Flag]:
    """Clocks, limits and modes that were not the same at the end of the run as at its start."""
    changed = []
    for name in sorted({name for sample in run.samples for name in sample if name.startswith("set:")}):
        values = [sample[name] for sample in run.samples if name in sample]
        if any(value != values[0] for value in values):
            changed.append(f"{name[4:]} went from {values[0]} to {values[-1]}")
    if changed:
        yield Flag("settings_changed", "invalid", f"during the run {'; '.join(changed)}")


def telemetry_doubts(stage: Trace, seconds: float, expects_gpu: bool, limits: Limits) -> Iterator[Flag]:
    """Whether there is telemetry to judge the run by."""
    if stage.problem is not None:
        yield Flag("no_telemetry", "suspect", stage.problem)
    elif expects_gpu and not stage.facts.get("gpu"):
        yield Flag("no_telemetry", "suspect", "the GPU's management library did not answer during the run")
    promised = seconds / stage.period_s if stage.period_s else 0.0
    if promised >= limits["min_samples"] and len(stage.samples) < limits["telemetry_share"] * promised:
        evidence = f"{len(stage.samples)} samples of the {promised:.0f} that the rate promises for the timed stage"
        yield Flag("telemetry_sparse", "info", evidence)


def wait_doubts(wait_share: float | None, seconds: float, limits: Limits) -> Iterator[Flag]:
    """The measured process could run and had to wait: others had its processors, or it has more threads than those."""
    # Involuntary switches would not do: a process with a thread on every processor has them on a quiet host, too.
    if wait_share is not None and seconds >= 1 and wait_share > limits["cpu_wait_share"]:
        evidence = f"its threads waited for a processor in {wait_share:.1%} of the time in which they could run"
        yield Flag("host_busy", "suspect", evidence)


def clock_drift(clocks: Sequence[float], limits: Limits) -> Iterator[Flag]:
    """Last third of the stage against its first."""
    third = len(clocks) // 3
    if third < 2:
        return
    first, last = statistics.median(clocks[:third]), statistics.median(clocks[-third:])
    if first > 0 and abs(last / first - 1) > limits["clock_drift"]:
        evidence = f"the median clock went from {first:.0f} to {last:.0f} MHz in the timed stage"
        yield Flag("clock_drift", "suspect", evidence)


def share(reasons: Sequence[int], bits: int) -> float:
    """Of the samples, how many had one of `bits` set."""
    return sum(bool(found & bits) for found in reasons) / len(reasons) if reasons else 0.0


def _throttled(stage: Trace, reasons: Sequence[int], seconds: float, limits: Limits) -> Iterator[Flag]:
    """By the samples of the reasons, and by the board's own account of the time, which misses no short event."""
    # One lone sample is the moment in which a board changes its P-state.
    lone = sum(bool(bits & THERMAL_REASONS) for bits in reasons) == 1
    sampled = 0.0 if lone else share(reasons, THERMAL_REASONS)
    counted = (stage.delta("violation_thermal_ns") or 0.0) / 1e9 / seconds if seconds > 0 else 0.0
    worst = max(sampled, min(counted, 1.0))  # the counter is read up to a tick after the stage's end
    if worst <= limits["thermal_share"]:
        return
    names = sorted({name for bits in reasons for name in reason_names(bits & THERMAL_REASONS)})
    level = "invalid" if worst > limits["thermal_invalid_share"] else "suspect"
    why = ", ".join(names) or "by its own account of thermal violations"
    yield Flag("throttled", level, f"the GPU slowed itself down in {worst:.0%} of the stage: {why}")
