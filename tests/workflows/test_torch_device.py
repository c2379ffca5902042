# SPDX-License-Identifier: Apache-2.0
"""What PyTorch on a GPU refuses and states, with a stand-in for torch: no statement about any hardware."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from farm.contract.device import DeviceInfo
from tests.factories import DEVICE
from workers.workflows.errors import PrecisionNotHeld, Unsupported, is_out_of_memory
from workers.workflows.torch_device import TorchDevice
from workers.workflows.torch_setup import fp32_precision, import_torch, use_tf32

UUID = "0123abcd-1111-2222-3333-444455556666"
GPU = DeviceInfo("box-gpu0123abcd", "nvidia-x", "gpu", "box", "X", {"uuid": f"GPU-{UUID}"})


def stand_in(available: bool = True, count: int = 1, uuid: str = UUID, **switches: Any) -> Any:
    properties = SimpleNamespace(name="Stand-In", uuid=uuid, L2_cache_size=50 * 2**20)
    matmul = SimpleNamespace(allow_tf32=False, allow_fp16_reduced_precision_reduction=True, **switches)
    cudnn = SimpleNamespace(allow_tf32=False, benchmark=False, is_available=lambda: True, version=lambda: 91000)
    cuda = SimpleNamespace(
        is_available=lambda: available,
        device_count=lambda: count,
        get_device_properties=lambda _index: properties,
        max_memory_allocated=lambda: 4096,
        synchronize=lambda: None,
    )
    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn)
    return SimpleNamespace(__version__="2", version=SimpleNamespace(cuda="13.0"), cuda=cuda, backends=backends)


def test_a_gpu_is_described_by_what_torch_says_of_it() -> None:
    device = TorchDevice(stand_in(), GPU, "fp32")
    assert device.name == "cuda:0"
    assert device.facts()["gpu_uuid"] == f"GPU-{UUID}"
    assert device.cache_bytes() == 50 * 2**20
    assert device.metrics() == {"gpu_allocator_peak_bytes": 4096.0}


def test_nothing_changes_on_a_cpu() -> None:
    device = TorchDevice(None, DEVICE, "fp32")
    assert (device.name, device.metrics(), device.facts()) == ("cpu", {}, {})
    device.synchronize()


@pytest.mark.parametrize("torch", [stand_in(available=False), stand_in(count=2), stand_in(uuid="ffff")])
def test_a_torch_that_would_use_no_gpu_or_another_one_is_refused(torch: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        TorchDevice(torch, GPU, "fp32")
    assert caught.value.reference == "gpu-not-usable"


@pytest.mark.parametrize(("value", "precision"), [("1", "fp32"), ("0", "tf32")])
def test_an_environment_against_the_precision_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str, precision: str
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
    with pytest.raises(PrecisionNotHeld):
        TorchDevice(stand_in(), GPU, precision)


def test_tf32_is_read_back_from_every_switch() -> None:
    torch = stand_in()
    assert fp32_precision(torch) == "fp32"
    use_tf32(torch)
    assert fp32_precision(torch) == "tf32"
    assert fp32_precision(stand_in(fp32_precision="tf32")) == "mixed"
    with pytest.raises(PrecisionNotHeld):
        use_tf32(stand_in(fp32_precision="ieee"))


@pytest.mark.models
@pytest.mark.parametrize(
    ("precision", "preparing", "expected"),
    [("tf32", False, "tf32"), ("tf32", True, "fp32"), ("fp32", False, "fp32"), ("fp16", False, "fp32")],
)
def test_tf32_outlives_every_later_import_of_torch_and_never_reaches_the_reference(
    precision: str, preparing: bool, expected: str
) -> None:
    """Each part of a workflow imports torch for itself: on an H200 the model's part once turned TF32 off again."""
    torch = pytest.importorskip("torch")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    context: Any = SimpleNamespace(
        threads=torch.get_num_threads(), preparing=preparing, job=SimpleNamespace(precision=precision)
    )
    try:
        for _ in range(2):
            import_torch(context)
            assert fp32_precision(torch) == expected
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        type("MemoryError", (Exception,), {})("cuMemAlloc failed: out of memory"),
        type("OutOfMemoryError", (RuntimeError,), {})("tried to allocate"),
    ],
)
def test_memory_that_ran_out_is_known_by_every_allocators_words(error: BaseException) -> None:
    assert is_out_of_memory(error)
