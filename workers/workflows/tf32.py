# SPDX-License-Identifier: Apache-2.0
"""TF32 for libraries that ask the environment: cuBLAS, cuDNN and TensorRT read it once, when they are loaded."""

import os
from typing import Set

from workers.workflows.errors import PrecisionNotHeld

VARIABLE = "NVIDIA_TF32_OVERRIDE"
_READERS = ("libcublas", "libcudnn", "libnvinfer")


def hold(precision: str) -> None:
    """Set the environment for a precision, before any library that reads it: TF32 is off but for `tf32`.

    Raises:
        PrecisionNotHeld: the environment says the contrary, or such a library is loaded already.
    """
    forced = os.environ.get(VARIABLE)
    if (forced == "1" and precision != "tf32") or (forced == "0" and precision == "tf32"):
        raise PrecisionNotHeld(
            "{}={} makes the CUDA libraries ignore that {} was asked for".format(VARIABLE, forced, precision),
            "Take the variable out of the stack's environment.",
        )
    if precision == "tf32" or forced == "0":
        return
    early = loaded()
    if early:
        raise PrecisionNotHeld("TF32 cannot be turned off any more: {} loaded already".format(", ".join(sorted(early))))
    os.environ[VARIABLE] = "0"


def assert_held(precision: str) -> str:
    """What the environment does about TF32, in words for the record. Raises PrecisionNotHeld."""
    found = os.environ.get(VARIABLE)
    if (found == "0") == (precision == "tf32"):
        raise PrecisionNotHeld("{} is {!r} while {} runs".format(VARIABLE, found, precision))
    return "{}={}".format(VARIABLE, found) if found is not None else "{} is not set".format(VARIABLE)


def loaded(path: str = "/proc/self/maps") -> Set[str]:
    """The libraries in this process that have read the variable; nothing where the host does not tell."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            names = {os.path.basename(line.split()[-1]) for line in stream if "/" in line}
    except OSError:
        return set()
    return {name for name in names if name.startswith(_READERS)}
