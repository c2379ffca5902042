# SPDX-License-Identifier: Apache-2.0
"""Copy a store to another directory, which then is a store: a backup, a restore, a move. Again adds what is new.

Whoever writes meanwhile, what a copied file names is in the copy too: writers put a blob before the record that names
it, and a sweep before its records. So what names is copied before what is named: reports, nights and decisions, then
records, then sweeps, then blobs. Each file appears whole, by rename after a flush; nothing of the copy is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from farm.contract.record import Record
from farm.errors import FarmError, UnavailableError, UsageError
from farm.store import files
from farm.store.gc import LOCK
from farm.store.records import load_record
from farm.store.store import COMPACTED, Store

#: Made again from the rest, or of no use elsewhere.
_SKIPPED = frozenset({"index", "tmp", "by-run", LOCK, "store.json"})
_NAMED_LAST = ("records", "sweeps", "blobs")
#: How often records are gone over again if some went away meanwhile, as they do when a day's are made one file.
_PASSES = 3


@dataclass
class Copied:
    """What a copy did: files that it wrote, files that were there, and what is wrong, each with its path."""

    files: int = 0
    size_bytes: int = 0
    present: int = 0
    problems: list[str] = field(default_factory=list)


def copy_store(source: Store, to: Path) -> Copied:
    """Copy all of `source` to `to`, a new or empty directory, or an earlier copy. Blobs are verified on the way.

    Raises:
        UsageError: `source` is no store, or `to` is one of something else, or inside of it.
        UnavailableError: one of them cannot be read or written, or garbage is being collected.
    """
    _check_places(source.root, to)
    target = Store(to)
    with files.store_errors("copy", source.root), _without_collection(source.root):
        target.create()
        if source.layout() == COMPACTED:
            target.mark(COMPACTED)
        done = Copied()
        for name in sorted(os.listdir(source.root)):  # noqa: PTH208 - names, not paths
            if name not in (*_NAMED_LAST, *_SKIPPED):
                _copy_tree(source.root / name, target, name, done)
        for _ in range(_PASSES):
            if _copy_tree(source.records.root, target, "records", done):
                break
        _copy_tree(source.sweeps.root, target, "sweeps", done)
        _copy_blobs(source, target, done)
        target.records.rebuild_by_run()
    return done


def _check_places(root: Path, to: Path) -> None:
    if not (root / "store.json").is_file():
        raise UsageError(f"{root} is no store", hint="The `store` setting, or --store, names the one to copy.")
    here, there = root.resolve(), to.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(f"{to} and the store {root} are within each other", hint="Name a directory elsewhere.")
    if to.is_dir() and any(to.iterdir()) and not (to / "store.json").is_file():
        raise UsageError(f"{to} is not empty, and no store", hint="Name a new directory, or an earlier copy.")


@contextlib.contextmanager
def _without_collection(root: Path) -> Iterator[None]:
    """Keep a garbage collection from setting blobs aside meanwhile. A store that this user only reads has no lock."""
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"garbage is being collected in {root}", hint="Wait for it to end.") from None
        yield
    finally:
        os.close(descriptor)


def _copy_tree(place: Path, target: Store, name: str, done: Copied) -> bool:
    """Copy a file or a directory's files to the same place in `target`; False: some went away meanwhile."""
    whole = True
    for path in [place] if place.is_file() else _regular_files(place, done):
        to = target.root / name / path.relative_to(place) if path != place else target.root / name
        try:
            _copy_file(path, to, target, done)
        except FileNotFoundError:
            whole = False
    return whole


def _regular_files(place: Path, done: Copied) -> Iterator[Path]:
    for directory, folders, names in os.walk(place, onerror=_raise):
        folders[:] = sorted(folder for folder in folders if folder not in _SKIPPED)
        for name in sorted(names):
            path = Path(directory) / name
            if files.is_regular(path):
                yield path
            elif path.is_symlink():
                done.problems.append(f"{path}: a link, which is not copied")


def _copy_file(path: Path, to: Path, target: Store, done: Copied) -> None:
    status = path.stat()
    there = to.lstat() if to.exists() else None
    if there is not None:
        if (there.st_size, there.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
            done.present += 1
            return
        if _is_record(to, target) and isinstance(load_record(to), Record):
            # Records are written once: the one that was good when it was copied is the one to believe.
            if to.read_bytes() != path.read_bytes():
                done.problems.append(f"{path}: differs from its copy, which was left as it is")
            done.present += 1
            return
        if _is_record(to, target):
            target.records.path(to.stem).unlink(missing_ok=True)
    files.make_directories(to.parent, target.root)
    with path.open("rb") as source, files.temp_file(target.sweeps.temp) as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()  # a write after this would make the file young
        os.utime(copy.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        files.seal(copy, stat.S_IMODE(status.st_mode) & 0o777)
        files.publish_over(Path(copy.name), to)
    done.files += 1
    done.size_bytes += status.st_size


def _is_record(to: Path, target: Store) -> bool:
    return target.records.root in to.parents and target.records.fits(to)


def _copy_blobs(source: Store, target: Store, done: Copied) -> None:
    for info in source.blobs.list():
        there = target.blobs.path(info.sha256)
        if files.is_regular(there) and there.stat().st_size == info.size_bytes:
            done.present += 1
            continue
        temp = target.blobs.temp / f"copy-{info.sha256}{files.TEMP_SUFFIX}"
        try:
            source.blobs.get(info.sha256, temp)
            target.blobs.adopt(temp, info.sha256)
        except UnavailableError:
            raise
        except FarmError as error:
            done.problems.append(f"{source.blobs.path(info.sha256)}: {error.message}")
            continue
        finally:
            temp.unlink(missing_ok=True)
        done.files += 1
        done.size_bytes += info.size_bytes


def _raise(error: OSError) -> None:
    """A folder that cannot be read must not pass for an empty one."""
    raise error
