# SPDX-License-Identifier: Apache-2.0
"""Where PyTorch runs a job: the CPU, or the one GPU that this process may see."""

import os
from typing import Any, Dict, Optional

from farm.contract.device import DeviceInfo
from workers.workflows import inputs
from workers.workflows.base import DeviceTimer
from workers.workflows.errors import PrecisionNotHeld, Unsupported

#: Makes the CUDA libraries take TF32 (1) or leave it (0), whatever a program asks for.
_OVERRIDE = "NVIDIA_TF32_OVERRIDE"


class TorchDevice:
    """The device of a job as torch knows it. On a CPU everything that is special about a GPU is nothing."""

    def __init__(self, torch: Any, device: DeviceInfo, precision: str) -> None:
        self._torch = torch
        self.on_gpu = device.kind == "gpu"
        self.name = "cuda:0" if self.on_gpu else "cpu"
        if self.on_gpu:
            _check_gpu(torch, device)
            _check_override(precision)

    def synchronize(self) -> None:
        """Wait for the GPU; a CPU is done when a call returns."""
        if self.on_gpu:
            self._torch.cuda.synchronize()

    def timer(self) -> Optional[DeviceTimer]:
        """Events on torch's current stream; None on a CPU."""
        return TorchTimer(self._torch) if self.on_gpu else None

    def cache_bytes(self) -> Optional[int]:
        """The GPU's level-2 cache, or the host's last level."""
        if not self.on_gpu:
            return inputs.last_level_cache_bytes()
        size = getattr(self._torch.cuda.get_device_properties(0), "L2_cache_size", None)
        return int(size) if size else None

    def metrics(self) -> Dict[str, float]:
        """The peak of torch's own allocator, without the context and the libraries' work space."""
        if not self.on_gpu:
            return {}
        return {"gpu_allocator_peak_bytes": float(self._torch.cuda.max_memory_allocated())}

    def facts(self) -> Dict[str, Any]:
        """What really runs, for the record; nothing on a CPU."""
        if not self.on_gpu:
            return {}
        torch, properties = self._torch, self._torch.cuda.get_device_properties(0)
        uuid = getattr(properties, "uuid", None)
        return {
            "gpu_name": properties.name,
            "gpu_uuid": None if uuid is None else "GPU-{}".format(uuid),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
            "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
            "fp16_reduced_precision_reduction": bool(torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction),
        }


class TorchTimer(DeviceTimer):
    """CUDA events through torch."""

    def __init__(self, torch: Any) -> None:
        self._first, self._second = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def start(self) -> None:
        """Put the first event on the stream."""
        self._first.record()

    def stop(self) -> None:
        """Put the second event on the stream."""
        self._second.record()

    def elapsed_ns(self) -> int:
        """Nanoseconds between the two; CUDA tells them in steps of half a microsecond."""
        return round(self._first.elapsed_time(self._second) * 1e6)


def _check_gpu(torch: Any, device: DeviceInfo) -> None:
    if not torch.cuda.is_available():
        raise Unsupported(
            "this stack's torch {} cannot use the GPU (built for CUDA: {})".format(
                torch.__version__, getattr(torch.version, "cuda", None) or "no"
            ),
            "Install a torch that is built for CUDA and that this driver can run, or use another stack.",
            "gpu-not-usable",
        )
    count = torch.cuda.device_count()
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    wanted = str(device.facts.get("uuid") or "")
    if count != 1 or (uuid is not None and wanted and "GPU-{}".format(uuid) != wanted):
        raise Unsupported(
            "torch sees {} GPUs, the first is {}, and the job is for {}".format(count, uuid, wanted),
            "CUDA_VISIBLE_DEVICES is the worker's to set: take it out of the stack's environment.",
            "gpu-not-usable",
        )


def _check_override(precision: str) -> None:
    forced = os.environ.get(_OVERRIDE)
    if (forced == "1" and precision == "fp32") or (forced == "0" and precision == "tf32"):
        raise PrecisionNotHeld(
            "{}={} makes the CUDA libraries ignore that {} was asked for".format(_OVERRIDE, forced, precision),
            "Take the variable out of the stack's environment.",
        )
