# SPDX-License-Identifier: Apache-2.0
"""The canary: one small job that stays the same, so that when its time changes it is the device that has changed.

What every command reads is here; who judges imports `farm.canary.judge` and `farm.canary.series`.
"""

from farm.canary.names import NAME, is_canary, is_canary_sweep
from farm.canary.state import BASELINE, NO_VERDICT, SHIFTED, STEADY, UNCONFIRMED, CanaryState

__all__ = [
    "BASELINE", "NAME", "NO_VERDICT", "SHIFTED", "STEADY", "UNCONFIRMED", "CanaryState", "is_canary", "is_canary_sweep",
]  # fmt: skip
