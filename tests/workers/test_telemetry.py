# SPDX-License-Identifier: Apache-2.0
"""From a trace to metrics, energy and doubts: pure, on made-up traces. Nothing here is a statement about hardware."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from farm.contract.metrics import METRICS
from farm.contract.run import StageTime
from farm.thresholds import DEFAULTS, THRESHOLDS
from tests.workers.standin_nvml import GiB, StandInDriver, full
from workers.daemon.host import Files
from workers.daemon.nvml import Gpu
from workers.daemon.telemetry import cpu, gpu
from workers.daemon.telemetry.channels import Channel, probe, read
from workers.daemon.telemetry.energy import integrate, stage_energy, unwrap
from workers.daemon.telemetry.summary import Telemetry, summarise
from workers.daemon.telemetry.trace import Trace, read_trace

S = 1_000_000_000
STAGE = StageTime("measure", 2 * S, 8 * S)
GPU_FACTS = {"gpu": True, "cpus": 4, "clock_sm_default_mhz": 1980.0}
NAMES = ("counter", "power")


def trace(facts: dict[str, Any], seconds: int = 10, **series: Any) -> Trace:
    """Ten samples a second; a series is a constant or a function of the time in seconds, None where it is silent."""
    samples = []
    for i in range(10 * seconds + 1):
        values = {name: value(i / 10) if callable(value) else value for name, value in series.items()}
        samples.append({"ns": i * S // 10} | {name: value for name, value in values.items() if value is not None})
    return Trace(facts, 0.1, {"one": 1.0}, samples)


def flags(found: Telemetry) -> list[tuple[str, str]]:
    return [(flag.name, flag.level) for flag in found.flags]


def on_gpu(**series: Any) -> Telemetry:
    values: dict[str, Any] = {"sm_mhz": 1980.0, "reasons": 0, "processes": 1} | series
    return summarise(trace(GPU_FACTS, **values), STAGE, kind="gpu", inputs=100)


def on_cpu(own_cpus: float | None = 1.0, waited: float | None = None, **series: Any) -> Telemetry:
    return summarise(trace({"cpus": 4}, **series), STAGE, kind="cpu", inputs=100, own_cpus=own_cpus, wait_share=waited)


# Channels.


def test_a_channel_that_does_not_answer_is_asked_once() -> None:
    asked: list[str] = []

    def silent() -> dict[str, Any]:
        asked.append("silent")
        return {"x": None}

    found = probe([Channel("silent", 1, silent), Channel("speaks", 1, lambda: {"y": 0})])
    assert (read(found.channels, 0), found.silent, asked) == ({"y": 0}, ["silent"], ["silent"])
    assert list(found.cost_us) == ["speaks"]


def test_costly_functions_of_a_gpu_are_asked_at_borders_alone() -> None:
    channels = probe(gpu.channels(Gpu(full(), "h"))).channels
    assert "energy_mj" not in read(channels, 0)
    assert read(channels, 3, border=True)["energy_mj"] == 1000.0
    assert "set:power_limit_w" not in read(channels, 3, border=True)
    assert read(channels, 3, end=True)["set:power_limit_w"] == 700.0
    assert "processes" not in read(channels, 1)
    assert read(channels, 10)["processes"] == 0


def test_a_gpu_tells_instant_and_average_power_and_both_memory_versions_apart() -> None:
    def memory() -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(total=80 * GiB, used=GiB, free=79 * GiB, reserved=GiB // 2)

    driver = full(nvmlDeviceGetMemoryInfo=memory)
    driver.nvmlMemory_v2 = 0x2000028
    values = read(probe(gpu.channels(Gpu(driver, "h"))).channels, 0)
    assert (values["power_instant_w"], values["power_average_w"], values["power_usage_w"]) == (350.0, 300.0, 120.0)
    assert (values["mem_used"], values["mem2_reserved"], values["mem2_used"]) == (GiB, GiB // 2, GiB)
    assert (values["pcie_generation"], values["pcie_width"], values["pstate"]) == (5, 16, 0)


def test_a_gpu_that_tells_nothing_has_no_channels_and_no_zeros() -> None:
    found = probe(gpu.channels(Gpu(StandInDriver(), "h")))
    assert found.channels == []


def test_the_channels_of_a_host_are_what_its_files_tell(tmp_path: Path) -> None:
    first = sorted(os.sched_getaffinity(0))[0]
    written = {
        "sys/class/hwmon/hwmon0/name": "k10temp",
        "sys/class/hwmon/hwmon0/temp1_input": "61500",
        "sys/class/hwmon/hwmon1/name": "nvme",
        "sys/class/hwmon/hwmon1/temp1_input": "99000",
        "sys/class/powercap/intel-rapl:0/name": "package-0",
        "sys/class/powercap/intel-rapl:0/energy_uj": "5",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "100",
        "sys/class/powercap/intel-rapl:0:0/name": "core",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
        f"sys/devices/system/cpu/cpu{first}/cpufreq/scaling_cur_freq": "2000000",
        "proc/stat": "cpu  100 0 50 800 40 0 10 5 0 0\nctxt 777\n",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    files = Files(tmp_path)
    assert read(probe(cpu.channels(files)).channels, 0, end=True) == {
        "cpu_mhz": [2000.0],
        "cpu_c": [61.5],
        "cpu_energy_uj": [5.0],
        "cpu_busy_s": 1.6,
        "cpu_steal_s": 0.05,
        "context_switches": 777,
        "set:governor": "powersave",
    }
    assert cpu.facts(files)["cpu_energy_range_uj"] == [100.0]


# Traces.


def test_a_trace_that_was_cut_short_or_damaged_says_so(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.jsonl"
    head = json.dumps({"schema": 1, "period_s": 0.1, "facts": {"cpus": 2}, "cost_us": {}}) + "\n"
    path.write_text(head + '{"ns":1,"x":2}\n{"end":true}\n')
    whole = read_trace(path)
    assert (whole.problem, whole.facts, whole.values("x")) == (None, {"cpus": 2}, [2.0])
    path.write_text(head + '{"ns":1,"x":2}\n')
    assert "ended before the run" in (read_trace(path).problem or "")
    path.write_text(head + '{"ns":1,"x\n{"ns":2,"x":3}\n{"end":true}\n')
    damaged = read_trace(path)
    assert (damaged.problem, damaged.values("x")) == ("1 lines are damaged", [3.0])
    assert "no trace" in (read_trace(tmp_path / "none").problem or "")


# Metrics.


def test_samples_of_a_gpu_become_metrics_of_the_timed_stage() -> None:
    found = on_gpu(
        power_instant_w=lambda t: 300.0 if 2 <= t <= 8 else 50.0,
        power_average_w=290.0,
        gpu_c=lambda t: 40 + t,
        util=0.9,
        mem_used=lambda t: 3 * GiB if t == 1 else 2 * GiB,
        mem_mhz=2619.0,
        own_cpu_s=lambda t: t / 100,
    )
    expected = {
        "gpu_memory_peak_bytes": 3 * GiB,
        "gpu_memory_v2_peak_bytes": None,
        "gpu_clock_sm_mhz": 1980.0,
        "gpu_clock_memory_mhz": 2619.0,
        "gpu_power_w": 300.0,
        "gpu_power_average_w": 290.0,
        "gpu_temperature_c": 48.0,
        "gpu_utilisation": pytest.approx(0.9),
        "gpu_throttled_share": 0.0,
        "energy_per_input_j": pytest.approx(18.0),
        "telemetry_cpu_share": pytest.approx(0.01),
    }
    assert {name: found.metrics[name] for name in expected} == expected
    assert set(found.metrics) <= set(METRICS)
    assert found.facts["energy_source"] == "integrated power at instants (NVML)"
    assert found.flags == []


def test_what_no_sample_holds_is_null() -> None:
    found = summarise(trace(GPU_FACTS), STAGE, kind="gpu", inputs=100)
    assert set(found.metrics.values()) == {None}
    assert "no power sensor" in found.withheld["energy_per_input_j"]


def test_frequency_and_temperature_of_the_processor_are_those_of_the_timed_stage() -> None:
    found = on_cpu(cpu_mhz=lambda t: [3000.0, 2000.0] if 2 <= t <= 8 else [800.0, 800.0], cpu_c=lambda t: [40 + t])
    assert (found.metrics["cpu_frequency_mhz"], found.metrics["cpu_temperature_c"]) == (2500.0, 48.0)


def test_a_run_without_a_timed_stage_has_its_peaks_alone() -> None:
    run = trace(GPU_FACTS, mem_used=GiB, processes=5)
    found = summarise(run, None, kind="gpu", inputs=0)
    assert found == Telemetry({"gpu_memory_peak_bytes": float(GiB), "gpu_memory_v2_peak_bytes": None})
    assert summarise(trace({}), None, kind="cpu", inputs=0) == Telemetry()


# Energy.


def flat(watt: float, seconds: int = 10) -> list[tuple[int, float]]:
    return [(i * S // 10, watt) for i in range(10 * seconds + 1)]


def test_a_counter_that_is_read_late_is_put_right_by_the_power_of_that_moment() -> None:
    readings = [(0, 5.0), (int(2.08 * S), 208.0), (int(8.05 * S), 805.0), (10 * S, 1000.0)]
    found = stage_energy(readings, flat(100.0), STAGE, NAMES, DEFAULTS)
    assert (found.joules, found.trace_joules) == (pytest.approx(600.0), pytest.approx(600.0))
    assert (found.source, found.flag, found.withheld) == ("counter", None, None)


def test_counter_and_power_that_disagree_are_flagged_and_the_times_are_not_doubted() -> None:
    readings = [(i * S, 100.0 * i) for i in range(11)]
    found = stage_energy(readings, flat(130.0), STAGE, NAMES, DEFAULTS)
    assert found.joules == pytest.approx(600.0)
    assert found.flag is not None
    assert (found.flag.name, found.flag.level) == ("energy_doubtful", "info")
    assert "600 J" in found.flag.evidence
    assert "780 J" in found.flag.evidence
    assert stage_energy(readings, flat(109.0), STAGE, NAMES, DEFAULTS).flag is None


@pytest.mark.parametrize(
    ("counter", "power", "reason"),
    [
        ([], [], "no energy counter and no power sensor"),
        ([(0, 1.0), (10 * S, 9.0)], [], "do not cover the timed stage"),
        ([], flat(100.0)[:50], "do not cover the timed stage"),
        ([(i * S, 7.0) for i in range(11)], [], "do not cover the timed stage"),
    ],
    ids=["nothing", "far from the borders", "half a trace", "stands still"],
)
def test_energy_that_cannot_be_had_is_withheld_with_the_reason(counter: Any, power: Any, reason: str) -> None:
    found = stage_energy(counter, power, STAGE, NAMES, DEFAULTS)
    assert found.joules is None
    assert reason in (found.withheld or "")


def test_a_short_stage_has_no_energy() -> None:
    found = stage_energy([], flat(100.0), StageTime("measure", 0, 2 * S), NAMES, DEFAULTS)
    assert found.withheld == "the timed stage took 2 s, 5 s is the least"


def test_an_integral_is_the_area_under_the_trace_and_a_hole_leaves_none() -> None:
    ramp = [(i * S // 10, i / 10) for i in range(101)]
    assert integrate(ramp, STAGE) == pytest.approx((64 - 4) / 2)
    assert integrate([p for p in ramp if not 3 * S < p[0] < 5 * S], STAGE) is None


def test_a_counter_that_starts_again_from_zero_goes_on() -> None:
    readings = [(i * S, ((i * 10e6) % 30e6, (i * 5e6) % 40e6)) for i in range(11)]
    rising = unwrap(readings, [30e6, 40e6])
    assert [round(joule, 6) for _, joule in rising] == [15.0 * i for i in range(11)]
    assert unwrap(readings, [30e6, None]) == []
    assert unwrap(readings, [30e6]) == []
    assert unwrap([], []) == []


def test_energy_of_a_run_on_the_processor_is_the_packages() -> None:
    wrap = 30e6
    run = trace({"cpus": 4, "cpu_energy_range_uj": [wrap]}, cpu_energy_uj=lambda t: [(t * 10e6) % wrap])
    found = summarise(run, STAGE, kind="cpu", inputs=100)
    assert found.metrics["energy_per_input_j"] == pytest.approx(0.6)
    assert found.metrics["energy_trace_per_input_j"] is None
    assert found.facts["energy_source"] == "package energy counters (RAPL)"


# Doubts.


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ({"reasons": lambda t: 0x40 if t > 7.7 else 0}, [("throttled", "suspect")]),
        ({"reasons": lambda t: 0x40 if t > 6 else 0}, [("throttled", "invalid")]),
        ({"reasons": lambda t: 0x08 if t == 3 else 0}, []),
        ({"violation_thermal_ns": lambda t: {0: 0, 2.1: 0, 8.1: 3e8}.get(t)}, [("throttled", "suspect")]),
        ({"violation_thermal_ns": lambda t: {0: 0, 2.1: 7e9, 8.1: 7e9}.get(t)}, []),
        ({"reasons": 0x04}, [("power_capped", "info")]),
        ({"reasons": lambda t: 0x04 if t > 7 else 0}, []),
        ({"sm_mhz": lambda t: 1980.0 if t < 5 else 1800.0}, [("clock_drift", "suspect")]),
        ({"sm_mhz": 1400.0}, [("clock_low", "suspect")]),
        ({"sm_mhz": 1400.0, "reasons": 0x04}, [("power_capped", "info"), ("clock_low", "info")]),
        ({"processes": 2}, [("foreign_process", "invalid")]),
        ({"set:power_limit_w": lambda t: {0: 700.0, 10: 500.0}.get(t)}, [("settings_changed", "invalid")]),
        ({"set:power_limit_w": lambda t: {0: 700.0, 10: 700.0}.get(t)}, []),
    ],
)
def test_doubts_about_a_gpu_are_flags(series: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = on_gpu(**series)
    assert flags(found) == expected
    assert all(flag.evidence for flag in found.flags)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cpu_busy_s": lambda t: 1.2 * t}, []),
        ({"cpu_busy_s": lambda t: 2.0 * t}, [("foreign_process", "suspect")]),
        ({"cpu_busy_s": lambda t: 3.5 * t}, [("foreign_process", "invalid")]),
        ({"cpu_busy_s": lambda t: 2.0 * t, "own_cpu_s": lambda t: 0.7 * t}, []),
        ({"cpu_busy_s": lambda t: 4.0 * t, "own_cpus": None}, []),
        ({"cpu_steal_s": lambda t: 0.5 * t}, [("stolen_time", "suspect")]),
        ({"cpu_mhz": lambda t: [3000 - 50 * t]}, [("clock_drift", "suspect")]),
        ({"cpu_throttles": lambda t: {0: 7, 10: 9}.get(t)}, [("throttled", "suspect")]),
        ({"waited": 0.049}, []),
        ({"waited": 0.051}, [("host_busy", "suspect")]),
        ({"set:on_battery": lambda t: {0: False, 10: True}.get(t)}, [("settings_changed", "invalid")]),
    ],
)
def test_doubts_about_the_host_are_flags(given: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert flags(on_cpu(**given)) == expected


def test_a_clock_of_the_processor_that_wanders_is_no_doubt_about_a_gpu() -> None:
    assert flags(on_gpu(cpu_mhz=lambda t: [3000 - 200 * t])) == []


def test_a_low_clock_of_a_board_whose_clock_follows_its_load_is_no_doubt() -> None:
    found = summarise(trace({"gpu_max_mhz": 1300.5}, sm_mhz=306.0), STAGE, kind="soc", inputs=1)
    assert flags(found) == [("clock_low", "info")]


def test_limits_can_be_changed() -> None:
    limits = {**DEFAULTS, "clock_drift": 0.2, "energy_min_s": 10}
    run = trace(GPU_FACTS, sm_mhz=lambda t: 1980.0 if t < 5 else 1800.0, power_usage_w=1.0)
    found = summarise(run, STAGE, kind="gpu", inputs=1, limits=limits)
    assert found.flags == []
    assert "10 s is the least" in found.withheld["energy_per_input_j"]


def test_telemetry_that_is_missing_or_thin_is_itself_a_doubt() -> None:
    gone = summarise(Trace(problem="it could not be started"), STAGE, kind="cpu", inputs=1)
    assert flags(gone) == [("no_telemetry", "suspect")]
    assert set(gone.metrics.values()) == {None}
    assert flags(summarise(trace({"cpus": 2}), STAGE, kind="gpu", inputs=1)) == [("no_telemetry", "suspect")]
    whole = trace({"cpus": 2})
    thin = Trace(whole.facts, 0.1, {}, whole.samples[::4])
    assert flags(summarise(thin, STAGE, kind="cpu", inputs=1)) == [("telemetry_sparse", "info")]


def test_every_threshold_says_where_it_comes_from() -> None:
    assert all(threshold.source and threshold.unit for threshold in THRESHOLDS.values())
