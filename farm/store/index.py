# SPDX-License-Identifier: Apache-2.0
"""The index: records as flat rows in Parquet files, for DuckDB. Disposable: everything in it comes from the records.

`current.json` names the files in force. A refresh writes the rows of new records to one more file and replaces
`current.json` at once, so a reader sees the index before or after, never between. Refreshers take turns by a kernel
lock, which dies with its holder; without it (file systems that lack it) the last to finish wins, and what it did not
see is added by the next refresh. New records are found by name, not by time: a worker that was cut off for days sends
records of those days.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from farm.errors import UnavailableError
from farm.store import files
from farm.store.columns import COLUMNS, COLUMNS_DIGEST, row_of
from farm.store.parquet import connection, copy_parquet, file_list, write_parquet
from farm.store.query import Question, Table, answer, question, session, stream
from farm.store.records import BadRecord, RecordStore, load_record
from farm.store.schema import RecordError, decode_json, encode_json

#: Rows per file while many records are read: bounds the temporary JSON to tens of megabytes.
BATCH_ROWS = 20_000

#: More files than this are merged into one. Each refresh that finds something adds one.
MAX_PARTS = 32

LOCK_TIMEOUT_S = 120.0
_LOCK_POLL_S = 0.05
_PART = re.compile(r"part-[0-9a-f]{24}\.parquet")
_KINDS = {column.name: column.kind for column in COLUMNS.values()}


class Index:
    """The index of `records` in `directory`, which may lie outside the store: a laptop may read a store it can't write.

    `problems` holds the records that the last refresh or rebuild could not use.
    """

    def __init__(self, records: RecordStore, directory: Path, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self.directory = directory
        self.problems: list[BadRecord] = []
        self._records = records
        self._session: Any = None
        self._lock_timeout_s = lock_timeout_s

    def refresh(self) -> int:
        """Add the records that came since the last refresh; return how many.

        An index with other columns, with a damaged file, or with rows whose records are gone is made anew.

        Raises:
            UnavailableError: the directory cannot be written, or another process holds the lock for too long.
        """
        with self._locked():
            known = self._known()
            if known is None:
                return self._write([], self._listing())
            new = self._listing(known)
            if not all(known.values()):
                return self._write([], self._listing())
            return self._write(self._parts() or [], new)

    def rebuild(self) -> int:
        """Make the index anew; return how many records it has."""
        with self._locked():
            return self._write([], self._listing())

    def query(
        self,
        sweep: str | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        order: Sequence[str] = ("started_at", "run_id"),
        latest: bool = False,
    ) -> Table:
        """Return the records that fit, as a table. Looks at the index only: `refresh` first for what is new.

        Args:
            sweep: a sweep's id or name.
            where: one SQL expression that is true or false for a row, as in `outcome = 'ok' AND latency_ms < 10`. In
                subqueries the table is `records`, already narrowed by `sweep` and `latest`.
            columns: the columns wanted, in order; by default all. Metrics may be named as in records.
            order: columns to sort by, each falling where `-` stands before it. What is not there comes last.
            latest: of each point only its last generation and attempt. A job that ended without any point is left out
                once a later generation has any record.

        Raises:
            UsageError: a name or the expression is at fault; the hint lists the columns, and the nearest one.
            UnavailableError: the index is damaged, or there is none and it cannot be made.
        """
        asked: Question = question(sweep, where, columns, order, latest)
        return answer(asked, self._parts_or_refreshed())

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Within it, `stream` reads the index as it is now, and from one connection: opening one takes milliseconds."""
        if self._session is not None:
            yield
            return
        with session(self._parts_or_refreshed()) as database:
            self._session = database
            try:
                yield
            finally:
                self._session = None

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query of the farm's own, never a person's; the records are the table `records`.

        Looks at the index only: `refresh` first for what is new.

        Raises:
            UnavailableError: the index is damaged.
        """
        if self._session is not None:
            yield from stream(self._session, sql, dict(parameters or {}))
            return
        with session(self._parts_or_refreshed()) as database:
            yield from stream(database, sql, dict(parameters or {}))

    def _parts_or_refreshed(self) -> list[Path]:
        parts = self._parts()
        if parts is None or not all(part.is_file() for part in parts):
            self.refresh()
            parts = self._parts() or []
        return parts

    @property
    def in_force(self) -> list[Path]:
        """The files of the index as it is now; none where there is no index, or one with other columns."""
        return self._parts() or []

    def _write(self, parts: list[Path], new: Mapping[str, str]) -> int:
        """Write rows for `new`, put them in force together with `parts`, and return how many."""
        self.problems = []
        old, added = self._parts() or [], 0
        rows = self._rows(new)
        done = bool(parts) and not new
        while not done:
            part = self.directory / f"part-{secrets.token_hex(12)}.parquet"
            count = write_parquet(_take(rows, BATCH_ROWS), _KINDS, part)
            added += count
            # An index of no records has one file of no rows, so that there is always something to ask.
            if count or not parts:
                parts = [*parts, part]
            else:
                part.unlink()
            done = count < BATCH_ROWS
        if len(parts) > MAX_PARTS:
            parts = [self._merged(parts)]
        if parts != old:
            self._put_in_force(parts, retired=set(old) - set(parts))
        return added

    def _rows(self, new: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        for path in new.values():
            found = load_record(Path(path))
            if isinstance(found, BadRecord):
                self.problems.append(found)
            else:
                yield row_of(found)

    def _merged(self, parts: list[Path]) -> Path:
        merged = self.directory / f"part-{secrets.token_hex(12)}.parquet"
        copy_parquet(f"SELECT * FROM read_parquet({file_list(parts)})", merged)  # noqa: S608 - our own names
        return merged

    def _put_in_force(self, parts: list[Path], retired: set[Path]) -> None:
        document = {"columns": COLUMNS_DIGEST, "parts": [part.name for part in parts]}
        with files.store_errors("write to", self.directory):
            with files.temp_file(self.directory) as temp:
                temp.write(encode_json(document))
                files.seal(temp, 0o644)
                files.publish_over(Path(temp.name), self._current)
            for path in self.directory.iterdir():
                if path in retired:
                    # A reader may have been told of it a moment ago: it stays for an hour from now.
                    os.utime(path)
                elif path not in parts and path not in (self._current, self._lock) and files.is_stale(path):
                    path.unlink(missing_ok=True)

    def _listing(self, known: dict[str, bool] | None = None) -> dict[str, str]:
        """Every record's file by run id, but those `known`, which become True there: of a million, few are new.

        A second file of one run is ignored; `Store.verify` reports it.
        """
        listed: dict[str, str] = {}
        for directory, names in self._records.days():
            for name in names:
                run_id = name.removesuffix(".json")
                if known is not None and run_id in known:
                    known[run_id] = True
                else:
                    listed.setdefault(run_id, f"{directory}/{name}")
        return listed

    def _known(self) -> dict[str, bool] | None:
        """The run ids in the index, each with False; None if it must be made anew."""
        parts = self._parts()
        if not parts:
            return None
        known: dict[str, bool] = {}
        try:
            with connection() as database:
                sql = f"SELECT run_id FROM read_parquet({file_list(parts)})"  # noqa: S608 - our own names
                result = database.execute(sql)
                while rows := result.fetchmany(BATCH_ROWS):
                    known.update((row[0], False) for row in rows)
        except duckdb.Error:
            return None
        return known

    def _parts(self) -> list[Path] | None:
        """The files in force; None if there are none, or they have other columns."""
        try:
            document = decode_json(self._current.read_bytes())
        except (FileNotFoundError, RecordError):
            return None
        names = document.get("parts")
        if document.get("columns") != COLUMNS_DIGEST or not isinstance(names, list):
            return None
        if not all(isinstance(name, str) and _PART.fullmatch(name) for name in names):
            return None
        return [self.directory / name for name in names]

    @property
    def _current(self) -> Path:
        return self.directory / "current.json"

    @property
    def _lock(self) -> Path:
        return self.directory / "lock"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with files.store_errors("write to", self.directory):
            files.make_directories(self.directory, self.directory.parent)
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._wait_for_lock(fd)
            yield
        finally:
            os.close(fd)

    def _wait_for_lock(self, fd: int) -> None:
        deadline = time.monotonic() + self._lock_timeout_s
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UnavailableError(
                        f"another process has been working on the index {self.directory} "
                        f"for over {self._lock_timeout_s:g} s",
                        hint="Wait for it, or end it: the lock goes with it, and the index stays whole.",
                    ) from None
                time.sleep(_LOCK_POLL_S)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                return None


def _take(rows: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    for _, row in zip(range(count), rows, strict=False):
        yield row
