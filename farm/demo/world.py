# SPDX-License-Identifier: Apache-2.0
"""The simulated farm: devices, what runs on them every night, and what changes when. Pure data.

Names, classes and every record say that it is simulated, so that none of it is ever taken for a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta

from farm.contract.device import DeviceInfo, StackInfo

FIRST = date(2026, 3, 1)
NIGHTS = 30
BATCH = 8
TEST_IMAGES = 5000


def night_name(number: int) -> str:
    """The name of the demo's night `number`, from 1."""
    return (FIRST + timedelta(days=number - 1)).isoformat()


@dataclass(frozen=True)
class Simulated:
    """A device with its stack. `pace` scales its times, `noise` is their spread from night to night, a share."""

    info: DeviceInfo
    stack: StackInfo
    ways: tuple[tuple[str, str], ...]
    pace: float
    noise: float
    kernel: str = "6.8.0-simulated"
    clock_mhz: float = 1500.0

    @property
    def name(self) -> str:
        """The device's id."""
        return self.info.device_id


def _device(name: str, kind: str, title: str, libraries: dict[str, str], driver: str | None = None) -> DeviceInfo:
    facts = {"simulated": True, "memory_bytes": 16 * 2**30, **({"driver_version": driver} if driver else {})}
    return DeviceInfo(f"simulated-{name}", f"simulated-{name[:-2]}", kind, f"simulated-host-{name}", title, facts)


def _stack(**libraries: str) -> StackInfo:
    return StackInfo("simulated", "/simulated/bin/python", "3.12.4", {"torch": "2.8.0", **libraries})


_GPU = {"onnxruntime": "1.22.0", "tensorrt": "10.3.0"}
_GPU_WAYS = (("pytorch", "fp32"), ("onnx_tensorrt", "fp16"))
_CPU_WAYS = (("pytorch", "fp32"), ("onnxruntime_cpu", "fp32"))

DEVICES = (
    Simulated(
        _device("gpu-1", "gpu", "Simulated GPU 1", _GPU, "580.1-simulated"), _stack(**_GPU), _GPU_WAYS, 0.25, 0.003
    ),
    Simulated(
        _device("gpu-2", "gpu", "Simulated GPU 2", _GPU, "580.1-simulated"), _stack(**_GPU), _GPU_WAYS, 0.4, 0.004
    ),
    Simulated(_device("soc-1", "soc", "Simulated SoC 1", _GPU), _stack(**_GPU), _GPU_WAYS, 1.6, 0.006),
    Simulated(_device("cpu-1", "cpu", "Simulated CPU 1", {}), _stack(onnxruntime="1.22.0"), _CPU_WAYS, 4.0, 0.008),
)

#: Milliseconds of a batch on a device of pace 1, and megabytes.
MODELS = {
    "resnet18": (9.0, 900.0),
    "resnet50": (21.0, 1300.0),
    "mobilenet_v2": (7.0, 800.0),
    "vgg16": (38.0, 2400.0),
    "squeezenet1_1": (4.5, 700.0),
}
FACTORS = {"pytorch": 1.0, "onnxruntime_cpu": 0.7, "onnx_tensorrt": 0.35}

#: The case whose accuracy is taken, on each device that runs it.
ACCURATE = ("resnet50", "onnx_tensorrt", "fp16")
TOP1 = 0.7612
#: The case that no device can run.
REFUSED = ("vgg16", "onnxruntime_cpu", "int8")


@dataclass(frozen=True)
class Injected:
    """A change made on purpose.

    Args:
        name: what it is, in a word.
        device: on which device, by id.
        kind: `series`, `device` or `coverage`: what kind of event it is to become; empty where it must become none.
        night: the first night with it, from 1; `until` the last one, None for the end.
        factor: of the metric from then on; `drift` is added to it each night.
        case: model, workflow, precision; None for all of the device.
        metric: what changes: `latency_ms`, `top1`, `host_rss_peak_bytes`, `outcome`.
        library: name and version of what the device's stack has from that night on.
    """

    name: str
    device: str
    kind: str
    night: int
    case: tuple[str, str, str] | None = None
    metric: str = "latency_ms"
    factor: float = 1.0
    drift: float = 0.0
    until: int | None = None
    library: dict[str, str] = field(default_factory=dict)
    kernel: str = ""

    def active(self, number: int) -> bool:
        """Whether it is there on a night."""
        return self.night <= number <= (self.until or NIGHTS)

    def at(self, number: int) -> float:
        """What it does to its metric on a night: a factor."""
        return self.factor + self.drift * (number - self.night) if self.active(number) else 1.0


INJECTED = (
    Injected(
        "step after a library's update", "simulated-gpu-1", "series", 15,
        ("resnet50", "onnx_tensorrt", "fp16"), factor=1.12, library={"tensorrt": "10.4.0"},
    ),
    Injected(
        "memory growth", "simulated-gpu-1", "series", 12,
        ("resnet18", "pytorch", "fp32"), "host_rss_peak_bytes", 1.06,
    ),
    Injected("accuracy drop", "simulated-gpu-2", "series", 17, ACCURATE, "top1", 0.955),
    Injected("drift within noise", "simulated-gpu-2", "", 1, ("squeezenet1_1", "pytorch", "fp32"), drift=0.0003),
    Injected("spike", "simulated-gpu-2", "", 19, ("resnet18", "pytorch", "fp32"), factor=1.15, until=19),
    Injected("whole device", "simulated-soc-1", "device", 22, factor=1.09),
    Injected(
        "small step", "simulated-cpu-1", "series", 20,
        ("mobilenet_v2", "pytorch", "fp32"), factor=1.05, kernel="6.8.1-simulated",
    ),
    Injected("improvement", "simulated-cpu-1", "series", 25, ("vgg16", "onnxruntime_cpu", "fp32"), factor=0.84),
    Injected("refused job that fails", "simulated-cpu-1", "coverage", 18, REFUSED, "outcome"),
)  # fmt: skip
