# SPDX-License-Identifier: Apache-2.0
"""A worker that is told to end lets its job go on for as long as the settings say, then hands it back.

Celery's main process hears the signal and holds the clock; its pool process runs the job, and is told by SIGUSR2.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from workers.daemon.lease import HANDED_BACK, Lease

log = logging.getLogger(__name__)

#: Not SIGUSR1: Celery's pool takes that for its time limits.
_SIGNAL = signal.SIGUSR2


class HandBack:
    """The pool process's side: the job at work is handed back when the signal comes."""

    def __init__(self) -> None:
        self._lease: Lease | None = None

    def listen(self) -> None:
        """Hear the signal from now on; in the main thread of the pool process."""
        signal.signal(_SIGNAL, self._hear)

    @contextmanager
    def of(self, lease: Lease) -> Iterator[None]:
        """This is the job at work."""
        self._lease = lease
        try:
            yield
        finally:
            self._lease = None

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        lease = self._lease
        if lease is not None:
            # Not here: the thread that this interrupts may itself hold the lease's lock.
            threading.Thread(target=lease.end, args=(HANDED_BACK,), daemon=True).start()


def tell_children_after(limit_s: float) -> threading.Timer:
    """The main process's side: tell the pool's processes when the limit is over."""

    def tell() -> None:
        log.warning("told to end %g s ago: the running job is handed back", limit_s)
        for child in psutil.Process(os.getpid()).children():
            with suppress(psutil.Error):
                child.send_signal(_SIGNAL)

    timer = threading.Timer(limit_s, tell)
    timer.daemon = True
    timer.start()
    return timer
