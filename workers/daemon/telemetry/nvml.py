# SPDX-License-Identifier: Apache-2.0
"""What a GPU did while a run was measured: clock, power, temperature, memory, energy, and why its clock was held back.

Sampled ten times a second by a thread of the daemon and joined to the `measure` stage by CLOCK_MONOTONIC. The board
renews its values every 100 to 200 ms. The energy counter and the process list cost milliseconds: read less often.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from farm.contract.record import Flag
from farm.contract.run import StageTime
from workers.daemon.nvml import POWER_CAP_REASON, THERMAL_REASONS, Gpu, reason_names
from workers.daemon.telemetry.cpu import ENERGY_MIN_S, Telemetry, drift_flag, interpolate

RATE_HZ = 10.0
#: Every how many samples the costly functions are asked.
_ENERGY_EVERY = 5
_PROCESSES_EVERY = 10

#: A board says so now and then while it changes its state: more than this share of the stage is no such moment.
_THROTTLED_SHARE = 0.01


@dataclass(frozen=True)
class GpuSample:
    """One look at a GPU. `energy_mj` and `processes` are None in most samples."""

    monotonic_ns: int
    clock_sm_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    utilisation: float | None = None
    memory_used_bytes: int | None = None
    event_reasons: int | None = None
    energy_mj: float | None = None
    processes: int | None = None


class GpuSampler:
    """Samples from entry to exit of its `with` block."""

    def __init__(self, gpu: Gpu, rate_hz: float = RATE_HZ) -> None:
        self._gpu = gpu
        self._period_s = 1 / rate_hz
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="gpu", daemon=True)
        self.samples: list[GpuSample] = []

    def __enter__(self) -> GpuSampler:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def summary(self, stage: StageTime | None, inputs: int) -> Telemetry:
        """What the samples say about `stage`; see `summarise`."""
        return summarise(self.samples, stage, inputs)

    def _sample(self) -> None:
        while True:
            count = len(self.samples)
            self.samples.append(_read(self._gpu, count % _ENERGY_EVERY == 0, count % _PROCESSES_EVERY == 0))
            if self._stop.wait(self._period_s):
                return


def _read(gpu: Gpu, energy: bool, processes: bool) -> GpuSample:
    memory, found = gpu.memory(), gpu.processes() if processes else None
    return GpuSample(
        time.monotonic_ns(),
        gpu.clock_sm_mhz(),
        gpu.power_w(),
        gpu.temperature_c(),
        gpu.utilisation(),
        memory.used_bytes if memory else None,
        gpu.event_reasons(),
        gpu.energy_mj() if energy else None,
        None if found is None else len({process.pid for process in found}),
    )


def summarise(samples: Sequence[GpuSample], stage: StageTime | None, inputs: int) -> Telemetry:
    """Join samples to a stage; `inputs` is how many the stage's energy is shared out over. Pure.

    Memory is the exception: its peak is over the whole run, since what a run needs is needed while it loads, too.
    """
    memory = _max([s.memory_used_bytes for s in samples])
    if stage is None:
        return Telemetry({"gpu_memory_peak_bytes": memory} if samples else {})
    inside = [s for s in samples if stage.start_ns <= s.monotonic_ns <= stage.end_ns]
    reasons = [s.event_reasons for s in inside if s.event_reasons is not None]
    clocks = [s.clock_sm_mhz for s in inside if s.clock_sm_mhz is not None]
    metrics = {
        "gpu_memory_peak_bytes": memory,
        "gpu_clock_sm_mhz": statistics.median(clocks) if clocks else None,
        "gpu_power_w": _mean([s.power_w for s in inside]),
        "gpu_temperature_c": _max([s.temperature_c for s in inside]),
        "gpu_utilisation": _mean([s.utilisation for s in inside]),
        "gpu_throttled_share": _share(reasons, THERMAL_REASONS) if reasons else None,
        "energy_per_input_j": _energy_per_input(samples, stage, inputs),
    }
    flags = [_throttled_flag(reasons), _power_flag(reasons), drift_flag(clocks), _foreign_flag(inside)]
    return Telemetry(metrics, [flag for flag in flags if flag is not None])


def _energy_per_input(samples: Sequence[GpuSample], stage: StageTime, inputs: int) -> float | None:
    if inputs <= 0 or (stage.end_ns - stage.start_ns) / 1e9 < ENERGY_MIN_S:
        return None
    known = [(s.monotonic_ns, s.energy_mj) for s in samples if s.energy_mj is not None]
    if len(known) < 2 or known[0][0] > stage.start_ns or known[-1][0] < stage.end_ns:
        return None
    times, values = [ns for ns, _ in known], [energy for _, energy in known]
    spent_mj = interpolate(times, values, stage.end_ns) - interpolate(times, values, stage.start_ns)
    return spent_mj / 1e3 / inputs if spent_mj > 0 else None


def _throttled_flag(reasons: Sequence[int]) -> Flag | None:
    share = _share(reasons, THERMAL_REASONS)
    if share <= _THROTTLED_SHARE:
        return None
    names = sorted({name for bits in reasons for name in reason_names(bits & THERMAL_REASONS)})
    return Flag("throttled", "suspect", f"the GPU slowed itself down in {share:.0%} of the stage: {', '.join(names)}")


def _power_flag(reasons: Sequence[int]) -> Flag | None:
    """Normal for a board at full load, so no doubt: but it says what the clock depended on."""
    share = _share(reasons, POWER_CAP_REASON)
    if share <= _THROTTLED_SHARE:
        return None
    return Flag("power_capped", "info", f"the power limit held the GPU's clock back in {share:.0%} of the stage")


def _foreign_flag(inside: Sequence[GpuSample]) -> Flag | None:
    most = max((s.processes for s in inside if s.processes is not None), default=0)
    if most <= 1:
        return None
    return Flag(
        "foreign_process", "invalid", f"{most} processes had the GPU in use in the timed stage, one is the run's"
    )


def _share(reasons: Sequence[int], bits: int) -> float:
    return sum(bool(found & bits) for found in reasons) / len(reasons) if reasons else 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _max(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(max(known)) if known else None
