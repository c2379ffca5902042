# SPDX-License-Identifier: Apache-2.0
"""The host's processors as channels: frequency, temperature, energy, load, and who else was at work.

Asked twice a second at most: on some drivers a frequency or an energy counter is read by interrupting the processor.
"""

from __future__ import annotations

from typing import Any

from workers.daemon.host import Files, memory, on_battery, turbo, usable_cpus
from workers.daemon.preflight import cpu_times, load_average
from workers.daemon.telemetry.channels import ENDS, HALF_SECOND, SECOND, Channel

# A few speak for all.
_FREQUENCY_CPUS = 8
_PACKAGE_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_PACKAGE_ZONES = ("x86_pkg_temp", "cpu-thermal", "CPU-therm", "cpu_thermal")
_RAPL = "sys/class/powercap/intel-rapl:[0-9]*"
_THROTTLES = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"


def channels(files: Files) -> list[Channel]:
    """What is asked of the host of every run."""
    frequencies = [f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in usable_cpus()]
    temperatures = temperature_paths(files)
    packages = rapl_packages(files)
    return [
        Channel("cpu_frequency", HALF_SECOND, lambda: {"cpu_mhz": _scaled(files, frequencies[:_FREQUENCY_CPUS], 1e-3)}),
        Channel("cpu_temperature", HALF_SECOND, lambda: {"cpu_c": _scaled(files, temperatures, 1e-3)}),
        Channel(
            "cpu_energy", HALF_SECOND, lambda: {"cpu_energy_uj": _all(files, [f"{p}/energy_uj" for p in packages])}
        ),
        Channel("cpu_times", HALF_SECOND, lambda: _times(files)),
        Channel("load", SECOND, lambda: {"load_1min": load_average(files)}),
        Channel("memory", SECOND, lambda: {"memory_available": memory(files).get("MemAvailable")}),
        Channel("cpu_throttles", ENDS, lambda: {"cpu_throttles": files.number(_THROTTLES)}),
        Channel("cpu_settings", ENDS, lambda: _settings(files)),
    ]


def facts(files: Files) -> dict[str, Any]:
    """What a reader of the trace must know: where each energy counter starts again from zero."""
    ranges = [files.number(f"{path}/max_energy_range_uj") for path in rapl_packages(files)]
    return {"cpus": len(usable_cpus()), "cpu_energy_range_uj": ranges}


def rapl_packages(files: Files) -> list[str]:
    """RAPL's zones of whole packages, whose counters hold all that is below them."""
    return [str(p) for p in files.paths(_RAPL) if (files.text(f"{p}/name") or "").startswith("package")]


def temperature_paths(files: Files) -> list[str]:
    """The package's sensors: the hardware monitor's, else the thermal zones'."""
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


def _times(files: Files) -> dict[str, Any]:
    found = cpu_times(files)
    if found is None:
        return {}
    switches = next((line for line in (files.text("proc/stat") or "").splitlines() if line.startswith("ctxt ")), None)
    return {
        "cpu_busy_s": found.busy_s,
        "cpu_steal_s": found.steal_s,
        "context_switches": int(switches.split()[1]) if switches else None,
    }


def _settings(files: Files) -> dict[str, Any]:
    """Named `set:` so that a change during a run is seen."""
    policy = "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        "set:governor": files.text(f"{policy}/scaling_governor"),
        "set:cpu_max_khz": files.number(f"{policy}/scaling_max_freq"),
        "set:turbo": turbo(files),
        "set:on_battery": on_battery(files),
    }


def _scaled(files: Files, paths: list[str], factor: float) -> list[float] | None:
    found = [value * factor for value in map(files.number, paths) if value is not None]
    return found or None


def _all(files: Files, paths: list[str]) -> list[float] | None:
    """Every value, or none: a sum over some of the counters would pass for the whole."""
    found = [value for value in map(files.number, paths) if value is not None]
    return found if found and len(found) == len(paths) else None
