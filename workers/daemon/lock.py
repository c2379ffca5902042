# SPDX-License-Identifier: Apache-2.0
"""Exclusive use of a device: a kernel lock on a file that all farms of one host share.

The kernel frees the lock when the last holder of the descriptor is gone, whatever way it went: no lifetime, no clock.
A job's lock is handed on to the supervisor, so that it outlives a killed daemon until the measured tree is dead.
Never unlocked explicitly, only closed: `LOCK_UN` would free it for the supervisor as well.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from farm.contract.names import check_name
from farm.errors import UnavailableError

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class DeviceBusyError(UnavailableError):
    """Somebody else holds the device."""


class WaitAbandonedError(Exception):
    """The caller's `stop` was set while it waited."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as they wrote it themselves. `since` is Unix seconds."""

    pid: int
    what: str
    home: str
    since: float

    def __str__(self) -> str:
        waited = max(0, round(time.time() - self.since))
        return f"process {self.pid} ({self.what}, farm home {self.home}) for {waited} s"


def device_lock_path(lock_dir: Path, device_id: str) -> Path:
    """The lock that a job holds while it runs on the device."""
    return lock_dir / f"{check_name(device_id, 'device id')}.lock"


def worker_lock_path(lock_dir: Path, device_id: str) -> Path:
    """The lock that a worker holds for as long as it serves the device."""
    return lock_dir / f"{check_name(device_id, 'device id')}.worker"


@contextmanager
def hold(
    path: Path,
    holder: Holder,
    *,
    wait_s: float,
    stop: threading.Event | None = None,
    on_wait: Callable[[Holder | None, float], None] | None = None,
) -> Iterator[int]:
    """Hold the lock and yield its descriptor (close-on-exec; pass it on with `pass_fds`).

    `on_wait(holder, waited_s)` is called at every look while somebody else holds it.

    Raises:
        DeviceBusyError: still held after `wait_s`; the message says by whom.
        WaitAbandonedError: `stop` was set while waiting.
        UnavailableError: the lock directory cannot be used.
    """
    descriptor = _open(path)
    try:
        _wait(descriptor, path, wait_s, stop or threading.Event(), on_wait)
        _write_holder(descriptor, holder)
        yield descriptor
    finally:
        os.close(descriptor)


def read_holder(path: Path) -> Holder | None:
    """Who wrote themselves into the lock last; None when that cannot be told. Says nothing about whether it is held."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Holder(int(data["pid"]), str(data["what"]), str(data["home"]), float(data["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _wait(
    descriptor: int,
    path: Path,
    wait_s: float,
    stop: threading.Event,
    on_wait: Callable[[Holder | None, float], None] | None,
) -> None:
    start, pause_s = time.monotonic(), _FIRST_WAIT_S
    while not _try_lock(descriptor):
        waited_s, who = time.monotonic() - start, read_holder(path)
        if waited_s >= wait_s:
            raise DeviceBusyError(
                f"{path} is held by {who or 'an unknown process'}",
                hint="Wait for it to end, or stop the other worker or farm on this host.",
            )
        if on_wait is not None:
            on_wait(who, waited_s)
        if stop.wait(min(pause_s, max(0.01, wait_s - waited_s))):
            raise WaitAbandonedError
        pause_s = min(pause_s * 2, _LONGEST_WAIT_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    try:
        _make_dir(path.parent)
        return _open_or_create(path)
    except OSError as error:
        raise UnavailableError(
            f"the lock {path} cannot be used: {error.strerror or error}",
            hint="Set FARM_LOCK_DIR to a directory that every farm of this host shares and can write to.",
        ) from error


def _make_dir(directory: Path) -> None:
    if directory.is_dir():
        return
    directory.mkdir(parents=True, exist_ok=True)
    # Open to all users, like /run/lock itself; the sticky bit keeps them from removing each other's locks.
    directory.chmod(0o1777)


def _open_or_create(path: Path) -> int:
    # Not O_CREAT on a file that exists: in sticky directories Linux refuses that for other users' files, even to root.
    for _ in range(10):
        try:
            return os.open(path, _OPEN)
        except FileNotFoundError:
            pass
        try:
            descriptor = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        os.fchmod(descriptor, 0o666)
        return descriptor
    raise OSError(errno.EBUSY, "it keeps appearing and vanishing")


def _write_holder(descriptor: int, holder: Holder) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(holder)).encode("utf-8"), 0)
