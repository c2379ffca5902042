# SPDX-License-Identifier: Apache-2.0
"""The named protocols, as data. Sources: papers' 50 hot runs; notes on sample counts (MLPerf early stopping)."""

from typing import Dict

from farm.contract.job import Protocol

#: Generous for one point on a slow board; a sweep may set its own.
STAGE_LIMITS_S = {
    "start": 120.0,
    "export": 600.0,
    "calibrate": 1800.0,
    "build": 3600.0,
    "reference": 600.0,
    "warm_up": 600.0,
    "measure": 1800.0,
    "default": 300.0,
}

PROTOCOLS: Dict[str, Protocol] = {
    "quick": Protocol(
        name="quick",
        warmup_min_iterations=10,
        warmup_min_s=1.0,
        min_iterations=30,
        min_s=2.0,
        max_iterations=20000,
        max_s=30.0,
        stage_limits_s=STAGE_LIMITS_S,
    ),
    # The papers do not say how many warm-up runs they made: 20 is ours, and stated in each record.
    "paper": Protocol(
        name="paper",
        warmup_min_iterations=20,
        warmup_min_s=0.0,
        min_iterations=50,
        min_s=0.0,
        max_iterations=50,
        max_s=1800.0,
        inputs="warm",
        stage_limits_s=STAGE_LIMITS_S,
    ),
    # 662 samples are the fewest that bound a p99 (MLPerf early stopping, d=0, c=0.99).
    "rigorous": Protocol(
        name="rigorous",
        warmup_min_iterations=20,
        warmup_min_s=2.0,
        min_iterations=662,
        min_s=10.0,
        max_iterations=20000,
        max_s=120.0,
        stage_limits_s=STAGE_LIMITS_S,
    ),
}
