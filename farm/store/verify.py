# SPDX-License-Identifier: Apache-2.0
"""Is everything in the store what it should be? Reads all of it, changes nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm.contract.record import BlobRef, Record
from farm.errors import IntegrityError, UsageError
from farm.store import daily, files
from farm.store.blobs import BlobStore
from farm.store.documents import DocumentStore
from farm.store.records import BadRecord, Day, RecordStore, load_record, load_row
from farm.store.stubs import day_of


@dataclass(frozen=True)
class Problem:
    """One fault. `area` is `records`, `sweeps`, `nights`, `decisions` or `blobs`; `run_id`: a run that is affected."""

    area: str
    path: Path
    message: str
    run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f" (run {self.run_id})" if self.run_id else "")


@dataclass(frozen=True)
class _Use:
    """The first record that refers to a blob, and how."""

    run_id: str
    ref: BlobRef


def verify_store(blobs: BlobStore, records: RecordStore, documents: Sequence[DocumentStore]) -> Iterator[Problem]:
    """Yield every fault: records, then documents (sweeps, nights, decisions), then blobs.

    Records, compacted or not: each decodes, has its run's name and its day, and is the one that its name by run shows;
    compacted ones have the bytes that were written. Documents: each
    decodes under a safe name. Blobs: each hashes to its name, and each that a record refers to is there in full.
    Temporary files count as faults once they are older than an hour.
    """
    uses: dict[str, _Use] = {}
    yield from _record_problems(records, uses)
    for kept in documents:
        for found in kept.iterate():
            if isinstance(found, BadRecord):
                yield Problem(kept.area, found.path, found.problem)
        for path in files.stale_temps(kept.temp):
            yield Problem(kept.area, path, "left by a writer that was killed; safe to delete")
    yield from _blob_problems(blobs, uses)


def _record_problems(records: RecordStore, uses: dict[str, _Use]) -> Iterator[Problem]:
    seen: set[str] = set()
    for day in records.days():
        held: dict[str, str] = {}
        if day.file:
            yield from _compacted_problems(records, day, seen, held, uses)
        for path in (day.path / name for name in day.names):
            if path.stem in held:
                # What a stopped compaction left beside the day's file is the same record, and no fault.
                if hashlib.sha256(path.read_bytes()).hexdigest() != held[path.stem]:
                    yield Problem("records", path, f"differs from the record of the run in {day.file}", path.stem)
                continue
            record = load_record(path)
            if isinstance(record, BadRecord):
                problem: str | None = record.problem
            else:
                problem = _misfiled(records, path, record, path.stem in seen)
                _note_uses(record, uses)
            seen.add(path.stem)
            if problem:
                yield Problem("records", path, problem, path.stem)
    for path in sorted(records.by_run.glob("*/*.json")):
        if path.stem not in seen and files.is_stale(path) and not _is_filed(records, path):
            message = "not filed under its day: its writer was stopped; its worker's spool sends it again"
            yield Problem("records", path, message, path.stem)
    yield from _strays(records)


def _compacted_problems(
    records: RecordStore, day: Day, seen: set[str], held: dict[str, str], uses: dict[str, _Use]
) -> Iterator[Problem]:
    """Of a day's file: each row is what was written, of its run and of that day, and the run's name shows there."""
    file = records.day_file(day.name)
    try:
        for row in daily.rows(file):
            record = load_row(file, row)
            if isinstance(record, BadRecord):
                problem: str | None = record.problem
            else:
                problem = _misnamed(records, day, record, row, row.run_id in seen)
                _note_uses(record, uses)
            seen.add(row.run_id)
            held[row.run_id] = row.sha256
            if problem:
                yield Problem("records", file, problem, row.run_id)
    except IntegrityError as error:
        yield Problem("records", file, error.message)


def _note_uses(record: Record, uses: dict[str, _Use]) -> None:
    for ref in (*record.samples, *record.artifacts):
        uses.setdefault(ref.sha256, _Use(record.run_id, ref))


def _misnamed(records: RecordStore, day: Day, record: Record, row: daily.Row, again: bool) -> str | None:
    if again:
        return "the run has another record on an earlier day; a run has one"
    if records.day_path(record).parent != day.path:
        return f"filed under the wrong day: the run finished at {record.finished_at}"
    by_run = records.path(row.run_id)
    if not files.is_regular(by_run):
        return f"has no name by run, {by_run}: the run could be recorded twice"
    named = by_run.read_bytes()
    if named != row.data and day_of(named) != day.name:
        return f"differs from {by_run}, which was there first"
    return None


def _is_filed(records: RecordStore, path: Path) -> bool:
    """Whether the record that has this name by run has its day too: it may have come while the days were read."""
    data = path.read_bytes()
    if (day := day_of(data)) is not None:
        return path.stem in daily.digests(records.day_file(day))
    record = load_record(path, data)
    return isinstance(record, Record) and records.day_path(record).exists()


def _misfiled(records: RecordStore, path: Path, record: Record, again: bool) -> str | None:
    if again:
        return "the run has another record on an earlier day; a run has one"
    if path != records.day_path(record):
        return f"filed under the wrong day: the run finished at {record.finished_at}"
    by_run = records.path(record.run_id)
    if not files.is_regular(by_run):
        return f"has no name by run, {by_run}: the run could be recorded twice"
    if not by_run.samefile(path) and by_run.read_bytes() != path.read_bytes():
        return f"differs from {by_run}, which was there first"
    return None


def _strays(records: RecordStore) -> Iterator[Problem]:
    for directory, folders, names in os.walk(records.root):
        here = Path(directory)
        folders[:] = sorted(name for name in folders if here / name not in (records.by_run, records.temp))
        for name in sorted(names):
            if not records.fits(here / name):
                message = "no record can have this name and place; move it out of the store"
                yield Problem("records", here / name, message)
    for path in files.stale_temps(records.temp):
        yield Problem("records", path, "left by a writer that was killed; safe to delete")


def _blob_problems(blobs: BlobStore, uses: dict[str, _Use]) -> Iterator[Problem]:
    sizes = {sha256: use.ref.size_bytes for sha256, use in uses.items()}
    damaged = set()
    for fault in blobs.verify(sizes):
        damaged.add(fault.sha256)
        use = uses.get(fault.sha256 or "")
        yield Problem("blobs", fault.path, f"{fault.kind}: {fault.message}", use.run_id if use else None)
    for sha256, use in sorted(uses.items()):
        if sha256 not in damaged:
            yield from _reference_problem(blobs, sha256, use)


def _reference_problem(blobs: BlobStore, sha256: str, use: _Use) -> Iterator[Problem]:
    try:
        path = blobs.path(sha256)
    except UsageError as error:
        yield Problem("records", blobs.root, f"a blob is referred to by a name that is none: {error}", use.run_id)
        return
    if not files.is_regular(path):
        yield Problem("blobs", path, f"missing: the record refers to it as its {use.ref.kind}", use.run_id)
    elif path.stat().st_size != use.ref.size_bytes:
        message = f"has {path.stat().st_size} bytes, its record says {use.ref.size_bytes}"
        yield Problem("blobs", path, message, use.run_id)
