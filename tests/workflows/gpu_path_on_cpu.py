# SPDX-License-Identifier: Apache-2.0
"""Run one request of `torch_compile` as for a GPU, with the CPU in its place: `python gpu_path_on_cpu.py CONTROL_DIR`.

Inductor is the real one, and compiles for the CPU. It shows what is kept and found again, nothing about a GPU.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from workers.runner.stages import run_request
from workers.workflows import base, inductor, pytorch, torch_compile


def _device(*_: Any) -> Any:
    quiet = {"synchronize": lambda: None, "cache_bytes": lambda: None, "timer": lambda: None}
    return SimpleNamespace(name="cpu", facts=dict, metrics=dict, on_gpu=False, **quiet)


if __name__ == "__main__":
    torch_compile.TorchDevice = pytorch.TorchDevice = _device  # type: ignore[misc,assignment]
    versions, require = torch_compile.versions, torch_compile.require
    base.versions = torch_compile.versions = lambda *names: (
        {"triton": "0"} if names == ("triton",) else versions(*names)
    )
    torch_compile.require = lambda name: None if name == "triton" else require(name)
    inductor._c_compiler = inductor._compiler
    run_request(sys.argv[1])
