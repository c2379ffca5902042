# SPDX-License-Identifier: Apache-2.0
"""How long a job will take: a rough estimate from its protocol and ladder, before anything is known of the model.

Fair share and progress need the right order of magnitude, not the right number. `scheduler.learned` puts what records
say in place of the guesses.
"""

from __future__ import annotations

from farm.contract.job import JobSpec, Protocol

#: One process: interpreter, libraries, load. The job has one for its preparation and those of each point.
PROCESS_S = 4.0
#: One inference of one input, and one calibration sample; a mid-size network on a few cores.
INFERENCE_S = 0.02
#: Weights `digits:SEED`, trained once and then kept.
TRAINING_S = 30.0
#: One inference whatever the batch size: launch and framework.
CALL_S = 0.001
#: Two windows of a steady warm-up: 20 calls each, of half a second or more.
STEADY_CALLS, STEADY_S = 40, 1.0
#: A stop rule ends after some 600 calls: a noise of 5 % then gives the median to 0.5 %, and has settled.
STOP_CALLS = 600
#: A run under a profiler warms up for 0.5 s, then takes three seconds' worth of inferences apart, 10 to 50, all of
#: them some three times as slow (workers/runner/profiling.py; 1.2 to 4 times on an H200).
PROFILE_WARM_UP_S, PROFILE_CALLS, PROFILE_S, PROFILE_SLOWER = 0.5, (10, 50), 3.0, 3.0


def predicted_s(job: JobSpec) -> float:
    """Estimate the device-seconds of a job: its preparation, every point of its ladder, its accuracy."""
    points = sum(ladder_point_s(job, call_s(size)) for size in job.batches.sizes)
    return prepare_s(job) + points + accuracy_s(job, INFERENCE_S)


def call_s(batch_size: int) -> float:
    """One call with a batch of a network that nothing is known of."""
    return CALL_S + batch_size * INFERENCE_S


def prepare_s(job: JobSpec) -> float:
    """A job's preparation."""
    samples = job.calibration.samples if job.calibration else 0
    training = TRAINING_S if job.model.weights.startswith("digits:") else 0.0
    return PROCESS_S * 2 + samples * INFERENCE_S + training


def accuracy_s(job: JobSpec, input_s: float) -> float:
    """A job's accuracy, where one input takes `input_s`."""
    return PROCESS_S + job.accuracy.images * input_s if job.accuracy else 0.0


def ladder_point_s(job: JobSpec, call: float) -> float:
    """One point of a job's ladder: an inference's processes and runs under a profiler, or the passes of a pipeline."""
    if job.pipeline is None:
        return point_s(job.protocol, call) + profiles_s(job, call)
    return PROCESS_S + job.pipeline.seconds


def profiles_s(job: JobSpec, call: float) -> float:
    """The runs under a profiler that follow a point whose call takes `call` seconds."""
    if not job.profile:
        return 0.0
    least, most = PROFILE_CALLS
    calls = max(least, min(most, int(PROFILE_S / max(call, 1e-9))))
    return len(job.profile) * (PROCESS_S + max(PROFILE_WARM_UP_S, 5 * call) + calls * call * PROFILE_SLOWER)


def point_s(protocol: Protocol, call: float) -> float:
    """All processes of a point whose call takes `call` seconds.

    More than the fewest processes are not counted: whether they are needed is not known yet.
    """
    one = PROCESS_S + _warm_up_s(protocol, call) + _timed_s(protocol, call) + (protocol.energy_s or 0.0)
    return one * protocol.processes


def _warm_up_s(protocol: Protocol, call_s: float) -> float:
    least = max(protocol.warmup_min_s, protocol.warmup_min_iterations * call_s)
    if protocol.warmup_rule == "fixed":
        return min(least, max(protocol.max_s, protocol.warmup_min_s))
    return min(max(least, STEADY_S, STEADY_CALLS * call_s), max(protocol.warmup_max_s, protocol.warmup_min_s))


def _timed_s(protocol: Protocol, call_s: float) -> float:
    calls = protocol.min_iterations
    if protocol.target_half_width is not None or protocol.noise_plateau:
        calls = max(calls, STOP_CALLS)
    return min(max(protocol.min_s, calls * call_s), protocol.max_s, protocol.max_iterations * call_s)
