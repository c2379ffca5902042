# SPDX-License-Identifier: Apache-2.0
"""The store's few dealings with the file system: temporary files, durable publication, errors that say what to do.

Every file of the store is written to a temporary file of the same file system, flushed to the disk, and only then given
its name; the directory that holds the name is flushed too. A reader sees a whole file or none, also after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from farm.errors import UnavailableError, UsageError

TEMP_SUFFIX = ".tmp"

#: A temporary file this old belongs to no writer: the largest engines are copied in minutes.
STALE_TEMP_S = 3600.0

_FULL = "Free some space there, or raise the quota or file size limit, then try again: nothing half-written was kept."
_DENIED = "Give this user write permission there, or point the `store` setting at a directory that it may write."
_AWAY = (
    "If the store is on a mounted file system, mount it. If it is a new store, create it: `farm up` and `farm run` do. "
    "The `store` setting says where it is looked for."
)
_NO_LINKS = (
    "The store needs hard links, so that of two writers only one can win: put it on a file system that has them "
    "(ext4, xfs, btrfs, zfs, NFS)."
)
_OTHER = "Check the file system that holds the store, then try again: nothing half-written was kept."

_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOENT: _AWAY,
    errno.ENOTDIR: _AWAY,
    errno.ESTALE: _AWAY,
    errno.ENOTCONN: _AWAY,
}
_LINK_REFUSALS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


@contextlib.contextmanager
def store_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an UnavailableError that names the path, the cause and the remedy."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        hint = _REMEDIES.get(error.errno or 0, _OTHER)
        raise UnavailableError(f"cannot {doing} {path}: {cause}", hint=hint) from error


@contextlib.contextmanager
def temp_file(directory: Path) -> Iterator[BinaryIO]:
    """Open a new file of `directory` for writing; its name is gone at the end unless the block renamed it away."""
    path = directory / f"{secrets.token_hex(12)}{TEMP_SUFFIX}"
    with open(path, "xb") as stream:
        try:
            yield stream
        finally:
            path.unlink(missing_ok=True)


def seal(stream: BinaryIO, mode: int = 0o444) -> None:
    """Bring what was written to the disk and set the file's mode, read-only by default."""
    stream.flush()
    os.fchmod(stream.fileno(), mode)
    os.fsync(stream.fileno())


def publish_new(temp: Path, name: Path) -> bool:
    """Give a sealed file its name, unless the name is taken: then return False. Of two callers exactly one wins.

    Raises:
        UnavailableError: the file system has no hard links.
    """
    try:
        os.link(temp, name)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _LINK_REFUSALS:
            raise UnavailableError(f"cannot link {name}: {error.strerror}", hint=_NO_LINKS) from error
        raise
    fsync_directory(name.parent)
    return True


def publish_over(temp: Path, name: Path) -> None:
    """Give a sealed file its name, replacing what had it. Readers see the old file or the new one."""
    temp.replace(name)
    fsync_directory(name.parent)


def fsync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk. File systems that cannot are left alone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def make_directories(path: Path, below: Path) -> None:
    """Create `path` and its parents below `below`, durably. Never `below` itself: it may be a mount point."""
    missing = []
    while path != below and not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        fsync_directory(directory.parent)


def make_root(path: Path, mode: int = 0o777) -> None:
    """Create `path` with all its parents, durably; `mode` is for the last. What is made below it may be promised."""
    existing = path
    while not existing.is_dir():
        existing = existing.parent
    make_directories(path.parent, existing)
    if not path.is_dir():
        path.mkdir(mode=mode, exist_ok=True)
        fsync_directory(path.parent)


def export_target(path: Path) -> Path:
    """Where a copy for a person goes: `path` with links followed, since the copy takes the place of what is there.

    Raises:
        UsageError: a directory, or something like `/dev/stdout`, is there.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise UsageError(f"{path} is not a file", hint="Name a new file, or one that may be replaced.")
    return target


def is_regular(path: Path) -> bool:
    """Whether `path` itself is a regular file: a symbolic link is not."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_stale(path: Path) -> bool:
    """Whether a file is so old that no writer can be at work on it: an hour. False if it is gone."""
    try:
        return time.time() - path.lstat().st_mtime > STALE_TEMP_S
    except FileNotFoundError:
        return False


def stale_temps(directory: Path) -> Iterator[Path]:
    """The entries of a directory of temporary files that no writer can own any more."""
    if directory.is_dir():
        yield from (path for path in sorted(directory.iterdir()) if is_stale(path))
