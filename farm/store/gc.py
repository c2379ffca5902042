# SPDX-License-Identifier: Apache-2.0
"""Remove blobs that nothing refers to, and never one that something does, whoever writes meanwhile.

A blob is referred to if its name stands anywhere in a file of the store outside of `blobs` and the index: in a
record, a sweep with its pins, a night, a decision, a baseline, a report, also in one that is just being written.
A report elsewhere names blobs by way of records, which are never removed. Writers put a blob first and the record
that names it after, and touch a blob that is there already. So what is young is left alone, by the file system's own
clock; what is old is moved aside, looked at again (touched? named by a file that was not there before?), and put back
or removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farm.errors import IntegrityError, UnavailableError
from farm.store import files
from farm.store.blobs import BlobInfo, BlobStore
from farm.store.documents import DocumentStore
from farm.store.records import BadRecord, RecordStore

#: Longer than any worker's spool waits for a store that is away, or it could lose what it is about to name.
GRACE_S = 14 * 86_400.0

_NAME = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_ASIDE = "gc-"
LOCK = "gc.lock"
_SKIPPED = ("blobs", "index")


@dataclass
class Sweepings:
    """What a collection found. `removed` are blobs that are gone (with `dry_run`: that would be)."""

    removed: list[BlobInfo] = field(default_factory=list)
    kept_young: int = 0
    referred: int = 0

    @property
    def size_bytes(self) -> int:
        """The space that `removed` took."""
        return sum(info.size_bytes for info in self.removed)


class Collector:
    """One collection of one store."""

    def __init__(self, root: Path, blobs: BlobStore, records: RecordStore, documents: Sequence[DocumentStore]) -> None:
        self._root = root
        self._blobs = blobs
        self._records = records
        self._documents = documents
        self._seen: set[tuple[int, int, int]] = set()

    def collect(self, *, grace_s: float = GRACE_S, dry_run: bool = False, despite_damage: bool = False) -> Sweepings:
        """Remove what is unreferred and older than `grace_s`; with `dry_run` only say what that is.

        Raises:
            IntegrityError: a record or sweep is damaged, or names a blob that is not there: what such a file refers to
                cannot be known. `despite_damage` goes on.
            UnavailableError: the store cannot be read or written, or another collection is at work.
        """
        # Who only asks need not be able to write.
        alone = contextlib.nullcontext() if dry_run else self._only_one()
        with files.store_errors("collect garbage in", self._root), alone:
            if not dry_run:
                self._put_back()
            referred = self._referred()
            if not despite_damage:
                self._refuse_damage()
            found = Sweepings()
            now_s = time.time() if dry_run else self._file_system_time()
            for info in list(self._blobs.list()):
                if info.sha256 in referred:
                    found.referred += 1
                elif now_s - self._blobs.path(info.sha256).stat().st_mtime < grace_s:
                    found.kept_young += 1
                else:
                    found.removed.append(info)
            if not dry_run:
                found.removed = self._remove(found.removed, now_s - grace_s)
            return found

    def _remove(self, unreferred: list[BlobInfo], before_s: float) -> list[BlobInfo]:
        for info in unreferred:
            with contextlib.suppress(FileNotFoundError):
                self._blobs.path(info.sha256).rename(self._aside(info.sha256))
        # Only files that were not there before are read: what was there has been looked through.
        late = self._referred()
        gone = []
        for info in unreferred:
            aside = self._aside(info.sha256)
            if info.sha256 in late or aside.stat().st_mtime > before_s:
                self._restore(aside)
            else:
                aside.unlink()
                gone.append(info)
        return gone

    def _put_back(self) -> None:
        """Undo what a collection that was killed had moved aside; what is still garbage is found again."""
        for aside in sorted(self._blobs.temp.glob(f"{_ASIDE}*")):
            self._restore(aside)

    def _restore(self, aside: Path) -> None:
        path = self._blobs.path(aside.name.removeprefix(_ASIDE))
        with contextlib.suppress(FileExistsError):  # somebody has put it anew
            os.link(aside, path)
        files.fsync_directory(path.parent)
        aside.unlink()

    def _aside(self, sha256: str) -> Path:
        return self._blobs.temp / f"{_ASIDE}{sha256}"

    def _referred(self) -> set[str]:
        """The names of blobs in every file that this collection has not read yet."""
        return {name.decode() for path in self._files() for name in _NAME.findall(path.read_bytes())}

    def _files(self) -> Iterator[Path]:
        for directory, folders, names in os.walk(self._root, onerror=_raise):
            if Path(directory) == self._root:
                folders[:] = [name for name in folders if name not in _SKIPPED]
            for name in names:
                path = Path(directory) / name
                with contextlib.suppress(FileNotFoundError):  # a temporary file of a writer that is done
                    status = path.stat()
                    # A record has two names; and it is written once, a report perhaps again.
                    known = (status.st_dev, status.st_ino, status.st_mtime_ns)
                    if known not in self._seen:
                        yield path
                        self._seen.add(known)

    def _refuse_damage(self) -> None:
        damaged = [str(each.path) for each in self._records.iterate() if isinstance(each, BadRecord)]
        for kept in self._documents:
            damaged += [str(each.path) for each in kept.iterate() if isinstance(each, BadRecord)]
        for record in self._records.iterate():
            if not isinstance(record, BadRecord):
                missing = [r.sha256 for r in (*record.samples, *record.artifacts) if not self._has(r.sha256)]
                damaged += [f"run {record.run_id}, which names the missing blob {sha256}" for sha256 in missing]
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise IntegrityError(
                f"nothing was removed: what a damaged file refers to cannot be known: {damaged[0]}{more}",
                hint="`farm artifacts verify` lists them; mend or delete them first, or collect with --despite-damage.",
            )

    def _has(self, sha256: str) -> bool:
        # Asked after its record was read, never of a list made before: writers are at work.
        return bool(_NAME.fullmatch(sha256.encode("utf-8", "replace"))) and self._blobs.exists(sha256)

    def _file_system_time(self) -> float:
        """Now, by the clock that gives the store's files their times: it may be another machine's."""
        with files.temp_file(self._blobs.temp) as temp:
            return os.fstat(temp.fileno()).st_mtime

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        descriptor = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(
                    f"another collection is at work in {self._root}", hint="Wait for it to end."
                ) from None
            yield
        finally:
            os.close(descriptor)


def _raise(error: OSError) -> None:
    """A folder that cannot be read may hold a reference: `os.walk` would pass over it."""
    raise error
