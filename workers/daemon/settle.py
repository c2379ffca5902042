# SPDX-License-Identifier: Apache-2.0
"""Wait, before a run, for the host to be idle and the device to be cool: bounded, and told to whoever watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from workers.daemon.preflight import Preflight
from workers.daemon.retry import worth_waiting

_LOOK_AGAIN_S = 1.0
WORDS = {"idle": "waiting for other work to end", "cool": "waiting for the device to cool down"}


class Settle:
    """The waits of one job. Each budget is for all its points together: a host that is always busy costs it once."""

    def __init__(
        self, idle_s: float, cool_s: float, quiet: Callable[[threading.Event], None] = lambda _stop: None
    ) -> None:
        self._left = {"idle": idle_s, "cool": cool_s}
        self._quiet = quiet

    def until_fit(self, look: Callable[[], Preflight], stop: threading.Event, tell: Callable[[str], None]) -> Preflight:
        """Look until there is nothing to wait for, the budget is spent or `stop` is set; return the last look.

        Before all, what the worker itself does beside its jobs comes to an end (`quiet`).
        `tell` is given a note for watchers at each wait. What was waited is kept in the host's facts; looks after the
        first count as waits.
        """
        waited = dict.fromkeys(self._left, 0.0)
        self._quiet(stop)
        found = look()
        while True:
            doubt = worth_waiting(found.flags)
            if doubt is None or self._left[doubt[0]] <= 0 or stop.is_set():
                spent = {f"waited_{budget}_s": round(seconds, 1) for budget, seconds in waited.items()}
                return replace(found, host=found.host | spent)
            budget, flag = doubt
            tell(f"{WORDS[budget]}, {self._left[budget]:.0f} s at most: {flag.evidence}")
            began = time.monotonic()
            stop.wait(min(_LOOK_AGAIN_S, self._left[budget]))
            found = look()
            spent_s = time.monotonic() - began
            waited[budget] += spent_s
            self._left[budget] -= spent_s
