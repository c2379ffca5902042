# SPDX-License-Identifier: Apache-2.0
"""GPUs as devices, before a run and during it, with a stand-in driver: what it tells is used, what it does not is null.

Nothing here is a statement about hardware.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.contract.outcome import Outcome
from farm.errors import UsageError
from farm.settings import Settings
from tests.workers.standin_nvml import GiB, NVMLError, StandInDriver, field, full
from tests.workers.support import fake_job
from workers.daemon import nvml
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute
from workers.daemon.launch import device_environment
from workers.daemon.nvml import ComputeProcess, Gpu, find_gpu, gpu_devices, open_nvml
from workers.daemon.preflight_gpu import judge, preflight_gpu
from workers.daemon.probe import cpu_device, devices, find_device, named_devices
from workers.daemon.telemetry import process


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


def test_a_jetsons_own_gpu_is_no_device_of_its_own() -> None:
    assert gpu_devices("box", full(nvmlDeviceGetName="Orin (nvgpu)")) == []


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
    refused = [field(185, 0), field(186, 0, status=3)]
    assert Gpu(full(nvmlDeviceGetFieldValues=refused), "h").power_w() == 120.0
    assert Gpu(full(), "h").power_fields_w() == {"average": 300.0, "instant": 350.0}
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


def test_a_job_on_a_gpu_device_has_its_telemetry_in_the_record(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, jobs: JobStore, tmp_path: Path
) -> None:
    driver = full()
    monkeypatch.setattr(nvml, "_pynvml", lambda: driver)
    (tmp_path / "standin").mkdir()
    (tmp_path / "standin/pynvml.py").write_text(
        "import sys\nfrom tests.workers.standin_nvml import full\nsys.modules[__name__] = full()\n"
    )
    real = process.environment()
    path = f"{tmp_path}/standin:{real['PYTHONPATH']}"
    monkeypatch.setattr(process, "environment", lambda: real | {"PYTHONPATH": path})
    gpu = find_device(bench.settings, f"{bench.device.host}-gpu0123abcd")
    on_gpu = replace(bench, device=gpu)
    job = fake_job("j-gpu", gpu.device_id, latency_ms=60.0)
    jobs.submit(job.sweep_id, job.sweep_name, 5, [job])
    assert jobs.dispatch(job.job_id, gpu.device_id)
    claim = jobs.claim(job.job_id, gpu.device_id, "test", bench.settings.lease_s)
    assert isinstance(claim, Claim)
    execute(on_gpu, jobs, claim, boottime())
    record = bench.store.records.read(job.run_id(1))
    assert record.outcome is Outcome.OK, record.failure
    assert "no_telemetry" not in {flag.name for flag in record.flags}
    assert record.metrics["gpu_memory_peak_bytes"] == float(GiB)
    assert record.metrics["gpu_memory_before_bytes"] == float(GiB)
    assert record.metrics["gpu_power_w"] == 350.0
    assert record.host["gpu"]["temperature_c"] == 41.0
    assert record.environment["variables"]["CUDA_VISIBLE_DEVICES"] == gpu.facts["uuid"]
    assert {"energy", "violations", "power_fields"} <= set(record.provenance["telemetry"]["channels"])
    assert "5 s is the least" in record.withheld["energy_per_input_j"]
    (trace,) = [ref for ref in record.artifacts if ref.kind == "telemetry"]
    lines = gzip.decompress(bench.store.blobs.read(trace.sha256)).splitlines()
    assert len(lines) == (trace.count or 0) + 2
    assert driver.open == 0
