# SPDX-License-Identifier: Apache-2.0
"""Records, one file per run: `yyyy/mm/dd/<run_id>.json` by the UTC day on which the run finished.

Each record has a second name, a hard link `by-run/ab/<run_id>.json` (`ab`: the first two digits of the run id's
SHA-256). The second name is made first and decides who was first: the day is part of the first name, and two writers of
one run may finish it on different days. It also makes `exists` one `stat`, with 4,000 names in a directory at 10^6
records, where searching the days costs a `stat` for each day there ever was. A writer that dies between the two names
leaves a record that `read` and `exists` find; writing it again, which its worker's spool does, files it under its day.
`by-run` holds nothing of its own: where it is missing, `create` makes it again from the days.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from farm.contract.names import check_name
from farm.contract.record import Record
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.store import files
from farm.store.schema import RecordError, decode_record, encode_record, utc_time

_LEVELS = (re.compile(r"\d{4}"), re.compile(r"\d{2}"), re.compile(r"\d{2}"))
_RESTORE = "Restore the file from a backup, or delete it and run the job again: `farm retry`."


@dataclass(frozen=True)
class BadRecord:
    """A file among the records that cannot be used, and why."""

    path: Path
    problem: str


class RecordStore:
    """The records below one directory. Nothing is touched on construction; `create` makes the directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_run = root / "by-run"
        self.temp = root / "tmp"

    def create(self) -> None:
        """Make the directories, and the names by run where they are missing. `root.parent` must exist."""
        with files.store_errors("create", self.root):
            files.make_directories(self.temp, self.root.parent)
        if not self.by_run.is_dir():
            self.rebuild_by_run()

    def write(self, record: Record) -> bool:
        """Store a record, once and for ever. Of several writers of one run exactly one gets True; its record stays.

        Raises:
            UsageError: the record does not fit its own schema, or its run id is no safe name.
            UnavailableError: the store cannot be written; nothing half-written is left.
            IntegrityError: the run has a record that is damaged, so this one must not be given up.
        """
        name = self.path(record.run_id)
        try:
            data = encode_record(record)
        except RecordError as error:
            hint = "This is a fault of the program that made the record; please report it."
            raise UsageError(f"the record of run {record.run_id} cannot be stored: {error}", hint=hint) from error
        self._check_by_run()
        with files.store_errors("write to", self.root), files.temp_file(self.temp) as temp:
            temp.write(data)
            files.seal(temp)
            files.make_directories(name.parent, self.by_run)
            if files.publish_new(Path(temp.name), name):
                self._file_by_day(Path(temp.name), record)
                return True
        self._finish_earlier_write(record.run_id)
        return False

    def path(self, run_id: str) -> Path:
        """The record's name by run. The only way from a run id to a path.

        Raises:
            UsageError: `run_id` has characters that no run id has.
        """
        try:
            check_name(run_id, "run id")
        except ValueError as error:
            raise UsageError(str(error), hint="`farm results` lists run ids.") from error
        return self.by_run / hashlib.sha256(run_id.encode()).hexdigest()[:2] / f"{run_id}.json"

    def day_path(self, record: Record) -> Path:
        """The record's name by the UTC day of its `finished_at`."""
        day = utc_time(record.finished_at)
        return self.root / f"{day.year:04d}" / f"{day.month:02d}" / f"{day.day:02d}" / f"{record.run_id}.json"

    def exists(self, run_id: str) -> bool:
        """Whether the run has a record: one `stat`."""
        path = self.path(run_id)
        with files.store_errors("read", path):
            if files.is_regular(path):
                return True
        self._check_by_run()
        return False

    def read(self, run_id: str) -> Record:
        """Return one run's record.

        Raises:
            UsageError: the run has none.
            IntegrityError: it has one that cannot be read, with the reason.
        """
        if not self.exists(run_id):
            raise UsageError(f"the store has no record of run {run_id}", hint="`farm results` lists run ids.")
        found = load_record(self.path(run_id))
        if isinstance(found, Record):
            return found
        raise IntegrityError(f"the record {found.path} cannot be used: {found.problem}", hint=_RESTORE)

    def files(self) -> Iterator[Path]:
        """Every record's file by day, oldest day first, then by name."""
        return (directory / name for directory, names in self.days() for name in names)

    def days(self) -> Iterator[tuple[Path, list[str]]]:
        """Each day's directory, the oldest first, with the sorted names of its records: a path each costs too much."""
        yield from self._level(self.root, 0)

    def fits(self, path: Path) -> bool:
        """Whether a file below the root has a name and place that a record can have."""
        *days, name = path.relative_to(self.root).parts
        right = len(days) == len(_LEVELS) and all(p.fullmatch(d) for p, d in zip(_LEVELS, days, strict=True))
        return right and name.endswith(".json")

    def iterate(self, sweep_id: str | None = None) -> Iterator[Record | BadRecord]:
        """Every record, oldest day first, or those of one sweep. A bad file is yielded as such and stops nothing.

        With a sweep, files that do not name it are passed over undecoded; those that look cut short are still yielded.
        """
        needle = json.dumps(sweep_id).encode() if sweep_id is not None else b""
        for path in self.files():
            found = _load_naming(path, needle)
            if isinstance(found, BadRecord) or (found and sweep_id in (None, found.job.sweep_id)):
                yield found

    def rebuild_by_run(self) -> int:
        """Add the names by run that are missing, from the days; return how many were. Safe against other writers.

        Without any names the new ones are made aside and appear all at once: a writer that saw half of them would
        take a run that has a record for one that has none.
        """
        with files.store_errors("write to", self.root):
            if not self.by_run.is_dir():
                fresh = self.temp / f"by-run-{secrets.token_hex(12)}"
                fresh.mkdir()
                try:
                    count = self._link_all(fresh)
                    fresh.rename(self.by_run)
                    files.fsync_directory(self.root)
                    return count
                except OSError:
                    # Another process may have been faster; then only what it did not see is left to add.
                    shutil.rmtree(fresh, ignore_errors=True)
                    if not self.by_run.is_dir():
                        raise
            return self._link_all(self.by_run)

    def check_writable(self) -> None:
        """Write, flush, link and remove a small file. Raises UnavailableError with the path, cause and remedy."""
        with files.store_errors("write to", self.temp), files.temp_file(self.temp) as temp:
            temp.write(b"0" * 4096)
            files.seal(temp)
            link = Path(temp.name).with_suffix(".link" + files.TEMP_SUFFIX)
            try:
                files.publish_new(Path(temp.name), link)
            finally:
                link.unlink(missing_ok=True)
        self._check_by_run()

    def _check_by_run(self) -> None:
        if not self.by_run.is_dir():
            raise UnavailableError(
                f"the store has no {self.by_run}: it is away, or not one that this farm made",
                hint="Mount the store's file system; or, if it is new or was copied in part, create it again: "
                "`farm up` and `farm run` do, and nothing is lost by it.",
            )

    def _file_by_day(self, temp: Path, record: Record) -> None:
        name = self.day_path(record)
        files.make_directories(name.parent, self.root)
        files.publish_new(temp, name)

    def _finish_earlier_write(self, run_id: str) -> None:
        """File the record that was first under its day, in case its writer died before it could."""
        first = self.read(run_id)
        if self.day_path(first).exists():
            return
        with files.store_errors("write to", self.root), files.temp_file(self.temp) as temp:
            # A copy: the kernel may refuse a link to another user's file.
            temp.write(self.path(run_id).read_bytes())
            files.seal(temp)
            self._file_by_day(Path(temp.name), first)

    def _link_all(self, top: Path) -> int:
        count, shards = 0, set()
        for path in self.files():
            name = top / self.path(path.stem).relative_to(self.by_run)
            if not name.exists():
                files.make_directories(name.parent, top)
                count += self._link_or_copy(path, name)
                shards.add(name.parent)
        for shard in sorted(shards):
            files.fsync_directory(shard)
        return count

    def _link_or_copy(self, path: Path, name: Path) -> bool:
        """Link, without a flush of the directory. The kernel may refuse a link to another user's file: then copy it."""
        try:
            os.link(path, name)
        except FileExistsError:
            return False
        except PermissionError:
            with files.temp_file(self.temp) as temp:
                temp.write(path.read_bytes())
                files.seal(temp)
                return files.publish_new(Path(temp.name), name)
        return True

    def _level(self, directory: Path, depth: int) -> Iterator[tuple[Path, list[str]]]:
        with files.store_errors("read", directory):
            names = sorted(os.listdir(directory))  # noqa: PTH208 - a path for each of a million takes seconds
        if depth == len(_LEVELS):
            yield directory, [name for name in names if name.endswith(".json")]
            return
        for name in names:
            if _LEVELS[depth].fullmatch(name) and (path := directory / name).is_dir():
                yield from self._level(path, depth + 1)


def load_record(path: Path, data: bytes | None = None) -> Record | BadRecord:
    """Read one record's file, or take its bytes; a fault becomes a BadRecord."""
    try:
        check_name(path.stem, "run id")
        record = decode_record(path.read_bytes() if data is None else data)
    except OSError as error:
        return BadRecord(path, error.strerror or str(error))
    except ValueError as error:
        return BadRecord(path, str(error))
    if record.run_id != path.stem:
        return BadRecord(path, f"it is the record of run {record.run_id}, under another run's name")
    return record


def names_any(path: Path, sweep_ids: Collection[str]) -> bool:
    """Whether a file that is no record may be one of these sweeps': it names one, or is cut short, or unreadable."""
    try:
        data = path.read_bytes()
    except OSError:
        return True
    return not data.rstrip().endswith(b"}") or any(json.dumps(name).encode() in data for name in sweep_ids)


def _load_naming(path: Path, needle: bytes) -> Record | BadRecord | None:
    """Read one record's file; None if it is a whole file without `needle` in it, which is cheaper than decoding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return BadRecord(path, error.strerror or str(error))
    if needle not in data and data.rstrip().endswith(b"}"):
        return None
    return load_record(path, data)
