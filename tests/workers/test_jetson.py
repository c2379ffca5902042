# SPDX-License-Identifier: Apache-2.0
"""A Jetson's readings, from file trees shaped like those of JetPack 5 and 6. No statement about any board."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.contract.metrics import METRICS
from farm.contract.run import StageTime
from workers.daemon.host import Files
from workers.daemon.jetson import Jetson, find_jetson, is_jetson, jetson_devices, module_name, total_w
from workers.daemon.preflight_gpu import preflight_soc
from workers.daemon.telemetry import jetson as telemetry
from workers.daemon.telemetry.channels import probe, read
from workers.daemon.telemetry.summary import summarise
from workers.daemon.telemetry.trace import Trace

INA = "sys/bus/i2c/drivers/ina3221"
CPU = "sys/devices/system/cpu"


def rails(driver: str, address: str, number: int, labels: list[str]) -> dict[str, str]:
    """One monitor: 5 V and 1, 2, 3 A on its channels, and the seventh that sums them."""
    base = f"{driver}/{address}/hwmon/hwmon{number}"
    files = {f"{base}/in7_label": "sum of shunt voltages", f"{base}/in7_input": "99"}
    for i, label in enumerate(labels, 1):
        files |= {f"{base}/in{i}_label": label, f"{base}/in{i}_input": "5000", f"{base}/curr{i}_input": f"{i}000"}
    return files


COMMON = {
    "proc/meminfo": "MemTotal: 64349620 kB\nMemAvailable: 50000000 kB\n",
    f"{CPU}/cpu0/cpufreq/scaling_min_freq": "729600",
    f"{CPU}/cpu0/cpufreq/scaling_max_freq": "2201600",
    "sys/class/thermal/thermal_zone0/temp": "48500",
    "sys/class/thermal/thermal_zone1/temp": "51500",
}
JETPACK5 = COMMON | {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "var/lib/dpkg/status": "Package: nvidia-jetpack\nStatus: install ok\nVersion: 5.1.2-b104\n\nPackage: zip\n",
    "var/lib/nvpmodel/status": "pmode:0003 fmode:quiet\n",
    "sys/class/devfreq/17000000.ga10b/cur_freq": "1300500000",
    "sys/class/devfreq/17000000.ga10b/min_freq": "306000000",
    "sys/class/devfreq/17000000.ga10b/max_freq": "1300500000",
    "sys/devices/gpu.0/load": "873",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm",
    "sys/class/thermal/thermal_zone1/type": "GPU-therm",
    **rails(f"{INA}x", "1-0040", 3, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
    **rails(f"{INA}x", "1-0041", 4, ["NC", "VDDQ_VDD2_1V8AO", "NC"]),
}
JETPACK6 = COMMON | {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,tegra234\0",
    "proc/meminfo": "MemTotal: 7802788 kB\nMemAvailable: 5000000 kB\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000",
    "sys/class/devfreq/17000000.gpu/min_freq": "1020000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000",
    "sys/devices/platform/bus@0/17000000.gpu/load": "500",
    f"{CPU}/cpu0/cpufreq/scaling_min_freq": "1728000",
    f"{CPU}/cpu0/cpufreq/scaling_max_freq": "1728000",
    "sys/class/thermal/thermal_zone0/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/type": "tj-thermal",
    **rails(INA, "1-0040", 1, ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]),
}


def tree(root: Path, files: dict[str, str]) -> Files:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Files(root)


def nvpmodel(files: Files, body: str) -> None:
    program = files.root / "usr/sbin/nvpmodel"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


def test_an_agx_orin_of_jetpack_5_is_a_device_with_its_facts(tmp_path: Path) -> None:
    (device,) = jetson_devices("box", tree(tmp_path, JETPACK5))
    assert (device.device_id, device.device_class, device.kind) == ("box-soc", "jetson-agx-orin-64", "soc")
    assert device.facts == {
        "l4t": "35.4.1",
        "jetpack": "5.1.2",
        "power_mode": "(3)",
        "chip": "tegra234",
        "compute_capability": "8.7",
        "cores": 1,
        "memory_bytes": 64349620 * 1024,
    }


def test_an_orin_nano_of_jetpack_6_without_the_package_has_its_major_version(tmp_path: Path) -> None:
    (device,) = jetson_devices("box", tree(tmp_path, JETPACK6))
    assert device.device_class == "jetson-orin-nano-8"
    assert (device.facts["l4t"], device.facts["jetpack"]) == ("36.4.3", "6")
    assert "power_mode" not in device.facts


@pytest.mark.parametrize(
    ("board", "gib", "name"),
    [
        ("NVIDIA Orin NX Developer Kit", 15, "jetson-orin-nx-16"),
        ("Jetson-AGX", 31, "jetson-agx-xavier-32"),
        ("NVIDIA Jetson Xavier NX Developer Kit", 7, "jetson-xavier-nx-8"),
        ("NVIDIA Jetson AGX Orin", 30, "jetson-agx-orin-32"),
    ],
)
def test_a_class_is_the_module_and_its_memory(board: str, gib: int, name: str) -> None:
    assert module_name(board, gib * 2**30) == name


def test_other_hosts_are_no_jetson(tmp_path: Path) -> None:
    assert find_jetson(Files(tmp_path)) is None
    assert jetson_devices("box", tree(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5"})) == []
    assert not is_jetson(Files(tmp_path))


def test_rails_are_power_without_unconnected_channels_and_sums(tmp_path: Path) -> None:
    found = Jetson(tree(tmp_path, JETPACK5)).rails_w()
    expected = {"VDD_GPU_SOC": 5.0, "VDD_CPU_CV": 10.0, "VIN_SYS_5V0": 15.0, "VDDQ_VDD2_1V8AO": 10.0}
    assert found == pytest.approx(expected)
    assert total_w(found) == (pytest.approx(40.0), "sum of VDDQ_VDD2_1V8AO, VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0")


def test_a_board_with_an_input_rail_is_not_counted_twice(tmp_path: Path) -> None:
    found = Jetson(tree(tmp_path, JETPACK6)).rails_w()
    assert len(found) == 3
    assert total_w(found) == (5.0, "VDD_IN")
    assert total_w({}) is None


def test_load_clock_and_temperature_are_found_in_both_shapes(tmp_path: Path) -> None:
    five, six = Jetson(tree(tmp_path / "5", JETPACK5)), Jetson(tree(tmp_path / "6", JETPACK6))
    assert (five.load(), five.gpu_mhz(), five.temperatures_c()) == (0.873, 1300.5, {"gpu_c": 51.5, "tj_c": None})
    assert (six.load(), six.gpu_mhz(), six.temperatures_c()) == (0.5, 1020.0, {"gpu_c": 48.5, "tj_c": 51.5})


def test_pinned_clocks_are_those_whose_lowest_is_their_highest(tmp_path: Path) -> None:
    assert Jetson(tree(tmp_path / "5", JETPACK5)).settings()["jetson_clocks"] is False
    assert Jetson(tree(tmp_path / "6", JETPACK6)).settings()["jetson_clocks"] is True
    assert Jetson(Files(tmp_path / "none")).settings()["jetson_clocks"] is None


def test_the_power_mode_is_nvpmodels_word_and_a_program_that_fails_is_no_trouble(tmp_path: Path) -> None:
    files = tree(tmp_path / "a", JETPACK5)
    nvpmodel(files, "printf 'NV Fan Mode:quiet\\nNV Power Mode: MODE_30W\\n2\\n'")
    assert Jetson(files).settings()["power_mode"] == "MODE_30W (2)"
    broken = tree(tmp_path / "b", JETPACK6)
    nvpmodel(broken, "exit 1")
    assert Jetson(broken).settings()["power_mode"] is None


def test_preflight_keeps_how_the_board_is_set(tmp_path: Path) -> None:
    found = preflight_soc(tree(tmp_path, JETPACK6))
    assert (found.flags, found.host["soc"]["gpu_max_mhz"], found.host["soc"]["gpu_c"]) == ([], 1020.0, 48.5)
    assert [flag.name for flag in preflight_soc(Files(tmp_path / "none")).flags] == ["no_telemetry"]


def test_what_a_board_lacks_is_absent_and_not_asked_again(tmp_path: Path) -> None:
    board = {name: text for name, text in JETPACK5.items() if "load" not in name and "ina3221" not in name}
    found = probe(telemetry.channels(Jetson(tree(tmp_path, board))))
    assert set(found.silent) == {"soc_load", "soc_power"}
    assert set(read(found.channels, 1)) == {"sm_mhz", "gpu_c", "memory_available"}


def test_a_rail_that_does_not_answer_leaves_no_total(tmp_path: Path) -> None:
    files = tree(tmp_path, JETPACK5)
    board = Jetson(files)
    (files.root / f"{INA}x/1-0040/hwmon/hwmon3/curr1_input").unlink()
    values = read(telemetry.channels(board), 1)
    assert "board_w" not in values
    assert len(values["rails_w"]) == 3


def test_a_boards_telemetry_becomes_metrics_with_the_rail_named(tmp_path: Path) -> None:
    board = Jetson(tree(tmp_path, JETPACK6))
    values = read(telemetry.channels(board), 1, end=True)
    second = 1_000_000_000
    samples = [{**values, "ns": i * second // 10, "memory_available": 1000 - i} for i in range(101)]
    trace = Trace(telemetry.facts(board), 0.1, {}, samples)
    found = summarise(trace, StageTime("measure", 0, 10 * second), kind="soc", inputs=100)
    assert found.metrics["gpu_utilisation"] == pytest.approx(0.5)
    assert found.metrics["soc_power_w"] == pytest.approx(5.0)
    assert found.metrics["memory_available_drop_bytes"] == 100
    assert found.metrics["energy_per_input_j"] == pytest.approx(0.5)
    assert found.facts["energy_source"] == "integrated power of VDD_IN (INA3221)"
    assert set(found.metrics) <= set(METRICS)
    assert found.flags == []
