# SPDX-License-Identifier: Apache-2.0
"""Device memory, pinned host memory and one stream for TensorRT, through pycuda, or cuda-python where there is none."""

import copy
import ctypes
import importlib
from typing import Any, List, Optional

from workers.workflows.base import DeviceTimer
from workers.workflows.errors import MissingLibrary, Unsupported, WorkflowError

#: CU_STREAM_NON_BLOCKING and cudaStreamNonBlocking: no waiting for work on the default stream.
_NON_BLOCKING = 1
#: cudaEventDisableTiming.
_DISABLE_TIMING = 2


class Mark:
    """An event without a time."""

    def put(self) -> None:
        """Behind all that is on the stream now."""
        raise NotImplementedError

    def wait(self) -> None:
        """Until the stream has come to where it was put last."""
        raise NotImplementedError


class Memory:
    """One stream and all memory of one run. Addresses are plain integers. Nothing here waits but `synchronize`."""

    name = ""

    def allocate(self, size: int) -> int:
        """Take device memory; it lives until `close`."""
        raise NotImplementedError

    def pinned(self, shape: Any, dtype: str) -> Any:
        """A page-locked numpy array."""
        raise NotImplementedError

    def to_device(self, address: int, array: Any) -> None:
        """Put a copy on the stream; the array must live until it is done."""
        raise NotImplementedError

    def to_host(self, array: Any, address: int) -> None:
        """As `to_device`, the other way."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait for the stream."""
        raise NotImplementedError

    def timer(self) -> DeviceTimer:
        """Two events on the stream."""
        raise NotImplementedError

    def cache_bytes(self) -> int:
        """The GPU's level-2 cache."""
        raise NotImplementedError

    @property
    def stream(self) -> int:
        """The stream's handle."""
        raise NotImplementedError

    def fork(self, beside: Optional["Memory"] = None) -> "Memory":
        """Another stream, which waits for no other, and memory of its own, for a thread that calls `attach`.

        With `beside`, what was forked before, memory of its own on that one's stream.
        """
        raise NotImplementedError

    def mark(self) -> Mark:
        """A place on the stream that can be waited for, whatever comes after it."""
        raise NotImplementedError

    def attach(self) -> None:
        """Let the calling thread use what `fork` made."""

    def detach(self) -> None:
        """Undo `attach`; a thread must not end without."""

    def close(self) -> None:
        """Give everything back; what was forked goes first. Called by the thread that opened it."""


def open_memory() -> Memory:
    """Use the one GPU that this process sees.

    Raises:
        MissingLibrary: neither pycuda nor cuda-python is installed.
        Unsupported: there is no GPU, or more than one.
    """
    driver = _import("pycuda.driver")
    if driver is not None:
        return PycudaMemory(driver)
    runtime = _import("cuda.bindings.runtime") or _import("cuda.cudart")
    if runtime is not None:
        return CudaPythonMemory(runtime)
    raise MissingLibrary(
        "this stack has neither pycuda nor cuda-python",
        "Install one of them into the stack's interpreter: TensorRT's own binding cannot allocate memory.",
    )


class PycudaMemory(Memory):
    """Through pycuda, in the primary context, which TensorRT uses as well."""

    name = "pycuda"

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            raise _no_gpu(str(error)) from error
        if count != 1:
            raise _no_gpu("{} GPUs are visible".format(count))
        self._device = driver.Device(0)
        self._context = self._device.retain_primary_context()
        self._context.push()
        self._stream = driver.Stream()
        self._kept: List[Any] = []
        self._forked = False

    def allocate(self, size: int) -> int:
        """Take device memory."""
        self._kept.append(self._driver.mem_alloc(max(size, 1)))
        return int(self._kept[-1])

    def pinned(self, shape: Any, dtype: str) -> Any:
        """A page-locked array."""
        return self._driver.pagelocked_empty(tuple(shape), dtype)

    def to_device(self, address: int, array: Any) -> None:
        """Copy to the device."""
        self._driver.memcpy_htod_async(address, array, self._stream)

    def to_host(self, array: Any, address: int) -> None:
        """Copy from the device."""
        self._driver.memcpy_dtoh_async(array, address, self._stream)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def timer(self) -> DeviceTimer:
        """Two events on the stream."""
        return _PycudaTimer(self._driver, self._stream)

    def cache_bytes(self) -> int:
        """The GPU's level-2 cache."""
        return int(self._device.get_attribute(self._driver.device_attribute.L2_CACHE_SIZE))

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.handle)

    def fork(self, beside: Optional[Memory] = None) -> Memory:
        """Another stream in the same context, or memory of its own on a stream that was forked before."""
        other = copy.copy(self)
        other._stream = beside._stream if isinstance(beside, PycudaMemory) else self._driver.Stream(_NON_BLOCKING)
        other._kept, other._forked = [], True
        return other

    def mark(self) -> Mark:
        """An event on the stream."""
        return _PycudaMark(self._driver, self._stream)

    def attach(self) -> None:
        """pycuda keeps a stack of contexts for each thread."""
        self._context.push()

    def detach(self) -> None:
        """Take it off the stack again."""
        self._context.pop()

    def close(self) -> None:
        """Free the memory and leave the context."""
        for allocation in self._kept:
            allocation.free()
        self._kept.clear()
        if not self._forked:
            self._context.pop()


class CudaPythonMemory(Memory):
    """Through NVIDIA's cuda-python; every call gives an error code first."""

    name = "cuda-python"

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        try:
            (count,) = self._call("cudaGetDeviceCount")
        except WorkflowError as error:
            raise _no_gpu(error.message) from error
        if count != 1:
            raise _no_gpu("{} GPUs are visible".format(count))
        self._call("cudaSetDevice", 0)
        (self._stream,) = self._call("cudaStreamCreate")
        self._owns = True
        self._device: List[int] = []
        self._host: List[int] = []

    def allocate(self, size: int) -> int:
        """Take device memory."""
        (address,) = self._call("cudaMalloc", max(size, 1))
        self._device.append(int(address))
        return int(address)

    def pinned(self, shape: Any, dtype: str) -> Any:
        """A page-locked array."""
        import numpy as np

        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        (address,) = self._call("cudaMallocHost", max(size, 1))
        self._host.append(int(address))
        raw = (ctypes.c_char * size).from_address(int(address))
        return np.frombuffer(raw, dtype=dtype).reshape(shape)

    def to_device(self, address: int, array: Any) -> None:
        """Copy to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def to_host(self, array: Any, address: int) -> None:
        """Copy from the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._call("cudaStreamSynchronize", self._stream)

    def timer(self) -> DeviceTimer:
        """Two events on the stream."""
        return _CudaPythonTimer(self._call, self._stream)

    def cache_bytes(self) -> int:
        """The GPU's level-2 cache."""
        attribute = self._runtime.cudaDeviceAttr.cudaDevAttrL2CacheSize
        return int(self._call("cudaDeviceGetAttribute", attribute, 0)[0])

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def fork(self, beside: Optional[Memory] = None) -> Memory:
        """Another stream on the same device, or memory of its own on a stream that was forked before."""
        other = copy.copy(self)
        if isinstance(beside, CudaPythonMemory):
            other._stream, other._owns = beside._stream, False
        else:
            ((other._stream,), other._owns) = self._call("cudaStreamCreateWithFlags", _NON_BLOCKING), True
        other._device, other._host = [], []
        return other

    def mark(self) -> Mark:
        """An event on the stream."""
        return _CudaPythonMark(self._call, self._stream)

    def attach(self) -> None:
        """Make the device this thread's."""
        self._call("cudaSetDevice", 0)

    def close(self) -> None:
        """Free the memory and the stream."""
        for address in self._device:
            self._call("cudaFree", address)
        for address in self._host:
            self._call("cudaFreeHost", address)
        self._device, self._host = [], []
        if self._owns:
            self._call("cudaStreamDestroy", self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._runtime, name)(*arguments)
        text = str(getattr(code, "name", code))
        if text == "cudaErrorMemoryAllocation":
            raise MemoryError("{} failed: {}".format(name, text))
        if text != "cudaSuccess":
            raise WorkflowError("{} failed: {}".format(name, text), None, "cuda-error")
        return values


class _PycudaMark(Mark):
    def __init__(self, driver: Any, stream: Any) -> None:
        self._stream, self._event = stream, driver.Event(driver.event_flags.DISABLE_TIMING)

    def put(self) -> None:
        self._event.record(self._stream)

    def wait(self) -> None:
        self._event.synchronize()


class _CudaPythonMark(Mark):
    def __init__(self, call: Any, stream: Any) -> None:
        self._call, self._stream = call, stream
        (self._event,) = call("cudaEventCreateWithFlags", _DISABLE_TIMING)

    def put(self) -> None:
        self._call("cudaEventRecord", self._event, self._stream)

    def wait(self) -> None:
        self._call("cudaEventSynchronize", self._event)


class _PycudaTimer(DeviceTimer):
    def __init__(self, driver: Any, stream: Any) -> None:
        self._stream, self._first, self._second = stream, driver.Event(), driver.Event()

    def start(self) -> None:
        self._first.record(self._stream)

    def stop(self) -> None:
        self._second.record(self._stream)

    def elapsed_ns(self) -> int:
        return round(self._second.time_since(self._first) * 1e6)


class _CudaPythonTimer(DeviceTimer):
    def __init__(self, call: Any, stream: Any) -> None:
        self._call, self._stream = call, stream
        ((self._first,), (self._second,)) = call("cudaEventCreate"), call("cudaEventCreate")

    def start(self) -> None:
        self._call("cudaEventRecord", self._first, self._stream)

    def stop(self) -> None:
        self._call("cudaEventRecord", self._second, self._stream)

    def elapsed_ns(self) -> int:
        return round(self._call("cudaEventElapsedTime", self._first, self._second)[0] * 1e6)


def _no_gpu(why: str) -> Unsupported:
    return Unsupported(
        "CUDA finds no single GPU to use: {}".format(why),
        "Look at the driver (`nvidia-smi`), and keep CUDA_VISIBLE_DEVICES out of the stack's environment.",
        "gpu-not-usable",
    )


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
