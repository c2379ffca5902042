# SPDX-License-Identifier: Apache-2.0
"""Processes that outlived their run, found by the marks that every process of a run has in its environment.

The supervisor leaves none. This is the net under it, for when it was itself killed: whoever holds the device's lock
knows that no process with that device's marks may live.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from pathlib import Path

from farm.contract.names import DEVICE_ENV
from farm.errors import UnavailableError

#: Further marks: the run, for people; the lock, so that a farm kills only what its own lock covers.
RUN_ENV = "INFERFARM_RUN"
LOCK_ENV = "INFERFARM_LOCK"

_LIMIT_MS = 10_000


def marks(device_id: str, lock_path: Path) -> dict[str, str]:
    """The environment variables that mark a process as using this device under this lock."""
    return {DEVICE_ENV: device_id, LOCK_ENV: str(lock_path)}


def find(wanted: Mapping[str, str]) -> list[int]:
    """The ids of processes whose environment holds all of `wanted`, this one excepted."""
    pairs = {f"{key}={value}".encode() for key, value in wanted.items()}
    own = os.getpid()
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != own and pairs <= _environment(pid)]


def kill(wanted: Mapping[str, str]) -> list[int]:
    """Kill all such processes and wait until they are gone; return their ids.

    Raises:
        UnavailableError: one is still there after 10 s (stuck in the kernel), so the device cannot be used.
    """
    return [pid for pid in find(wanted) if _kill(pid, wanted)]


def _kill(pid: int, wanted: Mapping[str, str]) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # Looked at again: the id may have passed to another process before the descriptor pinned it.
        if not {f"{key}={value}".encode() for key, value in wanted.items()} <= _environment(pid):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        gone = select.poll()
        gone.register(descriptor, select.POLLIN)
        if not gone.poll(_LIMIT_MS):
            raise UnavailableError(
                f"process {pid} of an earlier run was killed and does not end: the kernel or a driver holds it",
                hint="Drain the device, then reset it or restart the host.",
            )
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _environment(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()
