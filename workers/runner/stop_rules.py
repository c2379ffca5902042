# SPDX-License-Identifier: Apache-2.0
"""When more samples would tell nothing more: rules that a loop asks between two samples. Pure, they read no clock.

Two ways to be done, asked in this order: the median is known well enough (`target`), or the noise is what it is and
more samples will not show another (`plateau`, the rule of NVIDIA's nvbench, `stdrel_criterion.cxx`).
"""

import math
from array import array
from collections import deque
from typing import Deque, Optional

from farm.contract.quantiles import relative_half_width

#: nvbench looks at its track of noise at every 16th sample.
_EVERY = 16
#: Beyond 256 samples the looks grow apart, so that sorting at each costs time in proportion to the samples at most.
_GROWTH = 16
#: nvbench: a noise needs 5 samples; of the last 512 noises more than 64 must be there, within 5 % of their mean.
_NOISE_LEAST, _TRACK, _TRACK_LEAST, _SETTLED = 5, 512, 64, 0.05


class EndRule:
    """Asked by a loop between two samples, once its minima are reached, about all samples so far in their order."""

    def ended_by(self, samples: "array[int]") -> Optional[str]:
        """Why the loop may end now; None: go on. Never asked again about fewer samples."""
        raise NotImplementedError

    def next_look(self, done: int) -> int:
        """After how many samples to ask again, `done` of them being there."""
        raise NotImplementedError


class Noise:
    """nvbench's rule: the relative standard deviation of all samples so far, tracked from sample to sample."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = 0.0
        self._track: Deque[float] = deque(maxlen=_TRACK)

    def add(self, sample: float) -> None:
        """Take one more sample; Welford's update, in which nothing cancels."""
        self._count += 1
        off = sample - self._mean
        self._mean += off / self._count
        self._squares += off * (sample - self._mean)
        if self._count >= _NOISE_LEAST and self._mean > 0:
            self._track.append(math.sqrt(self._squares / (self._count - 1)) / self._mean)

    def has_settled(self) -> bool:
        """Whether the tracked noise no longer moves: its standard deviation is below 5 % of its mean.

        No noise at all has settled too, which nvbench leaves to its other rule.
        """
        count = len(self._track)
        if count <= _TRACK_LEAST:
            return False
        mean = math.fsum(self._track) / count
        variance = math.fsum((noise - mean) ** 2 for noise in self._track) / count
        return variance <= (_SETTLED * mean) ** 2


class StopRule(EndRule):
    """Ends the timed loop: the median's relative half width is at most `target`, or the noise has settled."""

    def __init__(self, target: Optional[float], plateau: bool) -> None:
        self._target = target
        self._noise = Noise() if plateau else None
        self._added = 0

    def ended_by(self, samples: "array[int]") -> Optional[str]:
        """`target` or `plateau`; None as long as neither holds."""
        if self._target is not None:
            half_width = relative_half_width(sorted(samples))
            if half_width is not None and half_width <= self._target:
                return "target"
        if self._noise is not None:
            for sample in samples[self._added :]:
                self._noise.add(sample)
            self._added = len(samples)
            if self._noise.has_settled():
                return "plateau"
        return None

    def next_look(self, done: int) -> int:
        """After 16 more samples, or a sixteenth more where that is later."""
        return done + max(_EVERY, done // _GROWTH)
