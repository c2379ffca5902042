# SPDX-License-Identifier: Apache-2.0
"""A day's records in one Parquet file, `yyyy/mm/dd/records.parquet`: each record's own JSON, byte for byte, with its
SHA-256, and beside it the index's columns as they were when the file was written. Rows are in the order of run ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from farm.contract.record import Record
from farm.errors import IntegrityError
from farm.store.columns import COLUMNS, MEANING, row_of
from farm.store.parquet import connection, file_list, write_parquet

NAME = "records.parquet"

#: Beside the index's columns: the day's directory, what those columns mean, and the record itself.
OWN = {
    "record_day": "VARCHAR",
    "record_columns": "BIGINT",
    "record_sha256": "VARCHAR",
    "record_json": "VARCHAR",
}
_KINDS = {**{column.name: column.kind for column in COLUMNS.values()}, **OWN}

#: Few, so that one record is read, and a day written, without holding a day in memory. The least that DuckDB takes.
_ROW_GROUP = 2048
#: Rows with their JSON that are held at once while a file is read.
_CHUNK_ROWS = 256


@dataclass(frozen=True)
class Row:
    """A record's bytes, as its own file had them, and their SHA-256 as it was written."""

    run_id: str
    sha256: str
    data: bytes

    @property
    def sound(self) -> bool:
        """Whether the bytes are those that were written."""
        return hashlib.sha256(self.data).hexdigest() == self.sha256


def digests(path: Path) -> dict[str, str]:
    """The SHA-256 of each record by run id; {} where there is no such file.

    Raises:
        IntegrityError: the file is damaged.
    """
    if not path.is_file():
        return {}
    return dict(_select(path, "run_id, record_sha256"))


def rows(path: Path, *, run_ids: Collection[str] | None = None, sweep_id: str | None = None) -> Iterator[Row]:
    """The rows in the order of run ids: all, or those of these runs or of this sweep.

    Raises:
        IntegrityError: the file is damaged.
    """
    conditions: list[str] = ["true"]
    values: list[Any] = []
    if run_ids is not None:
        conditions.append("run_id IN (SELECT unnest(?::VARCHAR[]))")
        values.append(sorted(run_ids))
        if len(run_ids) == 1:
            # Row groups are left out by their smallest and largest value, which needs a plain comparison.
            conditions, values = ["run_id = ?"], list(run_ids)
    if sweep_id is not None:
        conditions.append("sweep_id = ?")
        values.append(sweep_id)
    for run_id, sha256, text in _select(path, "run_id, record_sha256, record_json", " AND ".join(conditions), values):
        yield Row(run_id, sha256, (text or "").encode())


def write(path: Path, day: str, records: Iterable[tuple[Record, bytes]]) -> int:
    """Write a day's file, whole or not at all, of records with their bytes in the order of run ids; return how many."""
    own = {"record_day": day, "record_columns": MEANING}
    made = (
        {**row_of(record), **own, "record_sha256": hashlib.sha256(data).hexdigest(), "record_json": data.decode()}
        for record, data in records
    )
    return write_parquet(made, _KINDS, path, row_group=_ROW_GROUP)


def _select(path: Path, columns: str, where: str = "true", values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
    sql = f"SELECT {columns} FROM read_parquet({file_list([path])}) WHERE {where}"  # noqa: S608 - our own names
    try:
        with connection() as database:
            result = database.execute(sql, list(values))
            while found := result.fetchmany(_CHUNK_ROWS):
                yield from found
    except duckdb.Error as error:
        raise IntegrityError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            hint="Restore the file from a backup: it holds a day's records.",
        ) from error
