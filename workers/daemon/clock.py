# SPDX-License-Identifier: Apache-2.0
"""The clocks that the daemon reads besides CLOCK_MONOTONIC."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def boottime() -> float:
    """Seconds since boot; unlike CLOCK_MONOTONIC it goes on while a laptop sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def utc_now() -> str:
    """The time as records keep it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def unix_time(monotonic_ns: int) -> float:
    """A CLOCK_MONOTONIC time as Unix seconds, by how long ago it was."""
    return time.time() - (time.monotonic_ns() - monotonic_ns) / 1e9
