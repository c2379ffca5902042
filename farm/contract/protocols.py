# SPDX-License-Identifier: Apache-2.0
"""The named protocols, as data.

Sources: papers' 50 hot runs; MLPerf's early stopping for the samples that a percentile needs; nvbench's 0.5 % of noise
and its plateau; a sensor's 5 s (Yang, Adamek and Armour, SC'24).
"""

from typing import Dict

from farm.contract.job import JobSpec, Protocol

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

#: For stages that the named protocols say nothing of: a protocol's limits are part of every sweep's id.
_TRAINING_S = 3600.0
_ACCURACY_S = 3600.0
_PIPELINE_S = 600.0
_IMAGES_S = 1800.0
#: Beside what a protocol asks of its energy pass: 32 repetitions of a slow model take their time.
_ENERGY_S = 1800.0


def stage_limits_s(job: JobSpec) -> Dict[str, float]:
    """The time limits of a job's stages: its protocol's, with more for training weights and for test images.

    A stage that the protocol names keeps its limit, and a `default` that a sweep sets holds for all that it does not.
    """
    limits = dict(job.protocol.stage_limits_s)
    if limits.get("default", STAGE_LIMITS_S["default"]) != STAGE_LIMITS_S["default"]:
        return limits
    limits.setdefault("accuracy", _ACCURACY_S)
    if job.pipeline is not None:
        # An overloaded rate may take as long again to drain; slow models fill their queues for a while.
        limits.setdefault("pipeline", _PIPELINE_S + 3 * job.pipeline.seconds)
        limits.setdefault("images", _IMAGES_S)
    if job.protocol.energy_s is not None:
        limits.setdefault("energy", _ENERGY_S + 2 * job.protocol.energy_s)
    if job.model.weights.startswith("digits:"):
        limits.setdefault("load_model", _TRAINING_S)
    return limits


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
    # Every night on every device: what a comparison between nights needs, and no more.
    "nightly": Protocol(
        name="nightly",
        warmup_min_iterations=20,
        warmup_min_s=2.0,
        min_iterations=100,
        min_s=3.0,
        max_iterations=20000,
        max_s=10.0,
        stage_limits_s=STAGE_LIMITS_S,
        warmup_rule="steady",
        target_half_width=0.005,
        noise_plateau=True,
        processes=3,
        energy_s=5.0,
    ),
    # 662 samples are the fewest that bound a p99 (MLPerf early stopping, d=0, c=0.99). A minute of warm-up holds two
    # windows of 20 runs if a run takes 1.5 s at most.
    "rigorous": Protocol(
        name="rigorous",
        warmup_min_iterations=20,
        warmup_min_s=2.0,
        min_iterations=662,
        min_s=3.0,
        max_iterations=20000,
        max_s=120.0,
        stage_limits_s=STAGE_LIMITS_S,
        warmup_rule="steady",
        warmup_max_s=60.0,
        target_half_width=0.005,
        noise_plateau=True,
        processes=5,
        max_processes=10,
        processes_half_width=0.01,
        processes_max_s=1800.0,
        energy_s=5.0,
    ),
}
