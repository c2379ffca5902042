# SPDX-License-Identifier: Apache-2.0
"""Files kept by the SHA-256 of their bytes, under `sha256/ab/cd/<sha256>`. Verified on write and on read.

A blob is never changed: equal bytes have one name, so writing one twice is harmless and two writers can't disagree.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from farm.contract.canonical import sha256_file
from farm.contract.names import check_sha256
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.store import files

_BLOCK = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlobInfo:
    """A blob's name and size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class BlobProblem:
    """One fault found by `verify`.

    `kind` is `wrong_digest`, `truncated`, `wrong_name`, `not_a_file`, `unreadable` or `stray_temp`. `sha256` is the
    blob that cannot be read because of it, where there is one.
    """

    kind: str
    path: Path
    message: str
    sha256: str | None = None


class BlobStore:
    """The blobs below one directory. Nothing is touched on construction; `create` makes the directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tree = root / "sha256"
        self.temp = root / "tmp"

    def create(self) -> None:
        """Make the directories. `root.parent` must exist."""
        with files.store_errors("create", self.root):
            files.make_directories(self._tree, self.root.parent)
            files.make_directories(self.temp, self.root.parent)

    def path(self, sha256: str) -> Path:
        """Where the blob lies, or would. The only way from a digest to a path.

        Raises:
            UsageError: `sha256` is not 64 lower-case hexadecimal digits.
        """
        try:
            check_sha256(sha256)
        except ValueError as error:
            raise UsageError(str(error), hint="`farm artifacts ls` lists the digests of a sweep's files.") from error
        return self._tree / sha256[:2] / sha256[2:4] / sha256

    def exists(self, sha256: str) -> bool:
        """Whether the store has the blob. Its bytes are not checked."""
        path = self.path(sha256)
        with files.store_errors("read", path):
            return files.is_regular(path)

    def put_bytes(self, data: bytes) -> BlobInfo:
        """Keep `data`; see `put_file`."""
        known = BlobInfo(hashlib.sha256(data).hexdigest(), len(data))
        return known if self._has(known) else self._put([data])

    def put_file(self, path: Path) -> BlobInfo:
        """Keep a copy of a file's bytes.

        The file is hashed first, and not copied if the store has it: the same engine comes with every run of a ladder.
        The copy is hashed as it is written, so a file that changes meanwhile is stored under what was really written.

        Raises:
            UsageError: there is no such file.
            UnavailableError: the store cannot be written; nothing half-written is left.
        """
        try:
            source = path.open("rb")
        except OSError as error:
            hint = "Check the path and its permissions."
            raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error
        with source:
            known = _measure(_blocks(source, path))
            if self._has(known):
                return known
            source.seek(0)
            return self._put(_blocks(source, path))

    def adopt(self, temp: Path, sha256: str) -> BlobInfo:
        """Make a finished file of `temp` the blob, if its bytes are right. Nobody may write to it any more.

        Raises:
            IntegrityError: its bytes have another digest; it is left as it is.
            UnavailableError: the store cannot be written.
        """
        path = self.path(sha256)
        with files.store_errors("write to", self.temp), temp.open("rb") as stream:
            info = _measure(_blocks(stream, temp))
            if info.sha256 != sha256:
                message = f"the {info.size_bytes} bytes for blob {sha256} have the digest {info.sha256}"
                raise IntegrityError(message, hint="They are sent again.")
            files.seal(stream)
            files.make_directories(path.parent, self._tree)
            files.publish_over(temp, path)
        return info

    def read(self, sha256: str) -> bytes:
        """Return a blob's bytes, verified.

        Raises:
            UsageError: the store has no such blob.
            IntegrityError: its bytes are not those of its name.
        """
        with self._open(sha256) as stream:
            data = b"".join(_blocks(stream, self.path(sha256)))
        self._check(sha256, BlobInfo(hashlib.sha256(data).hexdigest(), len(data)))
        return data

    def get(self, sha256: str, to: Path) -> None:
        """Copy a blob to the file `to`, replacing it at once and only if the bytes are right. Raises as `read` does."""
        source_path, to = self.path(sha256), files.export_target(to)
        with self._open(sha256) as source, files.store_errors("write", to), files.temp_file(to.parent) as copy:
            self._check(sha256, _measure(_blocks(source, source_path), copy))
            files.seal(copy, 0o644)
            files.publish_over(Path(copy.name), to)

    def list(self) -> Iterator[BlobInfo]:
        """Every blob, in order of its digest. Sizes are those found; bytes are not checked."""
        for path in self._walk():
            if self._is_well_named(path) and files.is_regular(path):
                yield BlobInfo(path.name, path.stat().st_size)

    def verify(self, sizes: Mapping[str, int] | None = None) -> Iterator[BlobProblem]:
        """Hash every blob again and report what is wrong; also names that fit no blob and forgotten temporary files.

        Args:
            sizes: what records say the blobs' sizes are, to tell a truncated one from a changed one.
        """
        for path in self._walk():
            problem = self._problem_of(path, sizes or {})
            if problem:
                yield problem
        for path in files.stale_temps(self.temp):
            yield BlobProblem("stray_temp", path, "left by a writer that was killed; safe to delete")

    def check_writable(self) -> None:
        """Write, flush and remove a small file.

        Raises:
            UnavailableError: with the path, the cause and the remedy.
        """
        with files.store_errors("write to", self.temp), files.temp_file(self.temp) as temp:
            temp.write(b"0" * 4096)
            files.seal(temp)
            files.fsync_directory(self._tree)

    def _put(self, blocks: Iterable[bytes]) -> BlobInfo:
        with files.store_errors("write to", self.temp), files.temp_file(self.temp) as temp:
            info = _measure(blocks, temp)
            files.seal(temp)
            path = self.path(info.sha256)
            files.make_directories(path.parent, self._tree)
            files.publish_over(Path(temp.name), path)
        return info

    def _has(self, info: BlobInfo) -> bool:
        """Whether the blob is there in full. One of another size is damaged, and about to be replaced."""
        path = self.path(info.sha256)
        if not files.is_regular(path):
            return False
        size = path.stat().st_size
        if size != info.size_bytes:
            _log.warning("blob %s had %d bytes in place of %d: replaced", path, size, info.size_bytes)
            return False
        # So that a collection, which leaves alone what is young, sees that somebody is about to refer to it.
        try:
            os.utime(path)
        except (FileNotFoundError, PermissionError):
            return False  # just collected, or another user's: written anew, it is young
        # Another writer may have given it its name and not have flushed that yet.
        with files.store_errors("write to", path.parent):
            files.fsync_directory(path.parent)
        return True

    def _open(self, sha256: str) -> BinaryIO:
        path = self.path(sha256)
        try:
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except FileNotFoundError as error:
            if not self._tree.is_dir():
                with files.store_errors("read", self._tree):
                    self._tree.stat()
            hint = "`farm artifacts verify` lists what is missing."
            raise UsageError(f"the store has no blob {sha256}", hint=hint) from error
        except OSError as error:
            raise _unreadable(path, error) from error

    def _check(self, sha256: str, found: BlobInfo) -> None:
        if found.sha256 != sha256:
            raise IntegrityError(
                f"blob {sha256} is damaged: its {found.size_bytes} bytes have the digest {found.sha256} "
                f"(in {self.path(sha256)})",
                hint="Restore that file from a backup, or delete it and run the job again: `farm retry`.",
            )

    def _walk(self) -> Iterator[Path]:
        with files.store_errors("read", self._tree):
            self._tree.stat()
        for directory, folders, names in os.walk(self._tree):
            folders.sort()
            links = [name for name in folders if (Path(directory) / name).is_symlink()]
            yield from (Path(directory) / name for name in sorted(names + links))

    def _is_well_named(self, path: Path) -> bool:
        with contextlib.suppress(ValueError):
            return path == self.path(check_sha256(path.name))
        return False

    def _problem_of(self, path: Path, sizes: Mapping[str, int]) -> BlobProblem | None:
        if not self._is_well_named(path):
            return BlobProblem("wrong_name", path, "no blob can have this name and place; move it out of the store")
        if not files.is_regular(path):
            return BlobProblem("not_a_file", path, "a blob is a regular file, this is none", path.name)
        try:
            actual, size = sha256_file(str(path)), path.stat().st_size
        except OSError as error:
            return BlobProblem("unreadable", path, error.strerror or str(error), path.name)
        if actual == path.name:
            return None
        expected = sizes.get(path.name)
        if size == 0 or (expected is not None and size < expected):
            of = f" of {expected}" if expected is not None else ""
            return BlobProblem("truncated", path, f"has only {size}{of} bytes", path.name)
        return BlobProblem("wrong_digest", path, f"its {size} bytes have the digest {actual}", path.name)


def _measure(blocks: Iterable[bytes], copy: BinaryIO | None = None) -> BlobInfo:
    """Hash and count blocks, writing each to `copy` on the way."""
    hasher, size = hashlib.sha256(), 0
    for block in blocks:
        hasher.update(block)
        size += len(block)
        if copy is not None:
            copy.write(block)
    return BlobInfo(hasher.hexdigest(), size)


def _blocks(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    while True:
        try:
            block = stream.read(_BLOCK)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not block:
            return
        yield block


def _unreadable(path: Path, error: OSError) -> UnavailableError:
    hint = "Check the file, its permissions and its disk."
    return UnavailableError(f"cannot read {path}: {error.strerror}", hint=hint)
