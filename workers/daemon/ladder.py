# SPDX-License-Identifier: Apache-2.0
"""Which batch size comes next, or why none does, and at which the accuracy is taken. Pure.

A point that failed, crashed or timed out does not end the ladder: such faults are often tied to one batch size, and a
missing cell says less than a failed one. Only what the sweep names in `until` ends it early:

    out_of_memory   a larger batch needs more still
    saturated       throughput gained less than 5 % at two steps running (the rule of Triton's Model Navigator)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from farm.contract.job import BatchLadder, JobSpec
from farm.contract.layers import PROFILES
from farm.contract.outcome import Outcome

SATURATION_GAIN = 0.05
_SATURATION_STEPS = 2


class Stop(StrEnum):
    """Why a ladder ended, as records keep it in `ladder_stop`."""

    END = "end"
    OUT_OF_MEMORY = "out_of_memory"
    SATURATED = "saturated"
    FAILED = "failed"  # nothing could be prepared, so no point could be measured
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Point:
    """A measured point. `throughput_per_s` is None unless it is ok."""

    batch_size: int
    outcome: Outcome
    throughput_per_s: float | None = None


@dataclass(frozen=True)
class Run:
    """One runner to start: its mode, as in `RunRequest`, and the batch size unless it prepares.

    `process` tells the processes of one point apart, from 1.
    """

    mode: str
    batch_size: int | None = None
    process: int = 1

    def run_id(self, job: JobSpec) -> str:
        """The id of what it leaves."""
        if self.mode == "accuracy":
            return job.accuracy_run_id
        point = job.run_id(self.batch_size)
        return f"{point}-{self.mode}" if self.mode in PROFILES else point


PREPARE = Run("prepare")


@dataclass(frozen=True)
class AccuracyStep:
    """The job's accuracy comes next, at the largest batch size that was ok; None: there is none, so it is not run."""

    batch_size: int | None


def accuracy_step(points: Sequence[Point]) -> AccuracyStep:
    """At which batch size to take the accuracy: a model's answers are the same at all, and this one is quickest."""
    return AccuracyStep(max((p.batch_size for p in points if p.outcome is Outcome.OK), default=None))


def next_step(ladder: BatchLadder, points: Sequence[Point]) -> int | Stop:
    """The batch size to measure next, or why the ladder ends; `points` in the order of the ladder."""
    if "out_of_memory" in ladder.until and any(p.outcome is Outcome.OUT_OF_MEMORY for p in points):
        return Stop.OUT_OF_MEMORY
    if "saturated" in ladder.until and _is_saturated(points):
        return Stop.SATURATED
    done = {point.batch_size for point in points}
    left = [size for size in ladder.sizes if size not in done]
    return left[0] if left else Stop.END


def _is_saturated(points: Sequence[Point]) -> bool:
    steps = points[-_SATURATION_STEPS - 1 :]
    if len(steps) <= _SATURATION_STEPS:
        return False
    return all(_gains_little(a, b) for a, b in itertools.pairwise(steps))


def _gains_little(before: Point, after: Point) -> bool:
    # A step down, or one next to a point without a throughput, says nothing about what a larger batch would gain.
    if not before.throughput_per_s or after.throughput_per_s is None or after.batch_size <= before.batch_size:
        return False
    return after.throughput_per_s / before.throughput_per_s - 1 < SATURATION_GAIN
