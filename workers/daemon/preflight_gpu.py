# SPDX-License-Identifier: Apache-2.0
"""Is the GPU or board fit to measure on, just before a run? Doubts become flags with evidence; nothing is changed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from farm.contract.record import Flag
from workers.daemon.host import Files
from workers.daemon.jetson import find_jetson
from workers.daemon.nvml import ComputeProcess, Gpu
from workers.daemon.preflight import Preflight

_HOT_REASONS = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake"})
#: A process that has just ended may still be listed for a moment.
_LEAVING_S = 1.0


def preflight_gpu(gpu: Gpu | None, leaving_s: float = _LEAVING_S) -> Preflight:
    """Look at the GPU of a run. None: a device that should be there does not answer."""
    if gpu is None:
        flag = Flag("no_telemetry", "suspect", "the GPU's management library did not answer before the run")
        return Preflight({"gpu": None}, [flag], {"gpu_memory_before_bytes": None})
    processes = gpu.processes()
    if processes:
        threading.Event().wait(leaving_s)
        processes = gpu.processes()
    state = gpu.state()
    used = state["memory_used_bytes"]
    state["processes"] = None if processes is None else len(processes)
    metrics = {"gpu_memory_before_bytes": None if used is None else float(used)}
    return Preflight({"gpu": state}, judge(state, processes), metrics)


def preflight_soc(files: Files | None = None) -> Preflight:
    """Look at a Jetson: how it is set and how warm it is."""
    board = find_jetson(files or Files())
    if board is None:
        flag = Flag("no_telemetry", "suspect", "the device tree names no Jetson any more")
        return Preflight({"soc": None}, [flag])
    return Preflight({"soc": {**board.settings(), **board.temperatures_c(), "rails_w": board.rails_w() or None}})


def judge(state: dict[str, Any], processes: Sequence[ComputeProcess] | None) -> list[Flag]:
    """Turn what was read into flags. Pure."""
    flags = []
    if processes:
        shown = ", ".join(str(process.pid) for process in processes[:8])
        evidence = f"{len(processes)} processes had the GPU in use before the run: {shown}"
        flags.append(Flag("foreign_process", "invalid", evidence))
    hot = sorted(_HOT_REASONS & set(state["event_reasons"] or ()))
    if hot:
        evidence = f"before the run the GPU, at {state['temperature_c']} C, was held back: {', '.join(hot)}"
        flags.append(Flag("throttled", "suspect", evidence))
    return flags


def join(host: Preflight, gpu: Preflight) -> Preflight:
    """Both as one."""
    return Preflight(host.host | gpu.host, [*host.flags, *gpu.flags], host.metrics | gpu.metrics)
