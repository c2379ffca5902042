# SPDX-License-Identifier: Apache-2.0
"""Records, one file per run: `yyyy/mm/dd/<run_id>.json` by the UTC day on which the run finished.

Each record has a second name, a hard link `by-run/ab/<run_id>.json` (`ab`: the first two digits of the run id's
SHA-256). The second name is made first and decides who was first: the day is part of the first name, and two writers of
one run may finish it on different days. It also makes `exists` one `stat`, with 4,000 names in a directory at 10^6
records, where searching the days costs a `stat` for each day there ever was. A writer that dies between the two names
leaves a record that `read` and `exists` find; writing it again, which its worker's spool does, files it under its day.
`by-run` holds nothing of its own: where it is missing, `create` makes it again from the days.

A day that is compacted (`farm.store.compact`) has its records in one file, `yyyy/mm/dd/records.parquet`, and their
names by run are stubs that name the day. Records of it that come later lie beside that file. All that reads a record
goes through `read`, `load_many` and `iterate`, which take both forms.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from farm.contract.names import check_name
from farm.contract.record import Record
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.store import daily, files, stubs
from farm.store.schema import RecordError, decode_record, encode_record, utc_time

_LEVELS = (re.compile(r"\d{4}"), re.compile(r"\d{2}"), re.compile(r"\d{2}"))
_RESTORE = "Restore the file from a backup, or delete it and run the job again: `farm retry`."


@dataclass(frozen=True)
class BadRecord:
    """A file among the records that cannot be used, and why."""

    path: Path
    problem: str


@dataclass(frozen=True)
class Day:
    """A day's directory with the sorted names of its records' files. `file`: the records that are compacted, if any."""

    path: Path
    names: list[str]
    file: Path | None

    @property
    def name(self) -> str:
        """`yyyy/mm/dd`."""
        return "/".join(self.path.parts[-len(_LEVELS) :])


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

    def day_file(self, day: str) -> Path:
        """Where the records of a day, `yyyy/mm/dd`, are once they are compacted."""
        return self.root / day / daily.NAME

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
        (found,) = self.load_many([run_id])
        if isinstance(found, Record):
            return found
        raise IntegrityError(f"the record {found.path} cannot be used: {found.problem}", hint=_RESTORE)

    def load_many(self, run_ids: Iterable[str]) -> Iterator[Record | BadRecord]:
        """The records of these runs; a fault becomes a BadRecord. Those in files first, then day by day."""
        compacted: dict[str, list[str]] = {}
        for run_id in run_ids:
            path = self.path(run_id)
            try:
                data = path.read_bytes()
            except OSError as error:
                yield BadRecord(path, error.strerror or str(error))
                continue
            if (day := stubs.day_of(data)) is not None:
                compacted.setdefault(day, []).append(run_id)
            else:
                yield load_record(path, data)
        for day, wanted in sorted(compacted.items()):
            yield from self._of_day(day, wanted)

    def _of_day(self, day: str, wanted: list[str]) -> Iterator[Record | BadRecord]:
        file, left = self.day_file(day), set(wanted)
        for row, found in _loaded(file, run_ids=wanted):
            left.discard(row)
            yield found
            if not row:
                return
        for run_id in sorted(left):
            yield BadRecord(self.path(run_id), f"its record is not in {file}, where it should be")

    def files(self) -> Iterator[Path]:
        """Every record's own file by day, oldest day first, then by name; none of those that are compacted."""
        return (day.path / name for day in self.days() for name in day.names)

    def days(self) -> Iterator[Day]:
        """Each day, the oldest first. Names, since a path for each record costs too much."""
        yield from self._level(self.root, 0)

    def fits(self, path: Path) -> bool:
        """Whether a file below the root has a name and place that a record, or a day's records, can have."""
        *days, name = path.relative_to(self.root).parts
        right = len(days) == len(_LEVELS) and all(p.fullmatch(d) for p, d in zip(_LEVELS, days, strict=True))
        return right and (name.endswith(".json") or name == daily.NAME)

    def iterate(self, sweep_id: str | None = None) -> Iterator[Record | BadRecord]:
        """Every record, oldest day first, or those of one sweep. A bad file is yielded as such and stops nothing.

        With a sweep, files that do not name it are passed over undecoded; those that look cut short are still yielded.
        """
        needle = json.dumps(sweep_id).encode() if sweep_id is not None else b""
        for day in self.days():
            seen = set()
            for run_id, kept in _loaded(day.file, sweep_id=sweep_id) if day.file else ():
                seen.add(run_id)
                yield kept
            # A compaction that was stopped leaves files whose records the day's file has.
            for name in (each for each in day.names if each.removesuffix(".json") not in seen):
                found = self._load_naming(day.path / name, needle)
                if isinstance(found, BadRecord) or (found and sweep_id in (None, found.job.sweep_id)):
                    yield found

    def _load_naming(self, path: Path, needle: bytes) -> Record | BadRecord | None:
        """Read one record's file; None if it is whole and without `needle` in it, which is cheaper than decoding."""
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            # Compacted since the day was listed, or removed.
            return self.loaded_elsewhere(path, error)
        except OSError as error:
            return BadRecord(path, error.strerror or str(error))
        if needle not in data and data.rstrip().endswith(b"}"):
            return None
        return load_record(path, data)

    def loaded_elsewhere(self, path: Path, error: OSError) -> Record | BadRecord:
        """The record of a file that was there when its day was listed: from the day's file, if it was compacted."""
        try:
            (found,) = self.load_many([path.stem])
        except UsageError:
            found = BadRecord(path, "")
        return found if isinstance(found, Record) else BadRecord(path, error.strerror or str(error))

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
        data = self.path(run_id).read_bytes()
        if stubs.day_of(data) is not None or self.day_path(first).exists():
            return
        with files.store_errors("write to", self.root), files.temp_file(self.temp) as temp:
            # A copy: the kernel may refuse a link to another user's file.
            temp.write(data)
            files.seal(temp)
            self._file_by_day(Path(temp.name), first)

    def _link_all(self, top: Path) -> int:
        count = 0
        shards: set[Path] = set()
        for day in self.days():
            stub = stubs.Stubs(self.temp, day.name)
            try:
                for run_id in [*daily.digests(day.file)] if day.file else ():
                    name = self._name_below(top, run_id, shards)
                    count += not name.exists() and stub.put(name, replace=False)
            finally:
                stub.close()
            for path in (day.path / name for name in day.names):
                name = self._name_below(top, path.stem, shards)
                count += not name.exists() and self._link_or_copy(path, name)
        for shard in sorted(shards):
            files.fsync_directory(shard)
        return count

    def _name_below(self, top: Path, run_id: str, shards: set[Path]) -> Path:
        name = top / self.path(run_id).relative_to(self.by_run)
        if name.parent not in shards:
            files.make_directories(name.parent, top)
            shards.add(name.parent)
        return name

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

    def _level(self, directory: Path, depth: int) -> Iterator[Day]:
        with files.store_errors("read", directory):
            names = sorted(os.listdir(directory))  # noqa: PTH208 - a path for each of a million takes seconds
        if depth == len(_LEVELS):
            file = directory / daily.NAME if daily.NAME in names else None
            yield Day(directory, [name for name in names if name.endswith(".json")], file)
            return
        for name in names:
            if _LEVELS[depth].fullmatch(name) and (path := directory / name).is_dir():
                yield from self._level(path, depth + 1)


def _loaded(
    file: Path, *, run_ids: Collection[str] | None = None, sweep_id: str | None = None
) -> Iterator[tuple[str, Record | BadRecord]]:
    """Records of a day's file with their run ids. Where the file itself is damaged: one BadRecord, of no run."""
    try:
        for row in daily.rows(file, run_ids=run_ids, sweep_id=sweep_id):
            yield row.run_id, load_row(file, row)
    except IntegrityError as error:
        yield "", BadRecord(file, error.message)


def load_row(file: Path, row: daily.Row) -> Record | BadRecord:
    """Take a record from a row of its day's file; a fault becomes a BadRecord."""
    if not row.sound:
        return BadRecord(file, f"the record of run {row.run_id} in it has not the bytes that were written")
    found = load_record(file.with_name(f"{row.run_id}.json"), row.data)
    return found if isinstance(found, Record) else BadRecord(file, f"run {row.run_id} in it: {found.problem}")


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
