# SPDX-License-Identifier: Apache-2.0
"""Canaries on demand: ask the scheduler for them, and wait until it has judged them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis

from farm.broker.canaries import ASKED, CanaryBook
from farm.broker.jobs import JobStore
from farm.broker.register import READY, DeviceEntry, Register
from farm.errors import UnavailableError, UsageError
from farm.progress import Progress, sweep_progress
from scheduler.leader import KEY
from scheduler.match import working

_LOOK_AGAIN_S = 0.25
#: A scheduler that is started anew needs a moment.
_NO_SCHEDULER_S = 10.0


def ask(client: redis.Redis, entries: Sequence[DeviceEntry], devices: Sequence[str], *, accept: bool) -> list[str]:
    """Ask for a canary on the devices named, or on all that take jobs; return their ids.

    Raises:
        UsageError: a device is not known, or takes no jobs.
        UnavailableError: no device takes jobs, or there is no scheduler to hear of it.
    """
    known = {entry.device_id: entry for entry in entries}
    for device in devices:
        _check(device, known)
    chosen = list(dict.fromkeys(devices)) or [entry.device_id for entry in entries if working(entry)]
    if not chosen:
        raise UnavailableError("no device takes jobs now", hint="`farm devices` shows why; `farm worker` serves one.")
    if not client.exists(KEY):
        raise _no_scheduler()
    book = CanaryBook(client)
    for device in chosen:
        book.ask(device, ASKED, known[device].canary.series_number + 1 if accept else None)
    return chosen


def wait(client: redis.Redis, devices: Sequence[str], on_progress: Callable[[Progress], None]) -> list[DeviceEntry]:
    """Wait until each device's canary is judged, a second one to confirm included; return the devices' entries.

    A device that stops taking jobs meanwhile is waited for no longer: its canary waits with it.

    Raises:
        UnavailableError: the scheduler is gone.
    """
    register, jobs = Register(client), JobStore(client)
    sweeps: dict[str, None] = {}
    heard_at = time.monotonic()
    while True:
        entries = [entry for entry in register.devices() if entry.device_id in devices]
        sweeps |= {entry.canary.sweep_id: None for entry in entries if entry.canary.sweep_id}
        on_progress(sweep_progress([view for sweep in sweeps for view in jobs.sweep_jobs(sweep)], time.time()))
        if not any(entry.canary.busy and working(entry) for entry in entries):
            return entries
        heard_at = time.monotonic() if client.exists(KEY) else heard_at
        if time.monotonic() - heard_at > _NO_SCHEDULER_S:
            raise _no_scheduler()
        time.sleep(_LOOK_AGAIN_S)


def _check(device: str, known: dict[str, DeviceEntry]) -> None:
    if device not in known:
        there = ", ".join(sorted(known)) or "none yet: start a worker with `farm worker`"
        raise UsageError(f"no device {device!r}", hint=f"Known: {there}.")
    entry = known[device]
    if not working(entry):
        offline = entry.state == READY
        hint = "Start its worker." if offline else f"`farm devices resume {device}` lets it."
        raise UsageError(f"{device} takes no jobs: it is {entry.standing}", hint=hint)


def _no_scheduler() -> UnavailableError:
    return UnavailableError(
        "no scheduler is at work, and it is the scheduler that begins canaries",
        hint="Start one: `farm up`, or `farm scheduler`.",
    )
