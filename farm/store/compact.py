# SPDX-License-Identifier: Apache-2.0
"""Many small files become one a day: a day's records go into `records.parquet` beside them, and then their files go.

For each day, each step on the disk before the next begins:
    1. The day's file is written aside, of what it held before and of the sound records beside it; read back; and each
       of its rows is compared by SHA-256 with the record's own file, read again.
    2. It gets its name.
    3. Names by run become stubs that name the day. At no moment is there a run without its name.
    4. The records' own files are removed.
A compaction that is stopped anywhere leaves each record readable once, and the next one goes on from there. What is
damaged, misfiled or differs from its name by run is left as it is, and told.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from farm.contract.record import Record
from farm.errors import IntegrityError, UsageError
from farm.store import daily, files
from farm.store.records import BadRecord, Day, RecordStore, load_record, load_row
from farm.store.stubs import Stubs, day_of

_Pair = tuple[Record, bytes]


@dataclass
class Compacted:
    """What became of a day: how many files went into the day's file, bytes before and after, and what was left."""

    day: str
    records: int = 0
    size_before: int = 0
    size_after: int = 0
    left: list[BadRecord] = field(default_factory=list)


def before_which(after_days: int, day: date | None = None) -> date:
    """The day before which days are compacted: `day`, else the one `after_days` ago (UTC). Never later than today.

    A day that still gets records would be written anew again and again.
    """
    today = datetime.now(UTC).date()
    return min(day or today - timedelta(days=after_days), today)


def due(records: RecordStore, before: date) -> Iterator[Day]:
    """The days before `before` with records in files of their own, the oldest first."""
    for day in records.days():
        if day.names and day.name < f"{before:%Y/%m/%d}":
            yield day


def plan(day: Day) -> Compacted:
    """What compacting a day would look at."""
    size = sum((day.path / name).stat().st_size for name in day.names)
    return Compacted(day.name, len(day.names), size)


def compact(records: RecordStore, day: Day) -> Compacted:
    """Compact a day. Only one process may be at it.

    Raises:
        UnavailableError: the store cannot be written; nothing is lost, and the next call goes on.
    """
    done = Compacted(day.name)
    file = records.day_file(day.name)
    try:
        held = daily.digests(file)
        fresh = _sound(records, day, held, done)
        first = next(fresh, None)
        if first is not None:
            _write(records, day, itertools.chain([first], fresh), held)
        _clear(records, day, daily.digests(file), done)
    except IntegrityError as error:
        done.left.append(BadRecord(file, error.message))
    if file.is_file():
        done.size_after = file.stat().st_size
    return done


def remove(records: RecordStore, run_id: str) -> None:
    """Remove a run's record, in whichever form it is. Only one process may be at it.

    A compacted one's day is written anew without it; its name goes last: while there is a name, nobody records the run
    a second time.

    Raises:
        UsageError: the run has no record.
        IntegrityError: the day's file is damaged.
    """
    name = records.path(run_id)
    if not records.exists(run_id):
        raise UsageError(f"the store has no record of run {run_id}", hint="`farm results` lists run ids.")
    with files.store_errors("remove", name):
        for path in _places(records, run_id):
            if path.name == daily.NAME:
                _write(records, _day(records, path), [], daily.digests(path), without=run_id)
            else:
                path.unlink()
                files.fsync_directory(path.parent)
        name.unlink()
        files.fsync_directory(name.parent)


def _places(records: RecordStore, run_id: str) -> list[Path]:
    """The files with a run's record by day: one, or its own beside the day's where a compaction was stopped."""
    data = records.path(run_id).read_bytes()
    day = day_of(data)
    if day is None:
        found = load_record(records.path(run_id), data)
        # A damaged record does not say which day it is of.
        days = [records.day_path(found).parent] if isinstance(found, Record) else [each.path for each in records.days()]
    else:
        days = [records.root / day]
    files_there = [each / f"{run_id}.json" for each in days if (each / f"{run_id}.json").exists()]
    return files_there + [each / daily.NAME for each in days if run_id in daily.digests(each / daily.NAME)]


def _day(records: RecordStore, file: Path) -> Day:
    return Day(file.parent, [], file)


def _sound(records: RecordStore, day: Day, held: dict[str, str], done: Compacted) -> Iterator[_Pair]:
    """The records that can go into the day's file, in the order of run ids; the others are noted."""
    for run_id in sorted(name.removesuffix(".json") for name in day.names):
        if run_id in held:
            continue
        path = day.path / f"{run_id}.json"
        with files.store_errors("read", path):
            data = path.read_bytes()
        found = load_record(path, data)
        problem = found.problem if isinstance(found, BadRecord) else _misplaced(records, path, found, data)
        if problem:
            done.left.append(BadRecord(path, problem))
        elif isinstance(found, Record):
            yield found, data


def _misplaced(records: RecordStore, path: Path, record: Record, data: bytes) -> str:
    """Why a sound record must not be compacted where it lies; '' if it may."""
    if records.day_path(record) != path:
        return f"filed under the wrong day: the run finished at {record.finished_at}"
    by_run = records.path(record.run_id)
    if files.is_regular(by_run):
        named = by_run.read_bytes()
        if named != data:
            other = day_of(named)
            return f"the run has another record, of {other}" if other else f"differs from {by_run}, which was first"
    return ""


def _write(
    records: RecordStore, day: Day, fresh: Iterable[_Pair], held: dict[str, str], without: str | None = None
) -> None:
    """Write the day's file of what it held and of `fresh`, and put it in force once each row has proved right."""
    file = records.day_file(day.name)
    aside = records.temp / f"{secrets.token_hex(12)}{files.TEMP_SUFFIX}"
    wanted = {run_id: sha256 for run_id, sha256 in held.items() if run_id != without}
    kept = _kept(file, without) if held else iter(())
    try:
        pairs = heapq.merge(kept, _noting(fresh, wanted), key=lambda pair: pair[0].run_id)
        daily.write(aside, day.name, pairs)
        _verify(aside, day, wanted, held)
        with files.store_errors("write to", file.parent):
            files.publish_over(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _noting(fresh: Iterable[_Pair], wanted: dict[str, str]) -> Iterator[_Pair]:
    for record, data in fresh:
        wanted[record.run_id] = hashlib.sha256(data).hexdigest()
        yield record, data


def _kept(file: Path, without: str | None) -> Iterator[_Pair]:
    for row in daily.rows(file):
        if row.run_id != without:
            found = load_row(file, row)
            if isinstance(found, BadRecord):
                # To leave it out would lose it; to take it over would make damage look sound.
                raise IntegrityError(f"{file}: {found.problem}", hint="Restore the file from a backup.")
            yield found, row.data


def _verify(aside: Path, day: Day, wanted: dict[str, str], held: dict[str, str]) -> None:
    """Each row is what its own file says now, or what the file before it held; and no row is missing.

    Raises:
        IntegrityError: something differs; nothing was removed.
    """
    count = 0
    for row in daily.rows(aside):
        count += 1
        found = hashlib.sha256(row.data).hexdigest()
        right = held.get(row.run_id) or _digest(day.path / f"{row.run_id}.json")
        if not found == row.sha256 == right == wanted.get(row.run_id):
            raise IntegrityError(f"the record of run {row.run_id} came back changed from {aside}: nothing was removed")
    if count != len(wanted):
        raise IntegrityError(f"{aside} has {count} records and not {len(wanted)}: nothing was removed")


def _clear(records: RecordStore, day: Day, held: dict[str, str], done: Compacted) -> None:
    """Remove the files whose records the day's file has, after their names by run show there."""
    gone = []
    for run_id in sorted(name.removesuffix(".json") for name in day.names):
        path = day.path / f"{run_id}.json"
        if run_id in held:
            if _digest(path) == held[run_id]:
                gone.append(path)
            else:
                done.left.append(BadRecord(path, f"differs from the record of the run in {records.day_file(day.name)}"))
    with files.store_errors("write to", records.by_run):
        _point(records, day.name, gone)
        for path in gone:
            done.size_before += path.stat().st_size
            path.unlink()
        if gone:
            files.fsync_directory(day.path)
    done.records = len(gone)


def _point(records: RecordStore, day: str, gone: list[Path]) -> None:
    stubs, shards = Stubs(records.temp, day), set()
    try:
        for path in gone:
            name = records.path(path.stem)
            files.make_directories(name.parent, records.by_run)
            stubs.put(name, replace=True)
            shards.add(name.parent)
    finally:
        stubs.close()
    for shard in sorted(shards):
        files.fsync_directory(shard)


def _digest(path: Path) -> str:
    with files.store_errors("read", path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
