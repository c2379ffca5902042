# SPDX-License-Identifier: Apache-2.0
"""What is read of the host: from made-up trees, so that hosts unlike this one are tested too; and from this one."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from farm.contract.names import check_name
from farm.settings import Settings
from workers.daemon import preflight as preflight_module
from workers.daemon.host import Files, cpu_model, host_facts, instruction_sets, on_battery
from workers.daemon.preflight import (
    CpuTimes,
    Meanwhile,
    cpu_times,
    judge,
    load_average,
    oom_kills,
    others_share,
    preflight,
)
from workers.daemon.probe import cpu_device, find_device

LAPTOP = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7\n"
    "microcode\t: 0xf4\nflags\t\t: fpu avx2 avx_vnni\n",
    "proc/meminfo": "MemTotal:       16000 kB\nMemAvailable:    1000 kB\nSwapTotal: 100 kB\nSwapFree: 60 kB\n",
    "proc/loadavg": "3.50 1.0 0.5 2/300 1234\n",
    "proc/uptime": "12.5 40.1\n",
    "proc/stat": "cpu  100 0 50 800 40 0 10 5 0 0\ncpu0 1 2 3\n",
    "proc/vmstat": "nr_free_pages 5\noom_kill 3\n",
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
    "sys/devices/system/cpu/smt/active": "1",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "4700000",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0,1",
    "sys/devices/system/cpu/cpu1/topology/thread_siblings_list": "0,1",
    "sys/class/power_supply/AC/type": "Mains",
    "sys/class/power_supply/AC/online": "0",
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/fs/cgroup/cpu.max": "150000 100000",
    "sys/fs/cgroup/memory.max": "max",
}


def tree(root: Path, files: dict[str, str]) -> Files:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Files(root)


def test_facts_of_a_laptop(tmp_path: Path) -> None:
    facts = host_facts(tree(tmp_path, LAPTOP))
    expected = {
        "os": "Debian GNU/Linux 12",
        "cpu_model": "Intel(R) Core(TM) i7",
        "microcode": "0xf4",
        "cores_physical": 1,
        "smt": True,
        "turbo": True,
        "governor": "powersave",
        "frequency_max_mhz": 4700.0,
        "frequency_min_mhz": None,
        "on_battery": True,
        "memory_bytes": 16000 * 1024,
        "swap_used_bytes": 40 * 1024,
        "virtualisation": "none",
        "transparent_hugepages": "madvise",
        "cgroup_cpu_limit": 1.5,
        "cgroup_memory_limit_bytes": None,
        "uptime_s": 12.5,
    }
    assert {key: facts[key] for key in expected} == expected


def test_a_host_that_shows_nothing_gives_nulls_and_no_zeros(tmp_path: Path) -> None:
    facts = host_facts(Files(tmp_path))
    known = {"hostname", "kernel", "arch", "cpus", "cpus_usable"}
    assert {key for key, value in facts.items() if value is not None} == known
    assert preflight_module.memory(Files(tmp_path)) == {}
    assert load_average(Files(tmp_path)) is None
    assert cpu_times(Files(tmp_path)) is None
    assert oom_kills(Files(tmp_path)) is None
    assert preflight(Files(tmp_path)).flags == []
    assert preflight(Files(tmp_path)).metrics == {"cpu_load_before": None}


def test_this_host_can_be_read() -> None:
    found = preflight()
    assert found.host["memory_bytes"] > 1 << 28
    assert found.host["cpus_usable"] == sorted(os.sched_getaffinity(0))
    assert found.metrics["cpu_load_before"] is not None


def test_an_arm_board_is_known_by_its_board_and_its_own_instructions(tmp_path: Path) -> None:
    files = tree(
        tmp_path,
        {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimddp\n", "proc/device-tree/model": "Jetson Orin\0"},
    )
    assert cpu_model(files) == "Jetson Orin"
    found = instruction_sets(files, "aarch64")
    assert found == {"dot_product": True, "i8mm": False, "bf16": False, "sve": False}
    assert instruction_sets(Files(tmp_path / "nowhere"), "x86_64") == {}


def test_no_mains_is_unknown_and_mains_on_is_not_battery(tmp_path: Path) -> None:
    assert on_battery(Files(tmp_path)) is None
    files = tree(tmp_path, {"sys/class/power_supply/A/type": "Mains", "sys/class/power_supply/A/online": "1"})
    assert on_battery(files) is False


def test_the_cpu_as_a_device_has_safe_names_and_facts(settings: Settings, tmp_path: Path) -> None:
    device = cpu_device(settings, tree(tmp_path, LAPTOP))
    cores = len(os.sched_getaffinity(0))
    assert device.device_class == f"cpu-intel-r-core-tm-i7-{cores}c"
    assert device.facts["memory_bytes"] == 16000 * 1024
    assert device.facts["arch"] == platform.machine()
    if platform.machine() == "x86_64":
        assert device.facts["avx2"] is True
        assert device.facts["avx512_vnni"] is False
    assert None not in device.facts.values()
    check_name(device.device_id, "device")
    assert find_device(settings).device_id == device.device_id


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"load": 0.5, "cpus": 2}, []),
        ({"load": 1.5, "cpus": 2, "busy_share": 0.6}, ["host_busy"]),
        ({"load": 1.5, "cpus": 2, "busy_share": 0.02}, []),
        ({"load": 1.5, "cpus": 2}, ["host_busy"]),
        ({"load": None}, []),
        ({"on_battery": True}, ["on_battery"]),
        ({"memory_bytes": 1000, "available_bytes": 99}, ["low_memory"]),
        ({"memory_bytes": 1000, "available_bytes": 101}, []),
    ],
)
def test_doubts_about_the_host_become_flags(given: dict[str, Any], flags: list[str]) -> None:
    fields = {"load": 0.0, "cpus": 1, "busy_share": None, "on_battery": None} | {
        "memory_bytes": None,
        "available_bytes": None,
    }
    found = judge(**(fields | given))
    assert [flag.name for flag in found] == flags
    assert all(flag.level == "suspect" and flag.evidence for flag in found)


def stat(user: int, idle: int) -> str:
    """/proc/stat of a host whose processors worked so many ticks of 10 ms, and stood still so many."""
    return f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0"


@pytest.mark.parametrize(("own_s", "share"), [(0.0, 0.5), (4.0, 0.3), (10.0, 0.0), (11.0, 0.0)])
def test_what_others_had_is_what_was_not_ones_own(own_s: float, share: float) -> None:
    before, after = CpuTimes(100.0, 0.0, 500.0), CpuTimes(110.0, 0.0, 520.0)
    assert others_share(before, after, own_s) == pytest.approx(share)
    assert others_share(before, before, 0.0) is None


@pytest.mark.parametrize(("others", "looked"), [(None, True), (0.02, False), (0.2, True), (0.9, True)])
def test_a_loaded_host_is_looked_at_unless_it_was_clearly_idle_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: float | None, looked: bool
) -> None:
    tree(tmp_path, {"proc/loadavg": "99.00 0 0 1/1 1", "proc/stat": stat(0, 1000)})
    looks: list[float] = []
    monkeypatch.setattr(preflight_module, "_busy_share", lambda _files, limit: looks.append(limit) or 0.8)
    found = preflight(Files(tmp_path), others=others)
    assert bool(looks) is looked
    assert [flag.name for flag in found.flags] == (["host_busy"] if looked else [])


def test_too_short_a_time_stands_for_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [10.0]
    monkeypatch.setattr(preflight_module.time, "monotonic", lambda: clock[0])
    tree(tmp_path, {"proc/stat": stat(0, 1000)})
    meanwhile = Meanwhile(Files(tmp_path))
    tree(tmp_path, {"proc/stat": stat(50, 1050)})
    for at_s, told in ((10.01, False), (10.5, True), (15.0, False)):
        clock[0] = at_s
        assert (meanwhile.others(0.0) is not None) is told
