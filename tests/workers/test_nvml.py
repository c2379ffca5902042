# SPDX-License-Identifier: Apache-2.0
"""GPUs as devices, before a run and during it, with a stand-in driver: what it tells is used, what it does not is null.

Nothing here is a statement about hardware.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.contract.metrics import METRICS
from farm.contract.outcome import Outcome
from farm.contract.run import StageTime
from farm.errors import UsageError
from farm.settings import Settings
from tests.workers.standin_nvml import GiB, NVMLError, StandInDriver, full
from tests.workers.support import fake_job
from workers.daemon import nvml
from workers.daemon.clock import boottime
from workers.daemon.execute import Bench, execute
from workers.daemon.launch import device_environment
from workers.daemon.nvml import ComputeProcess, Gpu, find_gpu, gpu_devices, open_nvml
from workers.daemon.preflight_gpu import judge, preflight_gpu
from workers.daemon.probe import cpu_device, devices, find_device, named_devices
from workers.daemon.telemetry.nvml import GpuSample, GpuSampler, summarise

S = 1_000_000_000
STAGE = StageTime("measure", 0, 10 * S)


def _fails() -> None:
    raise NVMLError("Driver Not Loaded")


def test_a_gpu_is_a_device_with_its_facts() -> None:
    driver = full()
    (device,) = gpu_devices("box", driver)
    assert (device.device_id, device.device_class, device.kind) == ("box-gpu0123abcd", "nvidia-stand-in-1", "gpu")
    assert device.facts == {
        "uuid": "GPU-0123abcd-1111-2222-3333-444455556666",
        "memory_bytes": 80 * GiB,
        "compute_capability": "9.0",
        "driver_version": "580.1",
        "cuda_driver_version": "13.0",
        "pci_bus_id": "00000000:04:00.0",
        "power_limit_w": 700.0,
        "mig": False,
    }
    assert driver.open == 0


def test_what_a_driver_does_not_tell_is_absent() -> None:
    (device,) = gpu_devices("box", StandInDriver())
    assert device.facts == {"uuid": "GPU-0123abcd-1111-2222-3333-444455556666"}


def test_a_gpu_that_cannot_be_addressed_is_no_device() -> None:
    assert gpu_devices("box", StandInDriver(nvmlDeviceGetUUID=_fails)) == []


def test_without_a_driver_there_are_no_gpus_and_no_error(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    assert gpu_devices("box", StandInDriver(nvmlInit=_fails)) == []
    monkeypatch.setattr(nvml, "_pynvml", lambda: None)
    assert [device.kind for device in devices(settings)] == ["cpu"]


def test_a_worker_can_serve_a_gpu_by_its_id(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(nvml, "_pynvml", full)
    assert find_device(settings).kind == "cpu"
    device = find_device(settings, f"{cpu_device(settings).host}-gpu0123abcd")
    assert device_environment(device) == {"CUDA_VISIBLE_DEVICES": "GPU-0123abcd-1111-2222-3333-444455556666"}
    with open_nvml() as gpus:
        assert find_gpu(gpus, device) is not None
        assert find_gpu(gpus, replace(device, facts={})) is None


def test_devices_are_named_by_id_or_all_at_once(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    cpu = cpu_device(settings).device_id
    monkeypatch.setattr(nvml, "_pynvml", full)
    (gpu,) = named_devices(settings, ["gpus"])
    assert gpu.endswith("-gpu0123abcd")
    assert named_devices(settings, ["all", cpu]) == [cpu, gpu]
    assert named_devices(settings, []) == []


def test_gpus_of_a_host_without_any_are_refused(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(nvml, "_pynvml", lambda: None)
    with pytest.raises(UsageError, match="no GPU"):
        named_devices(settings, ["gpus"])


def test_a_cpu_run_sees_no_gpu(settings: Settings) -> None:
    assert device_environment(cpu_device(settings)) == {"CUDA_VISIBLE_DEVICES": ""}


def test_power_is_the_instants_where_the_board_tells_it_and_the_average_elsewhere() -> None:
    assert Gpu(full(), "h").power_w() == 350.0
    refused = SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(uiVal=0))
    assert Gpu(full(nvmlDeviceGetFieldValues=[refused]), "h").power_w() == 120.0
    assert Gpu(StandInDriver(), "h").power_w() is None


def test_event_reasons_are_read_under_their_older_name_too() -> None:
    assert Gpu(StandInDriver(nvmlDeviceGetCurrentClocksThrottleReasons=0x44), "h").event_reasons() == 0x44


def test_preflight_reads_the_board_and_finds_nothing_wrong() -> None:
    found = preflight_gpu(Gpu(full(), "h"))
    assert found.flags == []
    assert found.metrics == {"gpu_memory_before_bytes": float(GiB)}
    state = found.host["gpu"]
    assert (state["temperature_c"], state["power_w"], state["processes"]) == (41.0, 350.0, 0)
    assert state["event_reasons"] == []


def test_preflight_of_a_board_that_tells_nothing_is_null_not_0() -> None:
    found = preflight_gpu(Gpu(StandInDriver(), "h"))
    assert found.metrics == {"gpu_memory_before_bytes": None}
    assert set(found.host["gpu"].values()) == {None}
    assert [flag.name for flag in preflight_gpu(None).flags] == ["no_telemetry"]


def test_another_process_on_the_gpu_makes_a_run_invalid() -> None:
    other = SimpleNamespace(pid=4711, usedGpuMemory=GiB)
    found = preflight_gpu(Gpu(full(nvmlDeviceGetComputeRunningProcesses=[other]), "h"), leaving_s=0)
    assert [(flag.name, flag.level) for flag in found.flags] == [("foreign_process", "invalid")]
    assert "4711" in found.flags[0].evidence


def test_a_process_that_is_just_leaving_is_waited_for() -> None:
    answers = iter([[SimpleNamespace(pid=1, usedGpuMemory=None)], []])
    driver = full(nvmlDeviceGetComputeRunningProcesses=lambda: next(answers))
    assert preflight_gpu(Gpu(driver, "h"), leaving_s=0).flags == []


def test_a_hot_board_is_flagged_and_an_idle_one_is_not() -> None:
    hot = {"event_reasons": ["hw_thermal_slowdown"], "temperature_c": 95.0}
    assert [flag.name for flag in judge(hot, [])] == ["throttled"]
    assert judge({"event_reasons": ["gpu_idle"], "temperature_c": 30.0}, None) == []
    assert judge({"event_reasons": None, "temperature_c": None}, [ComputeProcess(1, None)])[0].level == "invalid"


def samples(count: int = 100, **changes: object) -> list[GpuSample]:
    """Ten a second over the stage, each like the first but for `changes`: constants, or functions of the index."""
    made = []
    for i in range(count + 1):
        sample = GpuSample(i * S // 10, 1980.0, 300.0, 50.0, 0.9, 2 * GiB, 0)
        made.append(replace(sample, **{k: v(i) if callable(v) else v for k, v in changes.items()}))
    return made


def test_samples_become_metrics_of_the_stage() -> None:
    energy = samples(energy_mj=lambda i: i * 30_000.0 if i % 5 == 0 else None)  # 300 W
    found = summarise(energy, STAGE, 1000)
    assert found.metrics == {
        "gpu_memory_peak_bytes": 2.0 * GiB,
        "gpu_clock_sm_mhz": 1980.0,
        "gpu_power_w": 300.0,
        "gpu_temperature_c": 50.0,
        "gpu_utilisation": pytest.approx(0.9),
        "gpu_throttled_share": 0.0,
        "energy_per_input_j": pytest.approx(3.0),
    }
    assert set(found.metrics) <= set(METRICS)
    assert found.flags == []


def test_what_no_sample_holds_is_null() -> None:
    nothing = [GpuSample(i * S) for i in range(11)]
    assert set(summarise(nothing, STAGE, 10).metrics.values()) == {None}


def test_an_energy_counter_that_stands_still_gives_no_energy() -> None:
    assert summarise(samples(energy_mj=5.0), STAGE, 10).metrics["energy_per_input_j"] is None


@pytest.mark.parametrize(
    ("changes", "flag", "level"),
    [
        ({"event_reasons": lambda i: 0x40 if i > 90 else 0}, "throttled", "suspect"),
        ({"event_reasons": 0x04}, "power_capped", "info"),
        ({"clock_sm_mhz": lambda i: 1980.0 if i < 50 else 1800.0}, "clock_drift", "suspect"),
        ({"processes": 2}, "foreign_process", "invalid"),
    ],
)
def test_doubts_are_flags(changes: dict[str, object], flag: str, level: str) -> None:
    found = summarise(samples(**changes), STAGE, 10)
    assert [(f.name, f.level) for f in found.flags] == [(flag, level)]


def test_a_moment_of_slowdown_while_the_board_changes_state_is_no_doubt() -> None:
    assert summarise(samples(event_reasons=lambda i: 0x08 if i == 3 else 0), STAGE, 10).flags == []


def test_the_sampler_asks_costly_functions_less_often() -> None:
    driver = full()
    with GpuSampler(Gpu(driver, "h"), rate_hz=200) as sampler:
        while len(sampler.samples) < 21:
            pass
    assert [s.energy_mj is not None for s in sampler.samples[:6]] == [True, False, False, False, False, True]
    assert sampler.samples[10].processes == 0
    assert sampler.samples[11].processes is None


def test_a_job_on_a_gpu_device_has_its_telemetry_in_the_record(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, jobs: JobStore
) -> None:
    driver = full()
    monkeypatch.setattr(nvml, "_pynvml", lambda: driver)
    gpu = find_device(bench.settings, f"{bench.device.host}-gpu0123abcd")
    on_gpu = replace(bench, device=gpu)
    job = fake_job("j-gpu", gpu.device_id)
    jobs.submit(job.sweep_id, job.sweep_name, 5, [job])
    assert jobs.dispatch(job.job_id, gpu.device_id)
    claim = jobs.claim(job.job_id, gpu.device_id, "test", bench.settings.lease_s)
    assert isinstance(claim, Claim)
    execute(on_gpu, jobs, claim, boottime())
    record = bench.store.records.read(job.run_id(1))
    assert record.outcome is Outcome.OK, record.failure
    assert record.metrics["gpu_memory_peak_bytes"] == float(GiB)
    assert record.metrics["gpu_memory_before_bytes"] == float(GiB)
    assert record.host["gpu"]["temperature_c"] == 41.0
    assert record.environment["variables"]["CUDA_VISIBLE_DEVICES"] == gpu.facts["uuid"]
    assert driver.open == 0
