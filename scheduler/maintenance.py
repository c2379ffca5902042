# SPDX-License-Identifier: Apache-2.0
"""Maintenance that is over: the device comes back by itself, its canary first."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from farm.broker.canaries import RESUMED
from farm.broker.jobs import JobStore
from farm.broker.register import MAINTENANCE, DeviceEntry, Register

log = logging.getLogger("inferfarm.scheduler")


def see_to_maintenance(
    register: Register, jobs: JobStore, entries: Sequence[DeviceEntry], now_s: float, *, canary: bool
) -> bool:
    """Bring back what is past its end, and let in what has had its canary since; whether anything changed.

    Args:
        register: where the states are.
        jobs: where failures are counted; who worked on the device may have mended what made jobs fail.
        entries: the devices, as just read.
        now_s: Redis's clock, Unix seconds.
        canary: whether the farm makes canaries by itself. Without them a device comes back at once.
    """
    changed = False
    for entry in entries:
        if is_over(entry, now_s) and register.end_maintenance(entry.device_id, RESUMED if canary else ""):
            jobs.forget_failures(entry.device_id)
            log.info("maintenance of %s is over%s", entry.device_id, ", its canary comes first" if canary else "")
            changed = True
        elif entry.back and not entry.canary.busy:
            register.settle_in(entry.device_id)
            changed = True
    return changed


def is_over(entry: DeviceEntry, now_s: float) -> bool:
    """Whether a maintenance has come to its end. One without an end lasts until somebody resumes the device. Pure."""
    return entry.state == MAINTENANCE and entry.until_s is not None and now_s >= entry.until_s
