# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs through their management library: every function is tried, and what a board does not tell is None.

That the library initialises means nothing: on a Jetson it does, and then supports next to no function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from farm.contract.device import DeviceInfo
from farm.contract.names import check_name, slug

#: Bits of the clock-event reasons ("throttle reasons" before driver 535) that slow a board down against its will.
THERMAL_REASONS = 0x08 | 0x20 | 0x40 | 0x80
POWER_CAP_REASON = 0x04
REASON_NAMES = {
    0x01: "gpu_idle",
    0x02: "applications_clocks",
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}

# The numbers behind NVML's enumerations (nvml.h): nvmlClockType_t, nvmlTemperatureSensors_t, NVML_FI_DEV_POWER_AVERAGE
# and NVML_FI_DEV_POWER_INSTANT (milliwatts; asked without a scope they are of the GPU), nvmlPerfPolicyType_t.
_CLOCK_SM = 1
_CLOCK_MEMORY = 2
_CLOCK_VIDEO = 3
_TEMPERATURE_GPU = 0
_POWER_FIELDS = {185: "average", 186: "instant"}
_POLICIES = {"power": 0, "thermal": 1, "board_limit": 3, "reliability": 5}


@dataclass(frozen=True)
class ComputeProcess:
    """A process with a compute context on a GPU. In a container the id may be the host's."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True)
class GpuMemory:
    """Of the whole board. `used` is NVML's first version: what the driver reserves counts as used."""

    total_bytes: int
    used_bytes: int
    free_bytes: int


class Gpu:
    """One GPU of an open library."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @property
    def uuid(self) -> str | None:
        """`GPU-...`: what CUDA_VISIBLE_DEVICES takes."""
        return _text(self._ask("nvmlDeviceGetUUID"))

    def name(self) -> str | None:
        """The product: `NVIDIA H200`."""
        return _text(self._ask("nvmlDeviceGetName"))

    def facts(self) -> dict[str, Any]:
        """What does not change while the host is up; facts that cannot be read are absent."""
        memory, limit = self.memory(), self._ask("nvmlDeviceGetEnforcedPowerLimit")
        found = {
            "uuid": self.uuid,
            "memory_bytes": memory.total_bytes if memory else None,
            "compute_capability": _dotted(self._ask("nvmlDeviceGetCudaComputeCapability")),
            "driver_version": _text(ask(self._library, "nvmlSystemGetDriverVersion")),
            "cuda_driver_version": _cuda_version(ask(self._library, "nvmlSystemGetCudaDriverVersion_v2")),
            "pci_bus_id": _text(getattr(self._ask("nvmlDeviceGetPciInfo"), "busId", None)),
            "power_limit_w": limit / 1000 if limit else None,
            "mig": _mig(self._ask("nvmlDeviceGetMigMode")),
        }
        return {key: value for key, value in found.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """How the board is set and how it is just now, for a record; None where it does not tell."""
        memory = self.memory()
        reasons = self.event_reasons()
        return {
            "temperature_c": self.temperature_c(),
            "clock_sm_mhz": self.clock_sm_mhz(),
            "clock_sm_max_mhz": self._ask("nvmlDeviceGetMaxClockInfo", _CLOCK_SM),
            "clock_sm_default_mhz": self.clock_sm_default_mhz(),
            "power_w": self.power_w(),
            "performance_state": self.performance_state(),
            **self.settings(),
            "memory_total_bytes": memory.total_bytes if memory else None,
            "memory_used_bytes": memory.used_bytes if memory else None,
            "memory_free_bytes": memory.free_bytes if memory else None,
            "event_reasons": None if reasons is None else reason_names(reasons),
        }

    def settings(self) -> dict[str, Any]:
        """What an operator sets and nothing in the farm changes; None where the board does not tell."""
        limit = self._ask("nvmlDeviceGetPowerManagementLimit") or self._ask("nvmlDeviceGetEnforcedPowerLimit")
        persistence, ecc = self._ask("nvmlDeviceGetPersistenceMode"), self._ask("nvmlDeviceGetEccMode")
        return {
            "power_limit_w": limit / 1000 if limit else None,
            "persistence_mode": None if persistence is None else bool(persistence),
            "compute_mode": self._ask("nvmlDeviceGetComputeMode"),
            "ecc": None if ecc is None else bool(ecc[0]),
            "applications_clock_sm_mhz": self._ask("nvmlDeviceGetApplicationsClock", _CLOCK_SM),
        }

    def memory(self) -> GpuMemory | None:
        """Memory of the board."""
        found = self._ask("nvmlDeviceGetMemoryInfo")
        return GpuMemory(int(found.total), int(found.used), int(found.free)) if found is not None else None

    def memory_v2(self) -> tuple[int, int, int, int] | None:
        """Total, reserved, used and free bytes by NVML's second version; on an H200 `used` leaves `reserved` out."""
        version = getattr(self._library, "nvmlMemory_v2", None)
        found = None if version is None else self._ask("nvmlDeviceGetMemoryInfo", version)
        if found is None or getattr(found, "reserved", None) is None:
            return None
        return int(found.total), int(found.reserved), int(found.used), int(found.free)

    def clock_sm_mhz(self) -> float | None:
        """The clock of the streaming multiprocessors."""
        return _float(self._ask("nvmlDeviceGetClockInfo", _CLOCK_SM))

    def clock_sm_default_mhz(self) -> float | None:
        """The applications clock that the board has when nobody set another."""
        return _float(self._ask("nvmlDeviceGetDefaultApplicationsClock", _CLOCK_SM))

    def clock_memory_mhz(self) -> float | None:
        """The clock of the board's memory."""
        return _float(self._ask("nvmlDeviceGetClockInfo", _CLOCK_MEMORY))

    def clock_video_mhz(self) -> float | None:
        """The clock of the video units."""
        return _float(self._ask("nvmlDeviceGetClockInfo", _CLOCK_VIDEO))

    def performance_state(self) -> int | None:
        """0 is the fastest of 16."""
        found = self._ask("nvmlDeviceGetPerformanceState")
        return None if found is None else int(found)

    def pcie_link(self) -> tuple[int | None, int | None]:
        """Generation and lanes of the link as it is now: an idle board lowers the generation."""
        return self._ask("nvmlDeviceGetCurrPcieLinkGeneration"), self._ask("nvmlDeviceGetCurrPcieLinkWidth")

    def violations_ns(self) -> dict[str, int]:
        """How long each cause has held the clock back since the driver was loaded: looking now and then misses some."""
        # nvml.h: violationTime is in nanoseconds; referenceTime, a timestamp, is the one in microseconds.
        found = {name: self._ask("nvmlDeviceGetViolationStatus", number) for name, number in _POLICIES.items()}
        return {name: int(status.violationTime) for name, status in found.items() if status is not None}

    def temperature_c(self) -> float | None:
        """The GPU's own sensor."""
        return _float(self._ask("nvmlDeviceGetTemperature", _TEMPERATURE_GPU))

    def utilisation_rates(self) -> tuple[float, float] | None:
        """Shares of the last 1/6 to 1 s in which a kernel ran and memory was moved: a sign of life, not of load."""
        found = self._ask("nvmlDeviceGetUtilizationRates")
        return None if found is None else (float(found.gpu) / 100, float(found.memory) / 100)

    def power_fields_w(self) -> dict[str, float]:
        """Power by what it is, `instant` or `average`, where the board tells; absent elsewhere."""
        values = self._ask("nvmlDeviceGetFieldValues", list(_POWER_FIELDS)) or ()
        told = [value for value in values if value.nvmlReturn == 0 and value.value.uiVal > 0]
        return {_POWER_FIELDS[v.fieldId]: v.value.uiVal / 1000 for v in told if v.fieldId in _POWER_FIELDS}

    def power_usage_w(self) -> float | None:
        """NVML's older function: an average over 1 s on some boards, an instant on others."""
        found = self._ask("nvmlDeviceGetPowerUsage")
        return None if found is None else float(found) / 1000

    def power_w(self) -> float | None:
        """Power at an instant where the board tells it, else what the older function says."""
        return self.power_fields_w().get("instant") or self.power_usage_w()

    def energy_mj(self) -> float | None:
        """Millijoules since the driver was loaded. Takes 4 ms on an H200, so it is not for every sample."""
        return _float(self._ask("nvmlDeviceGetTotalEnergyConsumption"))

    def event_reasons(self) -> int | None:
        """Why the clock is what it is, as bits; the function was renamed in driver 535."""
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            found = self._ask(name)
            if found is not None:
                return int(found)
        return None

    def processes(self) -> list[ComputeProcess] | None:
        """Processes with a compute context on this board."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if found is None:
            return None
        return [ComputeProcess(int(p.pid), getattr(p, "usedGpuMemory", None)) for p in found]

    def _ask(self, name: str, *arguments: Any) -> Any:
        return ask(self._library, name, self._handle, *arguments)


def ask(library: Any, name: str, *arguments: Any) -> Any:
    """Call one function; None where the library or the board does not have it."""
    function = getattr(library, name, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except library.NVMLError:
        return None


@contextmanager
def open_nvml(library: Any = None) -> Iterator[list[Gpu]]:
    """The GPUs of this host, for as long as the block lasts; none where there is no driver or no `pynvml`.

    `library` is `pynvml`, or in tests something that stands in for it.
    """
    library = library or _pynvml()
    if library is None:
        yield []
        return
    try:
        library.nvmlInit()
    except library.NVMLError:
        yield []
        return
    try:
        count = ask(library, "nvmlDeviceGetCount") or 0
        handles = [ask(library, "nvmlDeviceGetHandleByIndex", index) for index in range(count)]
        yield [Gpu(library, handle) for handle in handles if handle is not None]
    finally:
        ask(library, "nvmlShutdown")


def gpu_devices(host: str, library: Any = None) -> list[DeviceInfo]:
    """The GPUs of this host as devices; one that does not tell its UUID cannot be addressed and is left out.

    So is a Jetson's own (`Orin (nvgpu)`): the whole board is a device of kind `soc`.
    """
    with open_nvml(library) as gpus:
        found = [_device(host, gpu) for gpu in gpus]
    return [device for device in found if device is not None]


def find_gpu(gpus: list[Gpu], device: DeviceInfo) -> Gpu | None:
    """The GPU that a device is."""
    wanted = device.facts.get("uuid")
    return next((gpu for gpu in gpus if wanted is not None and gpu.uuid == wanted), None)


def reason_names(bits: int) -> list[str]:
    """Clock-event reasons in words."""
    return [name for bit, name in REASON_NAMES.items() if bits & bit]


def _device(host: str, gpu: Gpu) -> DeviceInfo | None:
    uuid = gpu.uuid
    name = gpu.name() or "NVIDIA GPU"
    if uuid is None or "nvgpu" in name.lower():
        return None
    short = slug(uuid.partition("-")[2] or uuid)[:8]
    product = name if name.lower().startswith("nvidia") else f"NVIDIA {name}"
    return DeviceInfo(
        device_id=check_name(f"{host[:80]}-gpu{short}", "device id"),
        device_class=check_name(slug(product), "device class"),
        kind="gpu",
        host=host,
        name=name,
        facts=gpu.facts(),
    )


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value or None


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _dotted(pair: Any) -> str | None:
    return None if pair is None else f"{pair[0]}.{pair[1]}"


def _cuda_version(number: Any) -> str | None:
    """13000 is 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _mig(modes: Any) -> bool | None:
    return None if modes is None else bool(modes[0])
