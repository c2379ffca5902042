# SPDX-License-Identifier: Apache-2.0
"""Inferfarm: a distributed benchmark farm for deep-learning inference.

This module is part of the runner's bundle, so it must import nothing but the standard library at import time.
"""

__version__ = "0.1.0"


def __getattr__(name):  # type: ignore[no-untyped-def]
    """Load `Farm`, the Python interface, only when it is asked for: the runner's interpreters lack its libraries."""
    if name == "Farm":
        from farm.api import Farm

        return Farm
    raise AttributeError(f"module 'farm' has no attribute {name!r}")
