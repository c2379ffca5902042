# SPDX-License-Identifier: Apache-2.0
"""The canary itself: which job it is on a device. Data and pure functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from farm.broker.register import DeviceEntry
from farm.canary import NAME
from farm.contract.job import BatchLadder, ModelSpec, Protocol
from farm.contract.protocols import STAGE_LIMITS_S
from farm.devices import Refusal, Selector, choose_stack
from farm.sweep import SweepSpec, WorkflowChoice

#: Above the 0 to 9 that people can give: what the others measure is worth little before the canary has spoken.
PRIORITY = 10

#: About 10 s once the model is prepared. Fixed numbers: a rule that looks at the noise would itself change with it.
PROTOCOL = Protocol(
    name=NAME,
    warmup_min_iterations=20,
    warmup_min_s=1.0,
    min_iterations=50,
    min_s=1.0,
    max_iterations=5000,
    max_s=10.0,
    stage_limits_s=STAGE_LIMITS_S,
    processes=3,
)


@dataclass(frozen=True)
class Choice:
    """One way to run a canary: always fp32, at one batch size."""

    workflow: str
    model: str
    batch: int
    options: dict[str, Any] = field(default_factory=dict)


#: By kind of device; the first that a stack of the device can run. A prepared engine is used again for as long as its
#: key holds, so TensorRT comes first: the same engine in another time is the device.
CHOICES: dict[str, tuple[Choice, ...]] = {
    "cpu": (Choice("onnxruntime_cpu", "squeezenet1_1", 1), Choice("pytorch", "squeezenet1_1", 1)),
    "gpu": (
        Choice("onnx_tensorrt", "resnet18", 8),
        Choice("onnxruntime_cuda", "resnet18", 8),
        Choice("pytorch", "resnet18", 8),
    ),
    "soc": (Choice("onnx_tensorrt", "resnet18", 8),),
}


def canary_sweep(entry: DeviceEntry, number: int, now_s: float) -> SweepSpec | Refusal:
    """The canary of a device at this moment, or why it can have none.

    Args:
        entry: the device.
        number: of the series. It is the seed of the inputs, so that records alone tell the series apart.
        now_s: Unix seconds; makes this canary's id its own.
    """
    device, stacks = entry.announcement.device, entry.announcement.stacks
    refusal = Refusal("device-kind-unsupported", f"there is no canary for a device of kind {device.kind}", "")
    for choice in CHOICES.get(device.kind, ()):
        found = choose_stack(choice.workflow, "fp32", device, stacks, choice.options, "torchvision")
        if not isinstance(found, Refusal):
            return _spec(device.device_id, choice, number, int(1000 * now_s))
        refusal = found
    return refusal


def _spec(device_id: str, choice: Choice, number: int, again: int) -> SweepSpec:
    return SweepSpec(
        name=NAME,
        protocol=PROTOCOL,
        models=(ModelSpec(choice.model),),
        workflows=(WorkflowChoice(choice.workflow, choice.options),),
        precisions=("fp32",),
        batches=BatchLadder((choice.batch,)),
        devices=(Selector(device_id=device_id),),
        seed=number,
        priority=PRIORITY,
        again=again,
    )
