# SPDX-License-Identifier: Apache-2.0
"""How long a job will take: a rough estimate from its protocol and ladder, before anything is known of the model.

Fair share and progress need the right order of magnitude, not the right number.
"""

from __future__ import annotations

from farm.contract.job import JobSpec

#: One process: interpreter, libraries, load. The job has one for its preparation and those of each point.
PROCESS_S = 4.0
#: One inference of one input, and one calibration sample; a mid-size network on a few cores.
INFERENCE_S = 0.02
#: Weights `digits:SEED`, trained once and then kept.
TRAINING_S = 30.0
#: One inference whatever the batch size: launch and framework.
CALL_S = 0.001


def predicted_s(job: JobSpec) -> float:
    """Estimate the device-seconds of a job: its preparation, every point of its ladder, its accuracy."""
    samples = job.calibration.samples if job.calibration else 0
    prepare = PROCESS_S * 2 + samples * INFERENCE_S
    if job.model.weights.startswith("digits:"):
        prepare += TRAINING_S
    accuracy = PROCESS_S + job.accuracy.images * INFERENCE_S if job.accuracy else 0.0
    return prepare + sum(_point_s(job, size) for size in job.batches.sizes) + accuracy


def _point_s(job: JobSpec, batch_size: int) -> float:
    protocol = job.protocol
    call = CALL_S + batch_size * INFERENCE_S
    warm_up = max(protocol.warmup_min_s, protocol.warmup_min_iterations * call)
    measure = min(max(protocol.min_s, protocol.min_iterations * call), protocol.max_s, protocol.max_iterations * call)
    return protocol.processes * (PROCESS_S + warm_up + measure)
