# SPDX-License-Identifier: Apache-2.0
"""What the processor did while a run was measured: frequency, temperature, energy, and who else was at work.

Sampled twice a second by a thread of the daemon and joined to the `measure` stage by CLOCK_MONOTONIC.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from farm.contract.record import Flag
from farm.contract.run import StageTime
from workers.daemon.host import Files, usable_cpus
from workers.daemon.preflight import CpuTimes, cpu_times

RATE_HZ = 2.0
#: Shorter stages say nothing about energy: the counters' steps and the ends of the stage weigh too much.
ENERGY_MIN_S = 5.0

_FOREIGN_MIN_S = 1.5
_FOREIGN_SHARE = 0.1
_DRIFT = 0.03
# Reading a frequency interrupts that processor on some drivers: a few speak for all.
_FREQUENCY_CPUS = 8

_PACKAGE_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_PACKAGE_ZONES = ("x86_pkg_temp", "cpu-thermal", "CPU-therm", "cpu_thermal")


@dataclass(frozen=True)
class Sample:
    """One look at the host. `energy_uj` holds one counter per processor package."""

    monotonic_ns: int
    frequency_mhz: float | None = None
    temperature_c: float | None = None
    energy_uj: tuple[float, ...] | None = None
    times: CpuTimes | None = None


@dataclass(frozen=True)
class Telemetry:
    """What the samples say about one stage, by metric names; None where the host reports nothing."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)


class CpuSensors:
    """Where this host keeps its readings, looked up once."""

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or Files()
        cpus = usable_cpus()[:_FREQUENCY_CPUS]
        self._frequencies = [f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in cpus]
        self._temperatures = _temperature_paths(self._files)
        self._energies = [
            str(path)
            for path in self._files.paths("sys/class/powercap/intel-rapl:[0-9]*")
            if (self._files.text(f"{path}/name") or "").startswith("package")
        ]
        self.energy_ranges_uj = tuple(
            self._files.number(f"{path}/max_energy_range_uj") or 0.0 for path in self._energies
        )

    def read(self) -> Sample:
        """Take one sample."""
        frequencies = [v for v in map(self._files.number, self._frequencies) if v is not None]
        temperatures = [v for v in map(self._files.number, self._temperatures) if v is not None]
        energies = [v for v in (self._files.number(f"{p}/energy_uj") for p in self._energies) if v is not None]
        return Sample(
            time.monotonic_ns(),
            statistics.fmean(frequencies) / 1000 if frequencies else None,
            max(temperatures) / 1000 if temperatures else None,
            tuple(energies) if energies and len(energies) == len(self._energies) else None,
            cpu_times(self._files),
        )

    def throttle_count(self) -> float | None:
        """How often the package has slowed itself down for its temperature since boot."""
        counts = self._files.numbers("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")
        return counts[0] if counts else None


class CpuSampler:
    """Samples from entry to exit of its `with` block."""

    def __init__(self, sensors: CpuSensors, rate_hz: float = RATE_HZ) -> None:
        self._sensors = sensors
        self._period_s = 1 / rate_hz
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)
        self._throttled_before = sensors.throttle_count()
        self.samples: list[Sample] = []
        self.throttles: float | None = None

    def __enter__(self) -> CpuSampler:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        after = self._sensors.throttle_count()
        if after is not None and self._throttled_before is not None:
            self.throttles = after - self._throttled_before

    def summary(self, stage: StageTime | None, inputs: int, own_cpus: float | None) -> Telemetry:
        """What the samples say about `stage`; see `summarise`."""
        found = summarise(self.samples, stage, inputs, own_cpus, len(usable_cpus()), self._sensors.energy_ranges_uj)
        if not self.throttles:
            return found
        evidence = f"the processor slowed itself down {self.throttles:g} times for its temperature during the run"
        return Telemetry(found.metrics, [*found.flags, Flag("throttled", "suspect", evidence)])

    def _sample(self) -> None:
        while True:
            self.samples.append(self._sensors.read())
            if self._stop.wait(self._period_s):
                return


def summarise(
    samples: Sequence[Sample],
    stage: StageTime | None,
    inputs: int,
    own_cpus: float | None,
    cpus: int,
    energy_ranges_uj: Sequence[float] = (),
) -> Telemetry:
    """Join samples to a stage. Pure.

    Args:
        samples: in order of time.
        stage: the timed stage; None gives nothing.
        inputs: model inputs processed in the stage, over which its energy is shared out.
        own_cpus: how many processors the measured process itself kept at work in the stage, if known.
        cpus: processors of the host.
        energy_ranges_uj: where each energy counter starts again from zero.
    """
    if stage is None:
        return Telemetry()
    inside = [s for s in samples if stage.start_ns <= s.monotonic_ns <= stage.end_ns]
    frequencies = [s.frequency_mhz for s in inside if s.frequency_mhz is not None]
    temperatures = [s.temperature_c for s in inside if s.temperature_c is not None]
    metrics: dict[str, float | None] = {
        "cpu_frequency_mhz": statistics.fmean(frequencies) if frequencies else None,
        "cpu_temperature_c": max(temperatures) if temperatures else None,
        "energy_per_input_j": _energy_per_input(samples, stage, inputs, energy_ranges_uj),
    }
    flags = [_foreign_flag(inside, own_cpus, cpus), _steal_flag(inside), drift_flag(frequencies)]
    return Telemetry(metrics, [flag for flag in flags if flag is not None])


def _energy_per_input(
    samples: Sequence[Sample], stage: StageTime, inputs: int, ranges_uj: Sequence[float]
) -> float | None:
    if inputs <= 0 or (stage.end_ns - stage.start_ns) / 1e9 < ENERGY_MIN_S:
        return None
    known = [(s.monotonic_ns, s.energy_uj) for s in samples if s.energy_uj is not None]
    if len(known) < 2 or known[0][0] > stage.start_ns or known[-1][0] < stage.end_ns:
        return None
    used = [0.0]
    for (_, before), (_, after) in itertools.pairwise(known):
        used.append(used[-1] + sum(_step(a, b, r) for a, b, r in zip(before, after, ranges_uj, strict=False)))
    times = [ns for ns, _ in known]
    spent_uj = interpolate(times, used, stage.end_ns) - interpolate(times, used, stage.start_ns)
    return spent_uj / 1e6 / inputs


def _step(before: float, after: float, range_uj: float) -> float:
    return after - before if after >= before else after - before + range_uj


def interpolate(times: Sequence[int], values: Sequence[float], at: int) -> float:
    """The value at a time between two of `times`, as if it had risen evenly."""
    for i in range(1, len(times)):
        if times[i] >= at:
            share = (at - times[i - 1]) / (times[i] - times[i - 1])
            return values[i - 1] + share * (values[i] - values[i - 1])
    return values[-1]


def _span(inside: Sequence[Sample]) -> tuple[CpuTimes, CpuTimes, float] | None:
    """The first and last processor times in the stage and the seconds between, if long enough to say something."""
    timed = [(s.monotonic_ns, s.times) for s in inside if s.times is not None]
    if len(timed) < 2 or (timed[-1][0] - timed[0][0]) / 1e9 < _FOREIGN_MIN_S:
        return None
    return timed[0][1], timed[-1][1], (timed[-1][0] - timed[0][0]) / 1e9


def _foreign_flag(inside: Sequence[Sample], own_cpus: float | None, cpus: int) -> Flag | None:
    span = _span(inside)
    if span is None or own_cpus is None:
        return None
    before, after, seconds = span
    foreign = (after.busy_s - before.busy_s) / seconds - own_cpus
    if foreign <= _FOREIGN_SHARE * cpus:
        return None
    evidence = f"other processes kept {foreign:.2f} of {cpus} processors at work in the timed stage"
    return Flag("foreign_process", "suspect", evidence)


def _steal_flag(inside: Sequence[Sample]) -> Flag | None:
    span = _span(inside)
    if span is None:
        return None
    before, after, seconds = span
    stolen = (after.steal_s - before.steal_s) / seconds
    if stolen <= 0.02:
        return None
    return Flag("stolen_time", "suspect", f"the hypervisor took {stolen:.2f} processors' time in the timed stage")


def drift_flag(frequencies: Sequence[float]) -> Flag | None:
    """Last third against first third of the stage (3 %)."""
    third = len(frequencies) // 3
    if third < 2:
        return None
    first, last = statistics.median(frequencies[:third]), statistics.median(frequencies[-third:])
    if first <= 0 or abs(last / first - 1) <= _DRIFT:
        return None
    evidence = f"the median clock went from {first:.0f} to {last:.0f} MHz in the timed stage"
    return Flag("clock_drift", "suspect", evidence)


def _temperature_paths(files: Files) -> list[str]:
    sensors = [
        str(path.parent / "temp1_input")
        for path in files.paths("sys/class/hwmon/hwmon*/name")
        if files.text(str(path)) in _PACKAGE_SENSORS
    ]
    zones = [
        str(path.parent / "temp")
        for path in files.paths("sys/class/thermal/thermal_zone*/type")
        if files.text(str(path)) in _PACKAGE_ZONES
    ]
    return sensors or zones
