# SPDX-License-Identifier: Apache-2.0
"""Uploads that have arrived in part: one file each beside the blobs, named by digest and worker.

A worker sees and continues its own only. What was not touched for an hour is removed: it belongs to nobody any more.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from farm.contract.names import check_name, check_sha256
from farm.errors import IntegrityError, UnavailableError
from farm.store import BlobStore, files
from farm.store.files import TEMP_SUFFIX

#: Begun and not finished, of one worker. It sends one at a time; cut ones wait for their hour.
MAX_PARTS = 16
#: What an upload must leave free, so that records can still be written.
RESERVE_BYTES = 256 << 20
_SUFFIX = ".upload" + TEMP_SUFFIX


@dataclass(frozen=True)
class Part:
    """An upload of one worker."""

    worker: str
    sha256: str


class Uploads:
    """The parts in the blobs' directory of temporary files."""

    def __init__(self, blobs: BlobStore, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes

    def path(self, part: Part) -> Path:
        """Where the part lies, or would."""
        return self._blobs.temp / f"{check_sha256(part.sha256)}.{check_name(part.worker, 'worker')}{_SUFFIX}"

    def arrived(self, part: Part) -> int:
        """How many of its bytes are there."""
        try:
            found = self.path(part).lstat()
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def open(self, part: Part, offset: int, length: int) -> int:
        """A descriptor to write the bytes from `offset` to `length` with.

        Raises:
            IntegrityError: the blob would be too large.
            UnavailableError: the offset is not where the part ends, the disk is full, or too many others have begun.
        """
        path, arrived = self.path(part), self.arrived(part)
        if length > self._max_bytes:
            hint = "Raise store_max_blob_bytes on the controller."
            raise IntegrityError(f"a blob of {length} bytes is larger than {self._max_bytes}", hint=hint)
        if not 0 <= offset == arrived <= length:
            raise UnavailableError(f"{arrived} bytes of {length} have arrived, not {offset}")
        if not arrived and len(list(self._blobs.temp.glob(f"*.{part.worker}{_SUFFIX}"))) >= MAX_PARTS:
            raise UnavailableError(
                f"{part.worker} has begun {MAX_PARTS} uploads and not ended them; they go in an hour"
            )
        with files.store_errors("write to", self._blobs.temp):
            if shutil.disk_usage(self._blobs.temp).free < length - offset + RESERVE_BYTES:
                raise UnavailableError("the store's disk is full", hint="`farm artifacts gc` on the controller.")
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def finish(self, part: Part) -> None:
        """Make the part the blob. A part with other bytes than those of its name is removed.

        Raises:
            UnavailableError: it had other bytes, or the store cannot be written.
        """
        # Under a name that no request leads to, so that nothing writes to what was hashed.
        own = self._blobs.temp / f"{secrets.token_hex(12)}{TEMP_SUFFIX}"
        with files.store_errors("write to", self._blobs.temp):
            self.path(part).rename(own)
        try:
            self._blobs.adopt(own, part.sha256)
        except IntegrityError as error:
            raise UnavailableError(error.message, hint=error.hint) from error
        finally:
            own.unlink(missing_ok=True)

    def remove_stale(self, is_active: Callable[[Part], bool]) -> int:
        """Remove the parts that nobody touched for an hour; return how many."""
        count = 0
        for path in self._blobs.temp.glob(f"*{_SUFFIX}"):
            sha256, _, worker = path.name.removesuffix(_SUFFIX).partition(".")
            if files.is_stale(path) and not is_active(Part(worker, sha256)):
                path.unlink(missing_ok=True)
                count += 1
        return count
