# SPDX-License-Identifier: Apache-2.0
"""When images are due: as fast as they are taken, or at times that were drawn before the first of them is.

A schedule that goes on whatever the pipeline does is what keeps slow answers in the figures: with the next image sent
when the last is done, a pipeline that stands still is asked for less (Tene, How NOT to Measure Latency, 2015).
"""

import random
import threading
from array import array
from typing import Callable, Optional, Sequence, Tuple

#: An image's number, and when it was due: None where no time was set.
Due = Tuple[int, Optional[int]]


def schedule(rate_per_s: float, seconds: float, process: str, seed: str) -> "array[int]":
    """Offsets in ns at which images are due, at least one. Pure: the same seed gives the same times.

    `poisson` draws the gaps from an exponential distribution, `uniform` has equal ones.
    """
    count = max(1, round(rate_per_s * seconds))
    drawn, found, at_s = random.Random(seed), array("q"), 0.0  # noqa: S311 - no secret
    for _ in range(count):
        found.append(int(at_s * 1e9))
        at_s += drawn.expovariate(rate_per_s) if process == "poisson" else 1 / rate_per_s
    return found


class Steady:
    """Images as fast as they are taken, until `enough` says so."""

    def __init__(self, enough: Callable[[], bool]) -> None:
        self._enough = enough
        self._next = 0
        self._lock = threading.Lock()

    def take(self) -> Optional[Due]:
        """The next image, or None when there are no more."""
        with self._lock:
            if self._enough():
                return None
            self._next += 1
            return self._next - 1, None

    def stop(self) -> None:
        """Give no more."""
        self._enough = lambda: True


class Scheduled:
    """Images at their times: whoever takes one waits until it is due. One that is late already is there at once."""

    def __init__(self, offsets_ns: Sequence[int], start_ns: int, clock: Callable[[], int]) -> None:
        self.due_ns = array("q", (start_ns + offset for offset in offsets_ns))
        self._clock = clock
        self._next = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def take(self) -> Optional[Due]:
        """The next image once it is due, or None when there are no more."""
        with self._lock:
            if self._next == len(self.due_ns):
                return None
            number = self._next
            self._next += 1
        due = self.due_ns[number]
        while not self._stopped.is_set():
            left_ns = due - self._clock()
            if left_ns <= 0:
                return number, due
            self._stopped.wait(left_ns / 1e9)
        return None

    def stop(self) -> None:
        """Give no more; who waits is let go."""
        self._stopped.set()
