# SPDX-License-Identifier: Apache-2.0
"""One part of the farm under test, as a process: `python -m tests.chaos.part scheduler`, or `... worker HOST`.

What differs from `farm scheduler` and `farm worker`:
- The waits that are no settings are shortened, so that a fault and its recovery fit into seconds.
- A worker takes another host name, so that one machine's processors pass for several devices.
- Flushing a file of the store fails as on a full disk while the file `CHAOS_FULL` names exists: root fills no quota.
- The wall clock is off by what the file `CHAOS_CLOCK` says, in seconds.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from farm.broker import register
from farm.settings import load_settings
from farm.store import files

HEARTBEAT_S = 1.0
OFFLINE_AFTER_S = 4.0
RESEND_AFTER_S = 3.0
BACK_OFF_S = (0.2, 0.5, 1.0)


def main() -> int:
    """Be the part that the arguments name."""
    _fill_disk(Path(os.environ["CHAOS_FULL"]))
    _shift_clock(Path(os.environ["CHAOS_CLOCK"]))
    register.OFFLINE_AFTER_S = OFFLINE_AFTER_S
    if sys.argv[1] == "scheduler":
        _scheduler()
    else:
        _worker(sys.argv[2])
    return 0


def _scheduler() -> None:
    from scheduler import main as scheduler
    from scheduler.reconcile import Resender

    scheduler.Resender = functools.partial(Resender, RESEND_AFTER_S)  # type: ignore[misc,assignment]
    scheduler._BACK_OFF_S = BACK_OFF_S  # type: ignore[assignment]
    scheduler.serve(load_settings())


def _worker(host: str) -> None:
    socket.gethostname = lambda: host
    from workers.daemon import service
    from workers.daemon.serve import serve

    service.HEARTBEAT_S = HEARTBEAT_S
    serve(load_settings())


def _fill_disk(flag: Path) -> None:
    whole: Callable[..., None] = files.seal

    def seal(*args: Any, **more: Any) -> None:
        if flag.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(*args, **more)

    files.seal = seal


def _shift_clock(offset: Path) -> None:
    from workers.daemon import clock

    real = time.time

    def shift() -> float:
        try:
            return float(offset.read_text())
        except (OSError, ValueError):
            return 0.0

    def utc_now() -> str:
        return (datetime.fromisoformat(straight()) + timedelta(seconds=shift())).isoformat(timespec="microseconds")

    straight = clock.utc_now
    clock.utc_now = utc_now
    time.time = lambda: real() + shift()


if __name__ == "__main__":
    raise SystemExit(main())
