# SPDX-License-Identifier: Apache-2.0
"""Rows into Parquet files with DuckDB alone: rows go through newline-delimited JSON, which it reads fast and typed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from farm.errors import UnavailableError
from farm.store import files


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def file_list(paths: Iterable[Path]) -> str:
    """Paths as an SQL list of strings."""
    return "[" + ", ".join(quoted(str(path)) for path in paths) + "]"


def is_whole(path: Path) -> bool:
    """Whether a file begins and ends as a Parquet file does, and has room for its table of contents.

    Source: Apache Parquet's file format: `PAR1`, columns, contents, their length in 4 bytes, `PAR1`.
    """
    try:
        with path.open("rb") as stream:
            head, size = stream.read(4), stream.seek(0, os.SEEK_END)
            stream.seek(max(size - 8, 0))
            tail = stream.read(8)
    except OSError:
        return False
    return head == tail[4:] == b"PAR1" and 12 + int.from_bytes(tail[:4], "little") <= size


@contextlib.contextmanager
def connection() -> Iterator[Any]:
    """A DuckDB in memory with one thread: the host may be measuring. It writes no temporary files of its own."""
    # Loading an extension would need a network, and what is used here is built in.
    settings = {"threads": 1, "temp_directory": "", "autoinstall_known_extensions": False}
    database = duckdb.connect(":memory:", config=settings)
    # It would go to where a command prints its table.
    database.execute("SET enable_progress_bar = false")
    try:
        yield database
    finally:
        database.close()


#: The largest row as JSON: a record of 8 MiB, escaped once more.
_MAX_ROW_BYTES = 20 << 20


def write_parquet(
    rows: Iterable[Mapping[str, Any]], kinds: Mapping[str, str], path: Path, row_group: int | None = None
) -> int:
    """Write `rows` (JSON values by column; what is missing is NULL) to `path`, whole or not at all.

    Args:
        kinds: DuckDB's type of each column, in order.
        row_group: how many rows a group has, DuckDB's own number by default: what it holds in memory at once.

    Returns:
        How many rows were written.
    """
    with files.store_errors("write to", path.parent), files.temp_file(path.parent) as stream:
        count = 0
        for row in rows:
            stream.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            count += 1
        stream.flush()
        columns = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in kinds.items())
        options = f"format = 'newline_delimited', compression = 'uncompressed', columns = {{{columns}}}"
        if row_group is not None:
            options += f", maximum_object_size = {_MAX_ROW_BYTES}"
        copy_parquet(f"SELECT * FROM read_json({quoted(stream.name)}, {options})", path, row_group)  # noqa: S608
    return count


def copy_parquet(query: str, path: Path, row_group: int | None = None) -> None:
    """Write a query's result to `path`, whole or not at all. The query is ours, never a person's."""
    with files.store_errors("write to", path.parent), files.temp_file(path.parent) as stream:
        target = Path(stream.name)
        with connection() as database:
            try:
                options = "FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false"
                options += f", ROW_GROUP_SIZE {row_group}" if row_group else ""
                database.execute(f"COPY ({query}) TO {quoted(str(target))} ({options})")
            except duckdb.IOException as error:
                hint = "Check the space and the permissions there. Nothing half-written was kept."
                raise UnavailableError(f"cannot write {path}: {_first_line(error)}", hint=hint) from error
        _flush(target)
        files.publish_over(target, path)


def rows_of(result: Any) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """Column names and rows of a DuckDB result."""
    return [column[0] for column in result.description], result.fetchall()


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
