# SPDX-License-Identifier: Apache-2.0
"""A Jetson through its files: NVML initialises there and supports next to nothing.

Paths are those of JetPack 5 (`17000000.ga10b`) and 6 (`17000000.gpu`). The root is injectable, so that trees of both
shapes can be read on any machine. Nothing is ever set: power mode and clocks are read and recorded.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farm.contract.device import DeviceInfo
from farm.contract.names import check_name, slug
from workers.daemon.host import Files, memory

#: Rails that are the whole board's input, where a board has one; elsewhere the rails are summed.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN")

_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")
_LOADS = (
    "sys/devices/platform/gpu.0/load",
    "sys/devices/gpu.0/load",
    "sys/devices/platform/bus@0/17000000.gpu/load",
    "sys/devices/platform/17000000.gpu/load",
    "sys/devices/17000000.ga10b/load",
    "sys/devices/platform/17000000.ga10b/load",
)
_ZONES = {"gpu_c": ("gpu-thermal", "GPU-therm"), "tj_c": ("tj-thermal", "tj-therm")}
_COMPUTE_CAPABILITY = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7"}
_JETPACK_OF_L4T = {"32": "4", "35": "5", "36": "6"}
_SUM_CHANNEL = 7
_NVPMODEL = "usr/sbin/nvpmodel"
_NVPMODEL_LIMIT_S = 1.0
#: What vendors write around a module's name in the device tree.
_PADDING = r"\b(nvidia|engineering|reference|developer|kit|super|module|series)\b"


@dataclass(frozen=True)
class Rail:
    """One measured supply: the paths of its voltage (mV) and current (mA)."""

    label: str
    millivolt: str
    milliampere: str


class Jetson:
    """One board. Every reading is None where the board does not tell."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._devfreq = _gpu_devfreq(files)
        self._load = _load_path(files, self._devfreq)
        self._zones = {name: _zone(files, types) for name, types in _ZONES.items()}
        self.rails = find_rails(files)

    def load(self) -> float | None:
        """Share of time at work; the kernel tells it in per mille."""
        found = self._files.number(self._load) if self._load else None
        return None if found is None else found / 1000

    def gpu_mhz(self) -> float | None:
        """The GPU's clock."""
        return _mega(self._devfreq_number("cur_freq"))

    def temperatures_c(self) -> dict[str, float | None]:
        """Of the GPU and of the hottest junction; a sensor whose unit is off does not answer."""
        found = {name: self._files.number(path) if path else None for name, path in self._zones.items()}
        return {name: None if value is None else value / 1000 for name, value in found.items()}

    def rails_w(self) -> dict[str, float]:
        """Power of each rail that answers."""
        found = {}
        for rail in self.rails:
            volt, ampere = self._files.number(rail.millivolt), self._files.number(rail.milliampere)
            if volt is not None and ampere is not None:
                found[rail.label] = volt * ampere / 1e6
        return found

    def memory_available(self) -> int | None:
        """What is left of the memory that processors and GPU share."""
        return memory(self._files).get("MemAvailable")

    def settings(self) -> dict[str, Any]:
        """Power mode and clock limits, as the operator left them."""
        return {
            "power_mode": power_mode(self._files),
            "jetson_clocks": self._clocks_pinned(),
            "gpu_min_mhz": _mega(self._devfreq_number("min_freq")),
            "gpu_max_mhz": _mega(self._devfreq_number("max_freq")),
        }

    def gpu_max_mhz(self) -> float | None:
        """The highest clock that the power mode allows."""
        return _mega(self._devfreq_number("max_freq"))

    def _devfreq_number(self, name: str) -> float | None:
        return self._files.number(f"{self._devfreq}/{name}") if self._devfreq else None

    def _clocks_pinned(self) -> bool | None:
        """Whether `jetson_clocks` holds: the lowest clock allowed is the highest, on every processor and the GPU."""
        policies = [str(p) for p in self._files.paths("sys/devices/system/cpu/cpu[0-9]*/cpufreq")]
        pairs = [tuple(self._files.number(f"{p}/scaling_{end}_freq") for end in ("min", "max")) for p in policies]
        pairs.append((self._devfreq_number("min_freq"), self._devfreq_number("max_freq")))
        if any(None in pair for pair in pairs):
            return None
        return all(low == high for low, high in pairs)


def find_jetson(files: Files) -> Jetson | None:
    """The board that this host is; None on any other host."""
    return Jetson(files) if is_jetson(files) else None


def is_jetson(files: Files) -> bool:
    """Whether the device tree names a Jetson."""
    model = files.text("proc/device-tree/model") or ""
    return "jetson" in model.lower() or ("nvidia" in model.lower() and "orin" in model.lower())


def jetson_devices(host: str, files: Files) -> list[DeviceInfo]:
    """The board as a device of kind `soc`: its GPU and its processors share one memory and one power budget."""
    if not is_jetson(files):
        return []
    board = files.text("proc/device-tree/model") or ""
    product = module_name(board, memory(files).get("MemTotal"))
    facts = _facts(files)
    return [
        DeviceInfo(
            device_id=check_name(f"{host[:80]}-soc", "device id"),
            device_class=check_name(product, "device class"),
            kind="soc",
            host=host,
            name=board,
            facts={key: value for key, value in facts.items() if value is not None},
        )
    ]


def module_name(board: str, memory_bytes: int | None) -> str:
    """`NVIDIA Jetson AGX Orin Developer Kit` with 61 GiB is `jetson-agx-orin-64`."""
    short = slug(re.sub(_PADDING, " ", board.lower().replace("-", " ")))
    name = short if short.startswith("jetson") else f"jetson-{short}"
    if name == "jetson-agx":  # what the device tree of an AGX Xavier says
        name = "jetson-agx-xavier"
    size = 1
    while memory_bytes and size * 2**30 < memory_bytes:
        size *= 2
    return f"{name}-{size}" if memory_bytes else name


def total_w(rails: Mapping[str, float]) -> tuple[float, str] | None:
    """Power of the board and what that is: its input rail, else the sum of all rails. No wall power either way."""
    for name in INPUT_RAILS:
        if name in rails:
            return rails[name], name
    return (sum(rails.values()), f"sum of {', '.join(sorted(rails))}") if rails else None


def find_rails(files: Files) -> list[Rail]:
    """The connected channels of all INA3221 monitors; the channel that sums the others is left out."""
    rails = []
    for monitor in files.paths("sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*"):
        for path in files.paths(f"{monitor}/in*_label"):
            channel = int(re.sub(r"\D", "", path.name))
            label = files.text(str(path))
            if label and label != "NC" and channel < _SUM_CHANNEL:
                rails.append(Rail(label, f"{monitor}/in{channel}_input", f"{monitor}/curr{channel}_input"))
    return rails


def power_mode(files: Files) -> str | None:
    """`nvpmodel -q` as `MAXN (0)`; without the program, the id alone from its status file."""
    program = files.root / _NVPMODEL
    if program.is_file():
        try:
            done = subprocess.run(
                [str(program), "-q"], capture_output=True, text=True, timeout=_NVPMODEL_LIMIT_S, check=False
            )
            found = re.search(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)", done.stdout)
            if found:
                return f"{found.group(1)} ({found.group(2)})"
        except (OSError, subprocess.TimeoutExpired):
            pass
    status = re.search(r"pmode:(\d+)", files.text("var/lib/nvpmodel/status") or "")
    return f"({int(status.group(1))})" if status else None


def l4t_release(files: Files) -> str | None:
    """`# R35 (release), REVISION: 4.1` is 35.4.1."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", files.text("etc/nv_tegra_release") or "")
    return f"{found.group(1)}.{found.group(2)}" if found else None


def _facts(files: Files) -> dict[str, Any]:
    chip = re.search(r"tegra\d+", (files.text("proc/device-tree/compatible") or "").replace("\0", " "))
    release = l4t_release(files)
    return {
        "l4t": release,
        "jetpack": _jetpack(files, release),
        "power_mode": power_mode(files),
        "chip": chip.group() if chip else None,
        "compute_capability": _COMPUTE_CAPABILITY.get(chip.group()) if chip else None,
        "cores": len(files.paths("sys/devices/system/cpu/cpu[0-9]*")) or None,
        "memory_bytes": memory(files).get("MemTotal"),
    }


def _jetpack(files: Files, release: str | None) -> str | None:
    """The version of the installed package; without it, the major version that the release belongs to."""
    status = files.text("var/lib/dpkg/status") or ""
    found = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\d.]+)", status, re.MULTILINE)
    return found.group(1) if found else _JETPACK_OF_L4T.get((release or "").split(".")[0])


def _gpu_devfreq(files: Files) -> str | None:
    for path in files.paths("sys/class/devfreq/*"):
        name = files.text(f"{path}/device/of_node/name") or path.name
        if path.name.rpartition(".")[2] in _GPU_NAMES or name in _GPU_NAMES:
            return str(path)
    return None


def _load_path(files: Files, devfreq: str | None) -> str | None:
    paths = ([f"{devfreq}/device/load"] if devfreq else []) + list(_LOADS)
    return next((path for path in paths if files.number(path) is not None), None)


def _zone(files: Files, types: tuple[str, ...]) -> str | None:
    zones = files.paths("sys/class/thermal/thermal_zone*/type")
    return next((str(path.parent / "temp") for path in zones if files.text(str(path)) in types), None)


def _mega(hertz: float | None) -> float | None:
    return None if hertz is None else hertz / 1e6
