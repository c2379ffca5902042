# SPDX-License-Identifier: Apache-2.0
"""Every record passes through here on its way to the store: fsynced on this host first, then moved.

SPOOL/RUN_ID/ holds `record.json` and `blobs/SHA256...`. An entry appears whole (by rename) and goes only once the store
has all of it, so a store that is away or a worker that is killed costs nothing but time.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farm.contract.record import Record
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.store.files import make_root
from farm.store.kept import WorkerStore
from farm.store.schema import RecordError, decode_record, encode_record

log = logging.getLogger(__name__)

_RECORD = "record.json"
_BLOBS = "blobs"
_LATE = "late"
_NEW = ".new-"
_GONE = ".gone-"
#: Lock files: whoever puts holds the first, shared; whoever moves entries to the store holds the second alone.
_PUTTING = ".putting"
_FLUSHING = ".lock"
_DAMAGED = "damaged"


@dataclass(frozen=True)
class BlobFile:
    """A file that a record refers to by its sha256."""

    path: Path
    sha256: str


class Spool:
    """The entries below one directory. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, record: Record, files: Sequence[BlobFile], *, late: bool = False) -> None:
        """Keep a record and its files durably. `late`: of an attempt that lost its claim, so kept only as a blob.

        Raises:
            OSError: the spool cannot be written.
            RecordError: the record does not fit its own schema.
        """
        data = encode_record(record)
        name = f"{record.run_id}.late-{record.attempt}" if late else record.run_id
        make_root(self.root, 0o700)
        with self._locked(_PUTTING, fcntl.LOCK_SH):
            entry = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.root))
            try:
                _fill(entry, data, files, late=late)
                if (self.root / name).exists():
                    self._discard(self.root / name)
                entry.rename(self.root / name)
                _fsync(self.root)
            finally:
                shutil.rmtree(entry, ignore_errors=True)

    def waiting(self, run_id: str) -> Record | None:
        """The record of that run that waits for the store, if there is one."""
        try:
            return decode_record((self.root / run_id / _RECORD).read_bytes())
        except (OSError, RecordError):
            return None

    def entries(self) -> list[Path]:
        """What waits for the store, by run id."""
        if not self.root.is_dir():
            return []
        return sorted(p for p in self.root.iterdir() if p.is_dir() and p.name[0] != "." and p.name != _DAMAGED)

    def flush(self, store: WorkerStore, *, wait_s: float = 0.0) -> int:
        """Move entries to the store; return how many are left, because the store is away or refuses them.

        `wait_s`: how long to wait for another process that is at it.
        """
        if self.root.is_dir():
            self._remove_stale()
        if self.entries():
            with self._locked(_FLUSHING, fcntl.LOCK_EX, wait_s) as mine:
                for entry in self.entries() if mine else []:
                    if not self._move(entry, store):
                        break
        return len(self.entries())

    def _move(self, entry: Path, store: WorkerStore) -> bool:
        """Move one entry; return False if the store is away and the rest had better wait."""
        try:
            _store(entry, store)
        except UnavailableError as error:
            log.warning("the store is away, %s waits in the spool: %s", entry.name, error.message)
            return False
        except IntegrityError as error:
            log.error("%s stays in the spool: %s", entry, error.message)
            return True
        except (UsageError, RecordError, OSError) as error:
            damaged = self.root / _DAMAGED
            log.error("%s cannot be stored and is set aside in %s: %s", entry.name, damaged, error)
            damaged.mkdir(exist_ok=True)
            shutil.rmtree(damaged / entry.name, ignore_errors=True)
            entry.rename(damaged / entry.name)
            return True
        self._discard(entry)
        return True

    def _discard(self, entry: Path) -> None:
        """Take an entry away whole: a worker that is killed while it deletes the files must not leave half of one."""
        gone = Path(tempfile.mkdtemp(prefix=_GONE, dir=self.root))
        entry.rename(gone)
        _fsync(self.root)
        shutil.rmtree(gone, ignore_errors=True)

    def _remove_stale(self) -> None:
        """Remove what killed workers left unfinished. That nobody is at it, a lock says: a clock may jump."""
        with self._locked(_PUTTING, fcntl.LOCK_EX, 0.0) as mine:
            for path in [*self.root.glob(_NEW + "*"), *self.root.glob(_GONE + "*")] if mine else []:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str, kind: int, wait_s: float = math.inf) -> Iterator[bool]:
        descriptor = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        mine = False
        try:
            until, pause = time.monotonic() + wait_s, threading.Event()
            while not (mine := _try_lock(descriptor, kind)) and time.monotonic() < until:
                pause.wait(0.05)
            yield mine
        finally:
            # Not by closing alone: a process that was forked meanwhile has a copy, and would keep the lock.
            if mine:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _fill(entry: Path, data: bytes, files: Sequence[BlobFile], *, late: bool) -> None:
    """Write an entry's files and flush them to the disk."""
    (entry / _BLOBS).mkdir()
    for file in files:
        _take(file.path, entry / _BLOBS / file.sha256)
    (entry / _RECORD).write_bytes(data)
    if late:
        (entry / _LATE).touch()
    for path in sorted(entry.rglob("*"), reverse=True):
        _fsync(path)
    _fsync(entry)


def _store(entry: Path, store: WorkerStore) -> None:
    """Blobs first, then the record that names them."""
    data = (entry / _RECORD).read_bytes()
    record = decode_record(data)
    for path in sorted((entry / _BLOBS).iterdir()):
        info = store.blobs.put_file(path)
        if info.sha256 != path.name:
            raise UsageError(f"{path} holds the bytes of {info.sha256}")
    late = (entry / _LATE).exists()
    if not late and store.records.write(record):
        return
    if late or store.records.read(record.run_id) != record:
        kept = store.blobs.put_bytes(data)
        log.warning("run %s has its record already; this later one is kept as blob %s", record.run_id, kept.sha256)


def _take(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
