# SPDX-License-Identifier: Apache-2.0
"""A device on which one job after another fails is taken out of work, with the evidence."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from farm.broker.jobs import JobStore, JobView
from farm.broker.register import DeviceEntry, Register
from scheduler.match import working

log = logging.getLogger("inferfarm.scheduler")

_NAMED = 5
#: Who set a device's state, as `farm devices` shows it.
BY = "the scheduler"


def quarantine_failing(jobs: JobStore, register: Register, entries: Iterable[DeviceEntry], limit: int) -> list[str]:
    """Quarantine the devices whose last `limit` jobs failed; return them. `limit` 0: none ever.

    A device that is resumed begins to count anew.
    """
    found = []
    asked = {entry.device_id: entry for entry in entries if working(entry)} if limit else {}
    for entry in (asked[device_id] for device_id in jobs.failing(list(asked), limit)):
        failed = jobs.failures(entry.device_id)
        if blames_device(failed, limit):
            log.error("quarantined device=%s: its last %d jobs failed", entry.device_id, len(failed))
            register.set_state(entry.device_id, "quarantined", evidence(failed), by=BY)
            jobs.forget_failures(entry.device_id)
            found.append(entry.device_id)
    return found


def blames_device(failed: Sequence[JobView], limit: int) -> bool:
    """Whether so many failures in a row speak against the device. Pure.

    They do not where all are of one workflow in one sweep: such a sweep asks for what cannot be done anywhere, and
    would take out one device after another.
    """
    kinds = {(view.sweep_id, view.spec.workflow) for view in failed}
    return len(failed) >= limit and len(kinds) > 1


def evidence(failed: Sequence[JobView]) -> str:
    """What an operator is told: how many jobs failed, and which."""
    named = ", ".join(f"{view.name} ({view.job_id})" for view in failed[:_NAMED])
    more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return f"the last {len(failed)} jobs failed here: {named}{more}"
