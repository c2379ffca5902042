# SPDX-License-Identifier: Apache-2.0
"""A stand-in for NVIDIA's management library: it answers as it is told. It proves nothing about any hardware."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

GiB = 2**30


class NVMLError(Exception):
    """As `pynvml.NVMLError`."""


class StandInDriver:
    """`answers` maps a function of `pynvml` to what it gives; a callable is called; without a row: NotSupported."""

    NVMLError = NVMLError

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetUUID": "GPU-0123abcd-1111-2222-3333-444455556666",
            "nvmlDeviceGetName": "NVIDIA Stand-In 1",
        } | answers
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def function(*_arguments: Any) -> Any:
            self.open += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
            if name not in self.answers:
                raise NVMLError("Not Supported")
            answer = self.answers[name]
            return answer() if callable(answer) else answer

        return function


def field(number: int, milliwatt: int, status: int = 0) -> SimpleNamespace:
    """One of NVML's field values."""
    return SimpleNamespace(fieldId=number, nvmlReturn=status, value=SimpleNamespace(uiVal=milliwatt))


def full(**changes: Any) -> StandInDriver:
    """A driver that answers everything that the farm asks."""
    fields = [field(185, 300_000), field(186, 350_000)]
    return StandInDriver(
        **{
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GiB, used=GiB, free=79 * GiB),
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlSystemGetCudaDriverVersion_v2": 13000,
            "nvmlDeviceGetPciInfo": SimpleNamespace(busId="00000000:04:00.0"),
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetClockInfo": 1980,
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50, memory=10),
            "nvmlDeviceGetFieldValues": fields,
            "nvmlDeviceGetPowerUsage": 120_000,
            "nvmlDeviceGetTotalEnergyConsumption": 1000,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetComputeMode": 0,
            "nvmlDeviceGetPerformanceState": 0,
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetApplicationsClock": 1980,
            "nvmlDeviceGetDefaultApplicationsClock": 1980,
            "nvmlDeviceGetCurrPcieLinkGeneration": 5,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetViolationStatus": SimpleNamespace(referenceTime=0, violationTime=0),
            "nvmlDeviceGetComputeRunningProcesses": [],
        }
        | changes
    )
