# SPDX-License-Identifier: Apache-2.0
"""Rows of the index into its Parquet files: from records in files of their own, and from compacted days.

A compacted day's rows are copied, since its file has the index's columns beside each record. Metrics that came to the
farm since it was written are taken from the records' JSON in the same query; only where columns are missing that are no
metrics, or mean something else now, the records themselves are decoded.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from farm.contract.metrics import METRICS
from farm.contract.record import Record
from farm.errors import IntegrityError
from farm.store import daily
from farm.store.columns import COLUMNS, MEANING, column_name, row_of
from farm.store.parquet import connection, copy_parquet, file_list, quoted, write_parquet
from farm.store.records import BadRecord, Day, RecordStore, load_record, load_row

#: Rows per file while many records are read: bounds the temporary JSON to tens of megabytes.
BATCH_ROWS = 5_000
#: Rows that are held with all their columns while files are copied.
_ROW_GROUP = 20_480
#: Days whose files one query copies.
_BATCH_DAYS = 200

#: Beside a person's columns: the day's directory that the record is in.
KINDS = {**{column.name: column.kind for column in COLUMNS.values()}, "record_day": "VARCHAR"}
_METRICS = {column_name(name): name for name in METRICS}


def new_part(directory: Path) -> Path:
    """A name for one more file of the index."""
    return directory / f"part-{secrets.token_hex(12)}.parquet"


def merged(directory: Path, parts: list[Path]) -> Path:
    """One file with the rows of all."""
    part = new_part(directory)
    copy_parquet(f"SELECT * FROM read_parquet({file_list(parts)})", part, _ROW_GROUP)  # noqa: S608 - our own names
    return part


@dataclass(frozen=True)
class _Copy:
    """A day's file whose rows are to be copied, but those of `known` runs."""

    day: str
    file: Path
    known: set[str]


class Writer:
    """One writing of the index. `add` each day, then `finish`; `problems` gets the records that cannot be used."""

    def __init__(self, directory: Path, records: RecordStore, problems: list[BadRecord]) -> None:
        self.parts: list[Path] = []
        self._directory = directory
        self._records = records
        self._problems = problems
        self._rows: list[dict[str, Any]] = []
        self._whole: list[_Copy] = []
        self._broken: set[str] = set()
        self._added = 0

    def add(self, day: Day, known: set[str]) -> tuple[set[str], bool]:
        """Add the rows of a day but those of `known` runs.

        Returns:
            The runs that the day has, and whether all of it could be read.
        """
        before = len(self._problems)
        there = self._add_file(day, known)
        for name in day.names:
            run_id = name.removesuffix(".json")
            if run_id not in there:
                there.add(run_id)
                if run_id not in known:
                    self._add_record(day, day.path / name)
        return there, len(self._problems) == before

    def finish(self, old: list[Path], gone: Mapping[str, set[str]], states: dict[str, str]) -> int:
        """Write what is left; `parts` are then `old`, less the rows of `gone`, and the new ones. Return how many rows.

        A second record of one run is left out. Its day, and one whose file is damaged, are taken from `states`, so that
        they are looked into again.
        """
        self._copy_whole()
        for day in self._broken:
            states.pop(day, None)
        # An index of no records has one file of no rows, so that there is always something to ask.
        if self._rows or not (old or self.parts):
            self._flush()
        new, self.parts = self.parts, self._without(old, gone)
        self.parts += self._first_only(self.parts, new, states)
        return self._added

    def _add_record(self, day: Day, path: Path) -> None:
        found = load_record(path)
        if isinstance(found, BadRecord) and not path.exists():
            found = self._records.loaded_elsewhere(path, FileNotFoundError(2, "No such file or directory"))
        self._take(day.name, found)

    def _take(self, day: str, found: Record | BadRecord) -> None:
        if isinstance(found, BadRecord):
            self._problems.append(found)
            return
        self._rows.append({**row_of(found), "record_day": day})
        if len(self._rows) >= BATCH_ROWS:
            self._flush()

    def _add_file(self, day: Day, known: set[str]) -> set[str]:
        """Put a day's file off to be copied. The runs in it are only told where they matter."""
        if day.file is None:
            return set()
        there: set[str] = set()
        if known or day.names:
            try:
                there = set(daily.digests(day.file))
            except IntegrityError as error:
                self._break(day.name, day.file, error.message)
                return there
        if not there or there - known:
            self._whole.append(_Copy(day.name, day.file, known & there))
        if len(self._whole) >= _BATCH_DAYS:
            self._copy_whole()
        return there

    def _copy_whole(self) -> None:
        """Copy the rows of the days' files that were put off; where one is damaged, of each other one by itself."""
        due, self._whole = self._whole, []
        try:
            self._copy(due)
        except duckdb.Error as error:
            if len(due) == 1:
                self._break(due[0].day, due[0].file, str(error).splitlines()[0])
                return
            for each in due:
                self._whole = [each]
                self._copy_whole()

    def _copy(self, due: list[_Copy]) -> None:
        """One query for all files that have the same columns. Raises duckdb.Error before anything of them is kept."""
        by_columns: dict[str, list[_Copy]] = {}
        for each, columns in zip(due, _columns_of([each.file for each in due]), strict=True):
            by_columns.setdefault(columns, []).append(each)
        made = []
        for columns, of in by_columns.items():
            if columns:
                known = ", ".join(quoted(run_id) for each in of for run_id in sorted(each.known))
                where = f"WHERE run_id NOT IN ({known})" if known else ""
                source = f"read_parquet({file_list(each.file for each in of)})"
                made.append(new_part(self._directory))
                copy_parquet(f"SELECT {columns} FROM {source} {where}", made[-1], _ROW_GROUP)  # noqa: S608 - our own names, quoted
        for part in made:
            self._keep(part)
        for each in by_columns.get("", []):
            self._decode(each)

    def _decode(self, each: _Copy) -> None:
        try:
            for row in daily.rows(each.file):
                if row.run_id not in each.known:
                    self._take(each.day, load_row(each.file, row))
        except IntegrityError as error:
            self._break(each.day, each.file, error.message)

    def _break(self, day: str, file: Path, message: str) -> None:
        self._problems.append(BadRecord(file, message))
        self._broken.add(day)

    def _flush(self) -> None:
        part = new_part(self._directory)
        write_parquet(self._rows, KINDS, part)
        self._rows = []
        self._keep(part)

    def _keep(self, part: Path) -> None:
        self._added += _count(part)
        self.parts.append(part)

    def _without(self, old: list[Path], gone: Mapping[str, set[str]]) -> list[Path]:
        """The files, those with rows of records that are gone written anew without them."""
        pairs = [f"({quoted(day)}, {quoted(run_id)})" for day, runs in gone.items() for run_id in sorted(runs)]
        if not pairs:
            return list(old)
        those = f"(record_day, run_id) IN ({', '.join(pairs)})"
        return [self._narrowed(part, those) for part in old]

    def _first_only(self, old: list[Path], new: list[Path], states: dict[str, str]) -> list[Path]:
        """The new files without rows of runs that an earlier day, or an earlier refresh, has a row of."""
        if not new:
            return []
        every, these = file_list([*old, *new]), file_list(new)
        of_new = f"WHERE run_id IN (SELECT run_id FROM read_parquet({these}))" if old else ""  # noqa: S608
        # By hash first: to count a million names themselves takes hundreds of megabytes.
        hashes = f"""SELECT hash(run_id) AS found FROM read_parquet({every}) {of_new}
                     GROUP BY found HAVING count(*) > 1"""  # noqa: S608 - our own names
        twice = f"""SELECT run_id, min(record_day), list(DISTINCT record_day) FROM read_parquet({every})
                    WHERE hash(run_id) IN ({hashes})
                    GROUP BY run_id HAVING count(DISTINCT record_day) > 1"""  # noqa: S608 - our own names
        with connection() as database:
            found = database.execute(twice).fetchall()
        pairs = []
        for run_id, first, days in found:
            for day in set(days) - {first}:
                pairs.append(f"({quoted(day)}, {quoted(run_id)})")
                states.pop(day, None)
        if not pairs:
            return new
        those = f"(record_day, run_id) IN ({', '.join(pairs)})"
        self.parts = [self._narrowed(part, those) for part in self.parts]
        return [self._narrowed(part, those) for part in new]

    def _narrowed(self, part: Path, those: str) -> Path:
        """The file itself, where it has none of `those` rows, or one without them."""
        left_out = _count(part, those)
        if not left_out:
            return part
        fresh = new_part(self._directory)
        copy_parquet(f"SELECT * FROM read_parquet({file_list([part])}) WHERE NOT ({those})", fresh)  # noqa: S608
        return fresh


def _count(part: Path, where: str = "true") -> int:
    with connection() as database:
        sql = f"SELECT count(*) FROM read_parquet({file_list([part])}) WHERE {where}"  # noqa: S608 - our own names
        return int(database.execute(sql).fetchone()[0])


def _columns_of(paths: list[Path]) -> list[str]:
    """How to read the index's columns from each of these days' files, in SQL; '' where its records must be decoded."""
    names: dict[str, set[str]] = {}
    meanings: dict[str, set[int]] = {}
    source = file_list(paths)
    with connection() as database:
        for file, name in database.execute(f"SELECT file_name, name FROM parquet_schema({source})").fetchall():  # noqa: S608
            names.setdefault(file, set()).add(name)
        sql = f"""SELECT DISTINCT filename, record_columns
                  FROM read_parquet({source}, filename = true, union_by_name = true)"""  # noqa: S608 - our own names
        for file, meaning in database.execute(sql).fetchall():
            meanings.setdefault(file, set()).add(meaning)
    return [_selection(names.get(str(path), set())) if meanings.get(str(path)) == {MEANING} else "" for path in paths]


def _selection(there: set[str]) -> str:
    found = []
    for name in KINDS:
        if name in there:
            found.append(name)
        elif name in _METRICS:
            key = quoted(f'$.metrics."{_METRICS[name]}"')
            found.append(f"TRY_CAST(json_extract(record_json, {key}) AS DOUBLE) AS {name}")
        else:
            return ""
    return ", ".join(found)
