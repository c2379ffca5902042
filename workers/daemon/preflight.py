# SPDX-License-Identifier: Apache-2.0
"""Is the host fit to measure on, just before a run? Doubts become flags with their evidence; nothing is changed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from farm.contract.record import Flag
from farm.thresholds import DEFAULTS, Limits
from workers.daemon.host import Files, host_facts, memory, on_battery, usable_cpus

#: How long to look at the processors, and how long where the first look does not clearly find them idle.
_GLANCE_S, _LOOK_S = 0.1, 0.3
#: How long the worker's own work before a run must have taken to stand for a look, and how long it may have: the end is
#: what counts, and would be too small a part of a longer time.
_SHORTEST_S, _LONGEST_S = 0.1, 2.0


@dataclass(frozen=True)
class Preflight:
    """The host just before a run: facts for the record, flags, and metrics by their names."""

    host: dict[str, Any] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since boot, over all processors: at work, taken by the hypervisor, in all."""

    busy_s: float
    steal_s: float
    total_s: float


class Meanwhile:
    """What others have of the processors while this worker itself does something, from when this is made.

    A look that costs nothing: so long as the worker prepares a run, it can count what is not its own.
    """

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or Files()
        self._began = time.monotonic(), time.process_time(), cpu_times(self._files)

    def others(self, own_s: float) -> float | None:
        """The others' share of all processors until now; None where the time was too short or too long to tell.

        `own_s`: processor seconds of processes that this worker started, which have ended. Its own are known.
        """
        began_s, used_s, before = self._began
        after = cpu_times(self._files)
        if before is None or after is None or not _SHORTEST_S <= time.monotonic() - began_s <= _LONGEST_S:
            return None
        return others_share(before, after, own_s + time.process_time() - used_s)


def others_share(before: CpuTimes, after: CpuTimes, own_s: float) -> float | None:
    """The share of all processors that was at work for others than `own_s`; None if the clock stood. Pure."""
    total_s = after.total_s - before.total_s
    return max(after.busy_s - before.busy_s - own_s, 0.0) / total_s if total_s > 0 else None


def preflight(
    files: Files | None = None, limits: Limits = DEFAULTS, *, timed: bool = True, others: float | None = None
) -> Preflight:
    """Look at the host. Takes 0.1 to 0.3 s where its load average is high, else a few milliseconds.

    Args:
        files: the host's.
        limits: where doubts begin.
        timed: what follows takes times. Else a busy host is no doubt, and nothing waits to find out.
        others: what others had of the processors just now (`Meanwhile`). Far below the limit it stands for the look;
            anything else is looked at.
    """
    files = files or Files()
    cpus = len(usable_cpus())
    load = load_average(files)
    loaded = timed and load is not None and load / cpus > limits["busy_load_per_cpu"]
    idle = others is not None and others < limits["busy_share"] / 2
    busy_share = (others if idle else _busy_share(files, limits["busy_share"])) if loaded else None
    facts = memory(files)
    flags = judge(
        load=load if timed else None,
        cpus=cpus,
        busy_share=busy_share,
        on_battery=on_battery(files),
        memory_bytes=facts.get("MemTotal"),
        available_bytes=facts.get("MemAvailable"),
        limits=limits,
    )
    metrics = {"cpu_load_before": None if load is None else load / cpus}
    return Preflight(host_facts(files) | {"load_1min": load}, flags, metrics)


def judge(
    *,
    load: float | None,
    cpus: int,
    busy_share: float | None,
    on_battery: bool | None,
    memory_bytes: int | None,
    available_bytes: int | None,
    limits: Limits = DEFAULTS,
) -> list[Flag]:
    """Turn what was read into flags. Pure.

    `busy_share` is how much of all processors was at work while we looked. The load average alone would blame a run
    for the one before it: it still shows work that ended a minute ago.
    """
    flags = []
    loaded = load is not None and load / cpus > limits["busy_load_per_cpu"]
    if loaded and (busy_share is None or busy_share > limits["busy_share"]):
        now = "" if busy_share is None else f", {busy_share:.0%} of them at work just before the run"
        flags.append(Flag("host_busy", "suspect", f"load average {load:.2f} on {cpus} processors{now}"))
    if on_battery:
        flags.append(Flag("on_battery", "suspect", "the host runs on its battery"))
    if memory_bytes and available_bytes is not None and available_bytes < limits["low_memory_share"] * memory_bytes:
        evidence = f"{available_bytes >> 20} MiB of {memory_bytes >> 20} MiB memory available before the run"
        flags.append(Flag("low_memory", "suspect", evidence))
    return flags


def load_average(files: Files) -> float | None:
    """The one-minute load average."""
    text = files.text("proc/loadavg")
    return float(text.split()[0]) if text else None


def cpu_times(files: Files) -> CpuTimes | None:
    """The first line of /proc/stat, in seconds at the kernel's 100 ticks."""
    words = (files.text("proc/stat") or "").partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) / 100 for word in words[1:9])
    busy = user + nice + system + irq + softirq
    return CpuTimes(busy, steal, busy + steal + idle + iowait)


def oom_kills(files: Files | None = None) -> int | None:
    """How often this kernel has killed a process for want of memory since boot, in any control group."""
    for line in ((files or Files()).text("proc/vmstat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == "oom_kill":
            return int(value)
    return None


def _busy_share(files: Files, limit: float) -> float | None:
    before, share = cpu_times(files), None
    for seconds in (_GLANCE_S, _LOOK_S - _GLANCE_S):
        threading.Event().wait(seconds)
        after = cpu_times(files)
        if before is None or after is None or after.total_s <= before.total_s:
            return None
        share = (after.busy_s - before.busy_s) / (after.total_s - before.total_s)
        # Ticks of 10 ms: a glance sees 10 of each processor, so only what is far from the limit is settled by it.
        if share < limit / 2:
            break
    return share
