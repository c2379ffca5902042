# SPDX-License-Identifier: Apache-2.0
"""What the measuring process runs in, read in that process after the model was loaded."""

import os
import platform
import sys
from typing import Any, Dict, List, Optional

#: Libraries whose versions are of interest, by importable module.
LIBRARIES = (
    "numpy",
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorrt",
    "torch_tensorrt",
    "triton",
    "pycuda",
    "cupy",
    "openvino",
    "modelopt",
    "pytorch_quantization",
    "tensorflow",
    "keras",
)
_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_", "MALLOC_", "TF_")
_SINGLE_VARIABLES = (
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "CUDA_MODULE_LOADING",
)
#: CPU features that decide how fast a kernel is, on x86 and on Arm.
_CPU_FLAGS = (
    "avx avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 "
    "amx_bf16 asimd asimddp asimdhp fphp i8mm bf16 sve sve2"
).split()


def capture() -> Dict[str, Any]:
    """Facts about this process; imports nothing that is not imported already."""
    found: Dict[str, Any] = {
        "python": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "libraries": _loaded_versions(),
        "variables": _variables(),
        "cpu_flags": cpu_flags(),
        "thread_libraries": _thread_libraries(),
    }
    if hasattr(os, "sched_getaffinity"):
        found["affinity"] = sorted(os.sched_getaffinity(0))
    if "torch" in sys.modules:
        found["torch"] = _torch_facts(sys.modules["torch"])
    return found


def cpu_flags(path: str = "/proc/cpuinfo") -> List[str]:
    """The CPU's features among those that matter, in this module's order; empty where the host does not tell."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.startswith(("flags", "Features")):
                    present = set(line.partition(":")[2].split())
                    return [flag for flag in _CPU_FLAGS if flag in present]
    except OSError:
        pass
    return []


def version_of(module: Any) -> str:
    """A module's version as it says itself; `unknown` where it does not."""
    return str(getattr(module, "__version__", None) or getattr(module, "VERSION_TEXT", None) or "unknown")


def _loaded_versions() -> Dict[str, str]:
    return {name: version_of(sys.modules[name]) for name in LIBRARIES if name in sys.modules}


def _variables() -> Dict[str, str]:
    chosen = (k for k in os.environ if k.startswith(_VARIABLES) or k in _SINGLE_VARIABLES)
    return {key: os.environ[key] for key in sorted(chosen)}


def _thread_libraries() -> List[str]:
    """Which OpenMP and threading run-times are mapped: two of them in one process slow each other down."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
            paths = {line.split(None, 5)[5].strip() for line in stream if line.count("/")}
    except (OSError, IndexError):
        return []
    names = {os.path.basename(path) for path in paths}
    return sorted(name for name in names if name.startswith(("libgomp", "libomp", "libiomp", "libtbb")))


def _torch_facts(torch: Any) -> Dict[str, Optional[Any]]:
    capability = getattr(getattr(torch.backends, "cpu", None), "get_cpu_capability", None)
    mkl = getattr(torch.backends, "mkl", None)
    return {
        "cpu_capability": capability() if capability else None,
        "onednn": bool(torch.backends.mkldnn.is_available()),
        "mkl": bool(mkl.is_available()) if mkl else None,
        "cuda_built": getattr(torch.version, "cuda", None),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }
