# SPDX-License-Identifier: Apache-2.0
"""The index: records as flat rows in Parquet files, for DuckDB. Disposable: everything in it comes from the records.

`current.json` names the files in force and the state of each day that they hold whole: its day's file by size and
time, and a digest of the names beside it. A refresh looks into the days whose state is another one, writes the rows of
new records to one more file, and replaces `current.json` at once, so a reader sees the index before or after, never
between. Refreshers take turns by a kernel lock, which dies with its holder; without it (file systems that lack it) the
last to finish wins, and what it did not see is added by the next refresh. New records are found by name, not by time: a
worker that was cut off for days sends records of those days.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from farm.errors import UnavailableError
from farm.store import files
from farm.store.columns import COLUMNS_DIGEST
from farm.store.index_writer import BATCH_ROWS, Writer, merged
from farm.store.parquet import connection, file_list, is_whole
from farm.store.query import Question, Table, answer, question, session, stream
from farm.store.records import BadRecord, Day, RecordStore
from farm.store.schema import RecordError, decode_json, encode_json

#: More files than this are merged into one. Each refresh that finds something adds one.
MAX_PARTS = 32

LOCK_TIMEOUT_S = 120.0
_LOCK_POLL_S = 0.05
_PART = re.compile(r"part-[0-9a-f]{24}\.parquet")


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
        """Add the records that came since the last refresh, drop those that are gone; return how many were added.

        Only days that changed since are looked into. An index with other columns, or with a damaged file, is made anew.

        Raises:
            UnavailableError: the directory cannot be written, or another process holds the lock for too long.
        """
        with self._locked():
            parts, days = self._in_force()
            if not _readable(parts):
                return self._write([], {}, list(self._records.days()))
            now = list(self._records.days())
            states = {day.name: _state(day) for day in now}
            changed = [day for day in now if days.get(day.name) != states[day.name]]
            names = {day.name for day in changed} | (days.keys() - states.keys())
            if not names:
                self.problems = []
                return 0
            try:
                known = self._known(parts, names)
            except duckdb.Error:
                return self._write([], {}, now)
            return self._write(parts, known, changed, {name: days[name] for name in days.keys() - names})

    def rebuild(self) -> int:
        """Make the index anew; return how many records it has."""
        with self._locked():
            return self._write([], {}, list(self._records.days()))

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
        parts, _ = self._in_force()
        if not parts or not all(part.is_file() for part in parts):
            self.refresh()
            parts, _ = self._in_force()
        return parts

    @property
    def in_force(self) -> list[Path]:
        """The files of the index as it is now; none where there is no index, or one with other columns."""
        return self._in_force()[0]

    def _write(
        self, old: list[Path], known: dict[str, set[str]], days: list[Day], quiet: Mapping[str, str] | None = None
    ) -> int:
        """Bring the index to what `days` hold, and put it in force; return how many rows were added.

        Args:
            old: the files that stay in use, but for rows of records that are gone.
            known: by day, the runs of these days, and of days that are gone, that `old` has.
            quiet: the days that did not change, with their states.
        """
        self.problems = []
        before, held = self._in_force()
        writer = Writer(self.directory, self._records, self.problems)
        states = dict(quiet or {})
        gone = {day: set(runs) for day, runs in known.items()}
        for day in days:
            there, whole = writer.add(day, known.get(day.name, set()))
            gone[day.name] = gone.get(day.name, set()) - there
            if whole:
                states[day.name] = _state(day)
        added = writer.finish(old, gone, states)
        parts = writer.parts
        if len(parts) > MAX_PARTS:
            # The smallest: a large one is rewritten seldom, however many refreshes there are.
            small = sorted(parts, key=lambda part: part.stat().st_size)[: len(parts) - MAX_PARTS // 2]
            parts = [*(part for part in parts if part not in small), merged(self.directory, small)]
        if (parts, states) != (before, held):
            self._put_in_force(parts, states, retired=set(before) - set(parts))
        return added

    def _put_in_force(self, parts: list[Path], states: Mapping[str, str], retired: set[Path]) -> None:
        document = {"columns": COLUMNS_DIGEST, "parts": [part.name for part in parts], "days": dict(states)}
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

    def _known(self, parts: list[Path], days: Collection[str]) -> dict[str, set[str]]:
        """The runs of these days that the files have."""
        known: dict[str, set[str]] = {}
        with connection() as database:
            sql = f"""SELECT record_day, run_id FROM read_parquet({file_list(parts)})
                      WHERE record_day IN (SELECT unnest(?::VARCHAR[]))"""  # noqa: S608 - our own names
            result = database.execute(sql, [sorted(days)])
            while rows := result.fetchmany(BATCH_ROWS):
                for day, run_id in rows:
                    known.setdefault(day, set()).add(run_id)
        return known

    def _in_force(self) -> tuple[list[Path], dict[str, str]]:
        """The files in force, and the state of each day that they have whole; none if they have other columns."""
        try:
            document = decode_json(self._current.read_bytes())
        except (FileNotFoundError, RecordError):
            return [], {}
        names, days = document.get("parts"), document.get("days")
        if document.get("columns") != COLUMNS_DIGEST or not isinstance(names, list) or not isinstance(days, dict):
            return [], {}
        if not all(isinstance(name, str) and _PART.fullmatch(name) for name in names):
            return [], {}
        return [self.directory / name for name in names], {str(day): str(state) for day, state in days.items()}

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


def _readable(parts: list[Path]) -> bool:
    """Whether there are files, and each is whole to its end, where a Parquet file has its table of contents."""
    return bool(parts) and all(is_whole(part) for part in parts)


def _state(day: Day) -> str:
    """Changes when a record comes to a day or leaves it, and when the day is compacted."""
    file = day.file.stat() if day.file else None
    names = hashlib.sha256("\0".join(day.names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{file.st_size}-{file.st_mtime_ns} {names}" if file else names
