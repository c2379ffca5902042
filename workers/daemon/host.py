# SPDX-License-Identifier: Apache-2.0
"""Facts about this host, read from /proc and /sys. What cannot be read is None, never 0 and never a guess."""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Instruction sets that change what a workflow can do or how fast: fact -> the kernel's word for it (x86, then Arm).
INSTRUCTION_SETS = {
    "avx2": ("avx2",),
    "avx512f": ("avx512f",),
    "avx512_vnni": ("avx512_vnni",),
    "avx512_bf16": ("avx512_bf16",),
    "avx_vnni": ("avx_vnni",),
    "amx_int8": ("amx_int8",),
    "amx_bf16": ("amx_bf16",),
    "dot_product": ("asimddp",),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "sve": ("sve",),
}

_ARM = ("aarch64", "arm64")


@dataclass(frozen=True)
class Files:
    """Small text files below a root: `/`, or a made-up host in a test."""

    root: Path = Path("/")

    def text(self, path: str) -> str | None:
        """A file's text without surrounding space; None where it cannot be read or is empty."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0 \n\t") or None
        except OSError:
            return None

    def number(self, path: str) -> float | None:
        """A file's text as a number; None where there is none."""
        text = self.text(path)
        try:
            return None if text is None else float(text)
        except ValueError:
            return None

    def paths(self, pattern: str) -> list[Path]:
        """The paths that match, relative to the root, sorted."""
        try:
            return sorted(path.relative_to(self.root) for path in self.root.glob(pattern))
        except OSError:
            return []

    def numbers(self, pattern: str, limit: int = 4096) -> list[float]:
        """The numbers in the first `limit` files that match."""
        values = (self.number(str(path)) for path in self.paths(pattern)[:limit])
        return [value for value in values if value is not None]


def host_facts(files: Files | None = None) -> dict[str, Any]:
    """Everything about the host that a record keeps. Sizes in bytes, frequencies in MHz, times in seconds."""
    files = files or Files()
    sections: tuple[Callable[[Files], dict[str, Any]], ...] = (_system, _processor, _clocks, _memory, _limits)
    facts: dict[str, Any] = {}
    for section in sections:
        facts |= section(files)
    return facts


def cpu_info(files: Files) -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo, and lines that stand once for all (`Hardware`, `Model`)."""
    found: dict[str, str] = {}
    for line in (files.text("proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def cpu_model(files: Files) -> str | None:
    """The processor's or board's product name."""
    info = cpu_info(files)
    board = files.text("proc/device-tree/model")
    return info.get("model name") or board or info.get("Model") or info.get("Hardware") or None


def instruction_sets(files: Files, machine: str) -> dict[str, bool]:
    """Which of `INSTRUCTION_SETS` this kind of processor has; empty where its flags cannot be read."""
    info = cpu_info(files)
    words = set((info.get("flags") or info.get("Features") or "").split())
    if not words:
        return {}
    arm = machine in _ARM
    arm_facts = ("dot_product", "i8mm", "bf16", "sve")
    return {
        fact: any(word in words for word in names)
        for fact, names in INSTRUCTION_SETS.items()
        if (fact in arm_facts) == arm
    }


def memory(files: Files) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    pairs = (line.split() for line in (files.text("proc/meminfo") or "").splitlines())
    return {p[0].rstrip(":"): int(p[1]) * 1024 for p in pairs if len(p) == 3 and p[2] == "kB" and p[1].isdigit()}


def usable_cpus() -> list[int]:
    """The logical processors that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def physical_cores(files: Files) -> int | None:
    """Cores, not threads, of the whole host."""
    siblings = {
        files.text(str(path)) for path in files.paths("sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
    }
    return len(siblings - {None}) or None


def boot_id(files: Files | None = None) -> str | None:
    """Changes with each start of the kernel."""
    return (files or Files()).text("proc/sys/kernel/random/boot_id")


def _system(files: Files) -> dict[str, Any]:
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', files.text("etc/os-release") or "", re.MULTILINE))
    return {
        "hostname": socket.gethostname(),
        "os": release.get("PRETTY_NAME"),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "product": files.text("sys/class/dmi/id/product_name"),
        "virtualisation": _virtualisation(files),
        "container": _container(files),
        "boot_id": boot_id(files),
        "uptime_s": _first_number(files.text("proc/uptime")),
    }


def _processor(files: Files) -> dict[str, Any]:
    info = cpu_info(files)
    return {
        "cpu_model": cpu_model(files),
        "cpus": os.cpu_count(),
        "cpus_usable": usable_cpus(),
        "cores_physical": physical_cores(files),
        "smt": _smt(files),
        "microcode": info.get("microcode"),
        "numa_nodes": len(files.paths("sys/devices/system/node/node[0-9]*")) or None,
    }


def _clocks(files: Files) -> dict[str, Any]:
    policy = "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        "governor": files.text(f"{policy}/scaling_governor"),
        "scaling_driver": files.text(f"{policy}/scaling_driver"),
        "energy_preference": files.text(f"{policy}/energy_performance_preference"),
        "frequency_min_mhz": _mhz(files.number(f"{policy}/scaling_min_freq")),
        "frequency_max_mhz": _mhz(files.number(f"{policy}/scaling_max_freq")),
        "turbo": turbo(files),
        "on_battery": on_battery(files),
    }


def _memory(files: Files) -> dict[str, Any]:
    found = memory(files)
    swap, free = found.get("SwapTotal"), found.get("SwapFree")
    return {
        "memory_bytes": found.get("MemTotal"),
        "memory_available_bytes": found.get("MemAvailable"),
        "swap_used_bytes": None if swap is None or free is None else swap - free,
        "transparent_hugepages": _chosen(files.text("sys/kernel/mm/transparent_hugepage/enabled")),
    }


def _limits(files: Files) -> dict[str, Any]:
    quota = (files.text("sys/fs/cgroup/cpu.max") or "").split()
    limit = files.text("sys/fs/cgroup/memory.max")
    return {
        "cgroup_cpu_limit": int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else None,
        "cgroup_memory_limit_bytes": int(limit) if limit and limit.isdigit() else None,
    }


def on_battery(files: Files) -> bool | None:
    """Whether mains power is off; None on a host that knows of no mains."""
    mains = []
    for path in files.paths("sys/class/power_supply/*"):
        if files.text(f"{path}/type") in ("Mains", "USB"):
            mains.append(files.number(f"{path}/online"))
    known = [value for value in mains if value is not None]
    return not any(known) if known else None


def _virtualisation(files: Files) -> str | None:
    """The hypervisor, as far as it shows; `none` on a processor that says it is not virtual."""
    kind = files.text("sys/hypervisor/type")
    if kind:
        return kind
    flags = cpu_info(files).get("flags")
    if flags is None:
        return None
    if "hypervisor" not in flags.split():
        return "none"
    return files.text("sys/class/dmi/id/sys_vendor") or "unknown hypervisor"


def _container(files: Files) -> str | None:
    if (files.root / ".dockerenv").exists():
        return "docker"
    if (files.root / "run/.containerenv").exists():
        return "podman"
    return files.text("run/systemd/container")


def _smt(files: Files) -> bool | None:
    active = files.text("sys/devices/system/cpu/smt/active")
    return None if active is None else active == "1"


def turbo(files: Files) -> bool | None:
    """Whether the processor may go above its base clock."""
    no_turbo = files.text("sys/devices/system/cpu/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == "0"
    boost = files.text("sys/devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == "1"


def _chosen(text: str | None) -> str | None:
    """The word in brackets: `always [madvise] never` -> `madvise`."""
    found = re.search(r"\[(\w+)\]", text or "")
    return found.group(1) if found else None


def _mhz(khz: float | None) -> float | None:
    return None if khz is None else khz / 1000


def _first_number(text: str | None) -> float | None:
    return float(text.split()[0]) if text else None
