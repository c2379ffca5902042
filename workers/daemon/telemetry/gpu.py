# SPDX-License-Identifier: Apache-2.0
"""An NVIDIA GPU as channels. A board renews its values every 100 to 200 ms; the costly functions are asked less often.

On an H200 one call costs 1 to 4 us, the energy counter 4.4 ms.
"""

from __future__ import annotations

from typing import Any

from workers.daemon.nvml import Gpu
from workers.daemon.telemetry.channels import BORDERS, EACH, ENDS, SECOND, Channel


def channels(gpu: Gpu) -> list[Channel]:
    """What is asked of a run's GPU."""
    return [
        Channel("clock_sm", EACH, lambda: {"sm_mhz": gpu.clock_sm_mhz()}),
        Channel("clock_memory", SECOND, lambda: {"mem_mhz": gpu.clock_memory_mhz()}),
        Channel("clock_video", SECOND, lambda: {"video_mhz": gpu.clock_video_mhz()}),
        Channel("gpu_temperature", EACH, lambda: {"gpu_c": gpu.temperature_c()}),
        Channel("power_fields", EACH, lambda: _power_fields(gpu)),
        Channel("power_usage", EACH, lambda: {"power_usage_w": gpu.power_usage_w()}),
        Channel("utilisation", EACH, lambda: _utilisation(gpu)),
        Channel("memory_v1", EACH, lambda: _memory_v1(gpu)),
        Channel("memory_v2", SECOND, lambda: _memory_v2(gpu)),
        Channel("event_reasons", EACH, lambda: {"reasons": gpu.event_reasons()}),
        Channel("performance_state", SECOND, lambda: {"pstate": gpu.performance_state()}),
        Channel("pcie", SECOND, lambda: _pcie(gpu)),
        Channel("processes", SECOND, lambda: _processes(gpu)),
        Channel("energy", BORDERS, lambda: {"energy_mj": gpu.energy_mj()}),
        Channel("violations", BORDERS, lambda: {f"violation_{k}_ns": v for k, v in gpu.violations_ns().items()}),
        Channel("gpu_settings", ENDS, lambda: {f"set:{name}": value for name, value in gpu.settings().items()}),
    ]


def _power_fields(gpu: Gpu) -> dict[str, Any]:
    found = gpu.power_fields_w()
    return {f"power_{name}_w": value for name, value in found.items()}


def _utilisation(gpu: Gpu) -> dict[str, Any]:
    found = gpu.utilisation_rates()
    return {} if found is None else {"util": found[0], "mem_util": found[1]}


def _memory_v1(gpu: Gpu) -> dict[str, Any]:
    found = gpu.memory()
    return {} if found is None else {"mem_used": found.used_bytes, "mem_free": found.free_bytes}


def _memory_v2(gpu: Gpu) -> dict[str, Any]:
    """All four fields: sources disagree about what `used` holds, so it is told apart from version 1's."""
    found = gpu.memory_v2()
    if found is None:
        return {}
    names = ("total", "reserved", "used", "free")
    return {f"mem2_{name}": value for name, value in zip(names, found, strict=True)}


def _pcie(gpu: Gpu) -> dict[str, Any]:
    generation, width = gpu.pcie_link()
    return {"pcie_generation": generation, "pcie_width": width}


def _processes(gpu: Gpu) -> dict[str, Any]:
    found = gpu.processes()
    return {} if found is None else {"processes": len({process.pid for process in found})}


def facts(gpu: Gpu) -> dict[str, Any]:
    """What the samples are judged by: the clock that the board has without anybody's wish."""
    return {"gpu": True, "clock_sm_default_mhz": gpu.clock_sm_default_mhz()}
