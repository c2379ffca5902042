# SPDX-License-Identifier: Apache-2.0
"""Import libraries ahead of the processes that use them, exactly as those would, and run nothing of them."""

import importlib
import os
from typing import Sequence

from workers.workflows.torch_setup import FPMATH_MODE, FPMATH_VARIABLE, import_torchvision


def preload(modules: Sequence[str]) -> None:
    """Import `modules` in their order. No tensor is made and no device is asked for: children must be able to fork off.

    Raises:
        ImportError, MissingLibrary: one of them is not there, or does not load.
    """
    for name in modules:
        if name == "torch":
            os.environ[FPMATH_VARIABLE] = FPMATH_MODE
        if name == "torchvision":
            import_torchvision()
        else:
            importlib.import_module(name)
