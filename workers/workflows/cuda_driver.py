# SPDX-License-Identifier: Apache-2.0
"""What the CUDA driver says of the one GPU that this process may see, asked without a context or another library."""

import ctypes
from typing import Any, Optional

from workers.workflows.errors import Unsupported, WorkflowError

_LIBRARY = "libcuda.so.1"
#: CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE of cuda.h.
_L2_CACHE_SIZE = 38


def check_one_gpu(library: str = _LIBRARY) -> None:
    """Refuse a process that does not see exactly one GPU. Raises Unsupported."""
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise _unusable("the driver's library cannot be loaded: {}".format(error)) from error
    count, code = ctypes.c_int(0), driver.cuInit(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        raise _unusable("the driver answers with error {}".format(code))
    if count.value != 1:
        raise _unusable("{} GPUs are visible".format(count.value))


def l2_cache_bytes(library: str = _LIBRARY) -> Optional[int]:
    """The level-2 cache of the first GPU; None where the driver does not tell."""
    try:
        driver: Any = ctypes.CDLL(library)
    except OSError:
        return None
    device, size = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDeviceGetAttribute(ctypes.byref(size), _L2_CACHE_SIZE, device):
        return None
    return size.value or None


class DeviceCopy:
    """Copies from device memory to device memory and waits for it, in the calling thread's current context."""

    def __init__(self, library: str = _LIBRARY) -> None:
        driver: Any = ctypes.CDLL(library)
        self._copy, self._wait = driver.cuMemcpyDtoD_v2, driver.cuStreamSynchronize
        self._copy.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t]
        self._wait.argtypes = [ctypes.c_void_p]

    def __call__(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes. Raises WorkflowError."""
        # Such a copy is put on the default stream and not waited for, and other streams need not wait for that one.
        code = self._copy(target, source, size) or self._wait(None)
        if code:
            raise WorkflowError("a copy on the device failed with error {}".format(code), None, "cuda-error")


def _unusable(why: str) -> Unsupported:
    return Unsupported(
        "CUDA finds no single GPU to use: {}".format(why),
        "Look at the driver (`nvidia-smi`), and keep CUDA_VISIBLE_DEVICES out of the stack's environment.",
        "gpu-not-usable",
    )
