# SPDX-License-Identifier: Apache-2.0
"""The canary: one small job that stays the same, so that when its time changes it is the device that has changed."""

from farm.canary.judge import Judgement, judge, pooled
from farm.canary.names import NAME, is_canary, is_canary_sweep
from farm.canary.series import Point, assess
from farm.canary.state import BASELINE, NO_VERDICT, SHIFTED, STEADY, UNCONFIRMED, CanaryState

__all__ = [
    "BASELINE", "NAME", "NO_VERDICT", "SHIFTED", "STEADY", "UNCONFIRMED",
    "CanaryState", "Judgement", "Point", "assess", "is_canary", "is_canary_sweep", "judge", "pooled",
]  # fmt: skip
