# SPDX-License-Identifier: Apache-2.0
"""Import torch and torchvision as the farm needs them: strict fp32, a fixed number of threads."""

import os
import sys
from typing import Any, List

from workers.workflows.base import Context, require
from workers.workflows.errors import PrecisionNotHeld, SettingNotHeld

#: oneDNN reads it once, when torch loads: "BF16" would run fp32 convolutions in bf16.
FPMATH_VARIABLE, FPMATH_MODE = "ONEDNN_DEFAULT_FPMATH_MODE", "STRICT"

#: A `torch.library.Library` undoes its definitions when it is collected, so it lives here.
_kept: List[Any] = []


def import_torch(ctx: Context) -> Any:
    """Import torch, take `ctx.threads` threads, and turn every lower-precision fp32 path off but an asked-for TF32.

    Raises:
        MissingLibrary: torch is not installed.
        SettingNotHeld: torch did not take the number of threads.
        PrecisionNotHeld: fp32 products would still run in a lower precision.
    """
    os.environ[FPMATH_VARIABLE] = FPMATH_MODE
    torch = require("torch")
    torch.set_num_threads(ctx.threads)
    if torch.get_num_threads() != ctx.threads:
        raise SettingNotHeld(
            "torch runs {} threads instead of {}".format(torch.get_num_threads(), ctx.threads),
            "Something else in this interpreter set the threads first; look at OMP_NUM_THREADS and at usercustomize.",
        )
    # Decided here, since every part of a workflow that needs torch comes through here, and the last one has the say.
    if ctx.job.precision == "tf32" and not ctx.preparing:
        use_tf32(torch)
    else:
        _strict_fp32(torch)
    return torch


def _strict_fp32(torch: Any) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if hasattr(torch, "set_float32_matmul_precision"):  # torch 1.12 and later
        torch.set_float32_matmul_precision("highest")
        if torch.get_float32_matmul_precision() != "highest":
            raise PrecisionNotHeld("torch keeps a reduced precision for fp32 matrix products")
    if fp32_precision(torch) != "fp32":
        raise PrecisionNotHeld("torch keeps TF32 on although it was turned off")


def use_tf32(torch: Any) -> None:
    """Let fp32 products run in TF32. Raises PrecisionNotHeld."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if fp32_precision(torch) != "tf32":
        raise PrecisionNotHeld("torch keeps TF32 off although it was turned on")


def fp32_precision(torch: Any) -> str:
    """In which precision fp32 products run on a GPU: `fp32`, `tf32`, or `mixed`. Read from every switch there is."""
    found = {bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)}
    # torch 2.9 and later: one switch for each operation; `none` is what the older switch leaves where it is off.
    newer = (torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None))
    switches = [getattr(part, "fp32_precision", None) for part in newer]
    found |= {switch == "tf32" for switch in switches if isinstance(switch, str)}
    if len(found) > 1:
        return "mixed"
    return "tf32" if found.pop() else "fp32"


def import_torchvision() -> Any:
    """Import torchvision, also one built for CUDA on a torch built for CPUs.

    That pair cannot load torchvision's compiled operators, and torchvision then fails while it registers their shape
    functions. Defining the two operators it looks for is enough: classification models use neither. Tried only after
    the failure, because a good extension's own definitions would clash.

    Raises:
        MissingLibrary: torchvision is not installed.
    """
    try:
        return require("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    if not _kept:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    return require("torchvision")
