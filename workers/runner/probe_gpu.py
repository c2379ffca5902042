# SPDX-License-Identifier: Apache-2.0
"""What the CUDA driver, the CUDA runtime and TensorRT tell of the GPU that a stack sees.

Asked in a process of its own, which a broken driver or library may crash or hang: what it had found by then is kept.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Optional

from workers.runner.control import write_json

_DRIVER = "libcuda.so.1"
_LIMIT_S = 60.0
#: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_CAPABILITY = (75, 76)
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_ASK = "import sys; sys.path.insert(0, sys.argv[1]); from workers.runner.probe_gpu import answer; answer(sys.argv[2])"


def probe(problems: Dict[str, str]) -> Dict[str, Any]:
    """The features; nothing where there is no driver. What went wrong is added to `problems`."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return {}
    with tempfile.TemporaryDirectory(prefix="inferfarm-cuda-") as scratch:
        path = os.path.join(scratch, "answer.json")
        trouble = _run(path)
        try:
            with open(path, encoding="utf-8") as stream:
                found: Dict[str, Any] = json.load(stream)
        except (OSError, ValueError):
            found = {}
    if trouble is not None:
        problems["cuda features"] = trouble
    versions = runtime_versions(_mapped_files())
    return dict(found, cuda_runtime_versions=versions) if versions else found


def _run(path: str) -> Optional[str]:
    """Ask in another process; what went wrong."""
    isolated = ["-I"] if sys.flags.isolated else []
    try:
        done = subprocess.run(
            [sys.executable, *isolated, "-c", _ASK, _ROOT, path],
            stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), timeout=_LIMIT_S, check=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return "the driver could not be asked: {}".format(error)
    except subprocess.TimeoutExpired:
        return "the driver did not answer within {:g} s".format(_LIMIT_S)
    return "asking ended the process with code {}".format(done.returncode) if done.returncode else None


def answer(path: str) -> None:
    """The other process: write what is known after each step, the riskier ones last."""
    found = driver_features(ctypes.CDLL(_DRIVER))
    write_json(path, found)
    if found.get("visible_gpus") and importlib.util.find_spec("tensorrt") is not None:
        from workers.workflows.trt_compat import dla_cores

        write_json(path, dict(found, dla_cores=dla_cores(importlib.import_module("tensorrt"))))


def driver_features(driver: Any) -> Dict[str, Any]:
    """The driver's CUDA version, and of the first GPU that is visible its compute capability. What fails is absent."""
    found: Dict[str, Any] = {}
    version = _asked(driver.cuDriverGetVersion)
    if version:
        found["cuda_driver_version"] = _dotted(version)
    count = _asked(driver.cuDeviceGetCount) if driver.cuInit(0) == 0 else None
    if count is None:
        return found
    found["visible_gpus"] = count
    device = _asked(driver.cuDeviceGet, 0) if count else None
    if device is not None:
        parts = [_asked(driver.cuDeviceGetAttribute, which, device) for which in _CAPABILITY]
        if None not in parts:
            found["compute_capability"] = "{}.{}".format(*parts)
    return found


def runtime_versions(paths: List[str]) -> List[str]:
    """The versions of the CUDA runtimes at these paths: libraries bring their own, so that a process may hold several.

    Asking a runtime for its version initialises nothing.
    """
    found = set()
    for path in paths:
        if re.search(r"/libcudart[-.\w]*\.so[.\d]*$", path):
            version = _asked(ctypes.CDLL(path).cudaRuntimeGetVersion)
            found.add(_dotted(version) if version else "unknown")
    return sorted(found)


def _mapped_files() -> List[str]:
    """The files that this process has mapped: the libraries that its imports loaded."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
            return sorted({line.split(None, 5)[5].strip() for line in stream if "/" in line})
    except OSError:
        return []


def _asked(function: Any, *arguments: Any) -> Optional[int]:
    """What a function of CUDA's writes to its first argument; None where it gives an error."""
    value = ctypes.c_int(0)
    return None if function(ctypes.byref(value), *arguments) else value.value


def _dotted(version: int) -> str:
    """12010 is 12.1."""
    return "{}.{}".format(version // 1000, version % 1000 // 10)
