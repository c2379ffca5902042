# SPDX-License-Identifier: Apache-2.0
"""What a run's telemetry says about its timed stage: metrics by their names, doubts, what had to be withheld. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from farm.contract.record import Flag
from farm.contract.run import StageTime
from farm.thresholds import DEFAULTS, Limits
from workers.daemon.nvml import THERMAL_REASONS
from workers.daemon.telemetry import doubts
from workers.daemon.telemetry.energy import Energy, stage_energy, unwrap
from workers.daemon.telemetry.trace import Point, Trace

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Telemetry:
    """For one record. `facts` go into its provenance: they do not change from run to run of one device."""

    metrics: Metrics = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)
    withheld: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def summarise(
    run: Trace,
    stage: StageTime | None,
    *,
    kind: str,
    inputs: int,
    own_cpus: float | None = None,
    wait_share: float | None = None,
    limits: Limits = DEFAULTS,
    energy_pass: StageTime | None = None,
) -> Telemetry:
    """Join a trace to the timed stage by CLOCK_MONOTONIC; power and energy to the energy pass, where there was one.

    Args:
        run: the samples of the whole run.
        stage: the timed stage; without it only what is about the whole run is told.
        kind: of the device: `cpu`, `gpu` or `soc`.
        inputs: model inputs processed in the energy pass, else in the stage, over which its energy is shared out.
        own_cpus: how many processors the measured process itself kept at work in the stage, if known.
        wait_share: of the time in which its threads could run in the stage, how much they waited for a processor.
        limits: where doubts begin.
        energy_pass: the stage of steady load, where the protocol has one.
    """
    metrics = _whole_run(run, kind)
    if stage is None:
        return Telemetry(metrics)
    inside, seconds = run.inside(stage), (stage.end_ns - stage.start_ns) / 1e9
    metrics |= _of_host(inside)
    flags = [
        *doubts.telemetry_doubts(inside, seconds, kind == "gpu", limits),
        *doubts.settings_doubts(run),
        *doubts.host_doubts(inside, own_cpus, limits),
        *doubts.wait_doubts(wait_share, seconds, limits),
    ]
    if kind == "cpu":
        flags += doubts.cpu_doubts(inside, run, limits)
    else:
        metrics |= _of_gpu(inside) if kind == "gpu" else _of_soc(inside)
        # The stage's borders were read up to a tick late, and its counters with them.
        late = run.inside(StageTime(stage.name, stage.start_ns, stage.end_ns + int(2e9 * (run.period_s or 0.0))))
        flags += doubts.gpu_doubts(_with_violations(inside, late), seconds, limits)
    if energy_pass is not None:
        metrics |= _power(run.inside(energy_pass), kind)
    if inputs <= 0:
        return Telemetry(metrics, flags, {}, _facts(run, None))
    energy = _energy(run, energy_pass or stage, kind, limits)
    metrics["energy_per_input_j"] = None if energy.joules is None else energy.joules / inputs
    metrics["energy_trace_per_input_j"] = None if energy.trace_joules is None else energy.trace_joules / inputs
    flags += [energy.flag] if energy.flag else []
    withheld = {"energy_per_input_j": energy.withheld} if energy.withheld else {}
    return Telemetry(metrics, flags, withheld, _facts(run, energy.source, (energy_pass or stage).name))


def _with_violations(inside: Trace, late: Trace) -> Trace:
    """`inside`, with the counters of the board's own account as they stood just after the stage."""
    more = [s for s in late.samples[len(inside.samples) :] if "violation_thermal_ns" in s]
    extra = [{"ns": s["ns"], "violation_thermal_ns": s["violation_thermal_ns"]} for s in more[:1]]
    return Trace(inside.facts, inside.period_s, inside.cost_us, [*inside.samples, *extra], inside.problem)


def _whole_run(run: Trace, kind: str) -> Metrics:
    """Peaks of memory, over the whole run: what a run needs is needed while it loads, too."""
    if kind == "gpu" and run.facts.get("gpu"):
        names = {"gpu_memory_peak_bytes": "mem_used", "gpu_memory_v2_peak_bytes": "mem2_used"}
        return {metric: max(run.values(name), default=None) for metric, name in names.items()}
    available = run.values("memory_available") if kind == "soc" else []
    return {"memory_available_drop_bytes": available[0] - min(available)} if available else {}


def _of_host(stage: Trace) -> Metrics:
    return {
        "cpu_frequency_mhz": _mean([statistics.fmean(s["cpu_mhz"]) for s in stage.samples if "cpu_mhz" in s]),
        "cpu_temperature_c": max((max(s["cpu_c"]) for s in stage.samples if "cpu_c" in s), default=None),
        "host_switches_per_s": stage.rate("context_switches", 0.5),
        "telemetry_cpu_share": stage.rate("own_cpu_s", 0.5),
    }


def _of_gpu(stage: Trace) -> Metrics:
    reasons = [int(bits) for bits in stage.values("reasons")]
    return {
        **_of_any_gpu(stage),
        "gpu_clock_memory_mhz": _median(stage.values("mem_mhz")),
        **_power(stage, "gpu"),
        "gpu_throttled_share": doubts.share(reasons, THERMAL_REASONS) if reasons else None,
    }


def _of_soc(stage: Trace) -> Metrics:
    return {**_of_any_gpu(stage), **_power(stage, "soc")}


def _power(stage: Trace, kind: str) -> Metrics:
    if kind == "soc":
        return {"soc_power_w": _mean(stage.values("board_w"))}
    if kind != "gpu":
        return {}
    return {
        "gpu_power_w": _mean([watt for _, watt in _gpu_power(stage)]),
        "gpu_power_average_w": _mean(stage.values("power_average_w")),
    }


def _of_any_gpu(stage: Trace) -> Metrics:
    return {
        "gpu_clock_sm_mhz": _median(stage.values("sm_mhz")),
        "gpu_temperature_c": max(stage.values("gpu_c"), default=None),
        "gpu_utilisation": _mean(stage.values("util")),
    }


def _gpu_power(trace: Trace) -> list[Point]:
    """Power at an instant where the board tells it; else what NVML's older function says, whatever that averages."""
    return trace.points("power_instant_w") or trace.points("power_usage_w")


def _energy(run: Trace, stage: StageTime, kind: str, limits: Limits) -> Energy:
    """Of the device that the run is on: on a GPU, the processor's share is not the run's alone."""
    if kind == "gpu":
        counter = [(ns, millijoule / 1e3) for ns, millijoule in run.points("energy_mj")]
        instant = bool(run.values("power_instant_w"))
        name = "power at instants (NVML)" if instant else "power usage (NVML)"
        return stage_energy(counter, _gpu_power(run), stage, ("energy counter (NVML)", name), limits)
    if kind == "soc":
        rail = f"power of {run.facts.get('power_rail')} (INA3221)"
        return stage_energy([], run.points("board_w"), stage, ("", rail), limits)
    packages = [(s["ns"], s["cpu_energy_uj"]) for s in run.samples if "cpu_energy_uj" in s]
    counter = unwrap(packages, run.facts.get("cpu_energy_range_uj", []))
    return stage_energy(counter, [], stage, ("package energy counters (RAPL)", ""), limits)


def _facts(run: Trace, energy_source: str | None, energy_pass: str | None = None) -> dict[str, Any]:
    found = {
        "rate_hz": None if not run.period_s else round(1 / run.period_s, 3),
        "channels": sorted(run.cost_us),
        "energy_source": energy_source,
        "energy_pass": energy_pass if energy_source else None,
        "power_rail": run.facts.get("power_rail"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _mean(values: Sequence[float]) -> float | None:
    return _of(statistics.fmean, values)


def _median(values: Sequence[float]) -> float | None:
    return _of(statistics.median, values)


def _of(function: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return function(values) if values else None
