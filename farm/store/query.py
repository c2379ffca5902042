# SPDX-License-Identifier: Apache-2.0
"""Questions to the index. A person's expression is evaluated where no file, setting or extension can be reached."""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from farm.errors import UnavailableError, UsageError
from farm.store import files
from farm.store.arrow import arrow_table, pandas_table
from farm.store.columns import COLUMNS, as_cell, column_name
from farm.store.parquet import connection, file_list, quoted, rows_of, write_parquet

Cell = str | int | float | None

#: A point's later generation replaces its earlier ones, an accuracy's at whichever batch size it was taken; a job that
#: ended without any point (batch_size NULL) is replaced by any later generation of it.
_LATEST = """
QUALIFY row_number() OVER (
    PARTITION BY job_id, point, CASE WHEN point <> 'accuracy' THEN batch_size END
    ORDER BY generation DESC, attempt DESC, finished_at DESC, run_id DESC
) = 1 AND (batch_size IS NOT NULL OR point = 'accuracy' OR generation = max(generation) OVER (PARTITION BY job_id))
"""

#: What `_LATEST` looks at. Sorting whole rows of a million records would take gigabytes.
_KEYS = "run_id, job_id, point, batch_size, generation, attempt, finished_at"

#: A condition with one of these words may ask about other rows than its own, or give another answer each time.
_NOT_OF_ONE_ROW = re.compile(r"\b(select|from|random|uuid|gen_random_uuid|setseed)\b", re.IGNORECASE)

#: Set in this order: after the last, nothing can be set.
_LOCKS = (
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)

#: Rows that `stream` holds at once.
_CHUNK_ROWS = 5000

_FAULTS = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.InvalidTypeException,
    duckdb.NotImplementedException,
    duckdb.OutOfRangeException,
    duckdb.ParserException,
    duckdb.PermissionException,
    duckdb.SyntaxException,
    duckdb.TypeMismatchException,
)


@dataclass(frozen=True)
class Table:
    """A result: column names and rows. Times are text in ISO 8601, UTC."""

    columns: list[str]
    rows: list[tuple[Cell, ...]]

    def objects(self) -> list[dict[str, Cell]]:
        """One flat object per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def select(self, columns: Sequence[str] | None) -> Table:
        """These columns, in this order; all for None. Raises UsageError for one that the table does not have."""
        if columns is None:
            return self
        names = [_known(name, self.columns) for name in columns]
        places = [self.columns.index(name) for name in names]
        return Table(names, [tuple(row[place] for place in places) for row in self.rows])

    def to_json(self) -> str:
        """A JSON list of flat objects."""
        return json.dumps(self.objects(), indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """RFC 4180 with a header; what is not there is empty. Floats keep every digit."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`. Raises UnavailableError without pyarrow."""
        return arrow_table(self.columns, self.objects())

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`. Raises UnavailableError without pandas."""
        return pandas_table(self.columns, self.objects())

    def to_parquet(self, path: Path) -> None:
        """Write a Parquet file with the index's column types, whole or not at all."""
        kinds = {name: COLUMNS[name].kind for name in self.columns}
        write_parquet(self.objects(), kinds, files.export_target(path))

    def write(self, path: Path, form: str) -> None:
        """Write to a file as `csv`, `json` or `parquet`, whole or not at all.

        Raises:
            UsageError: there is no such form, or `path` is not a file.
            UnavailableError: the file cannot be written.
        """
        if form == "parquet":
            self.to_parquet(path)
        elif form in ("csv", "json"):
            target = files.export_target(path)
            with files.store_errors("write", path), files.temp_file(target.parent) as temp:
                temp.write((self.to_csv() if form == "csv" else self.to_json()).encode())
                files.seal(temp, 0o644)
                files.publish_over(Path(temp.name), target)
        else:
            raise UsageError(f"there is no form {form!r}", hint="Use csv, json or parquet.")


@dataclass(frozen=True)
class Question:
    """What `Index.query` asks, already checked where that needs no database."""

    sweep: str | None
    where: str | None
    columns: list[str]
    order: list[str]
    latest: bool


def question(
    sweep: str | None, where: str | None, columns: Sequence[str] | None, order: Sequence[str], latest: bool
) -> Question:
    """Check names of columns. Raises UsageError with the nearest name."""
    names = list(COLUMNS) if columns is None else [_known(name) for name in columns]
    if not names:
        raise UsageError("no columns are asked for", hint=_column_list())
    for text in (sweep, where):
        _check_text(text or "")
    falls = {True: "DESC NULLS LAST", False: "ASC NULLS LAST"}
    terms = [f"{_known(name.removeprefix('-'))} {falls[name.startswith('-')]}" for name in order]
    return Question(sweep, where, list(dict.fromkeys(names)), terms, latest)


def _check_text(text: str) -> None:
    """Refuse what SQL text cannot hold: an argument of the command line may have bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refusal(text, "it holds bytes that are not UTF-8", "Type it again.") from error
    if "\0" in text:
        raise _refusal(text, "it holds a NUL character", "Type it again.")


def answer(asked: Question, parts: Sequence[Path]) -> Table:
    """Ask the index's files.

    The connection can read those files and nothing else: no other file, no network, no Python variable, no setting.

    Raises:
        UsageError: the expression is at fault, with the reason.
        UnavailableError: the files are.
    """
    with connection() as database:
        _open(database, asked, parts)
        if asked.where is not None:
            _check_where(database, asked.where)
        # The line break ends a comment at the end of the expression.
        where = f"WHERE ({asked.where}\n)" if asked.where is not None else ""
        order = f"ORDER BY {', '.join(asked.order)}" if asked.order else ""
        source = _narrowed(where) if where and asked.latest and not _NOT_OF_ONE_ROW.search(where) else "records"
        sql = f"SELECT {', '.join(asked.columns)} FROM {source} {where} {order}"  # noqa: S608 - checked names
        names, rows = _run(database, sql)
    return Table(list(names), [tuple(as_cell(value) for value in row) for row in rows])


@contextlib.contextmanager
def session(parts: Sequence[Path]) -> Iterator[Any]:
    """A database that shows the index's files as the table `records`, for the farm's own queries.

    Raises:
        UnavailableError: the files cannot be read.
    """
    with connection() as database:
        try:
            source = f"SELECT * FROM read_parquet({file_list(parts)})"  # noqa: S608 - our own names
            database.execute(f"CREATE VIEW records AS {source}")
        except duckdb.Error as error:
            raise _damaged(error) from error
        yield database


def stream(database: Any, sql: str, parameters: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the farm's own query in a session, some thousands at a time.

    Raises:
        UnavailableError: the files cannot be read.
    """
    try:
        # A cursor of its own: other queries may run while its rows are taken.
        with database.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            while rows := cursor.fetchmany(_CHUNK_ROWS):
                yield from rows
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        raise _damaged(error) from error


def _open(database: Any, asked: Question, parts: Sequence[Path]) -> None:
    """Show what is asked about as the view `records`, then lock the connection."""
    sweep = f"WHERE {quoted(asked.sweep)} IN (sweep_id, sweep)" if asked.sweep is not None else ""
    newest = f"SELECT run_id FROM (SELECT {_KEYS} FROM every) {_LATEST}"  # noqa: S608 - our own
    latest = f"WHERE run_id IN ({newest})" if asked.latest else ""
    try:
        database.execute(f"SET allowed_paths = {file_list(parts)}")
        source = f"SELECT * FROM read_parquet({file_list(parts)}) {sweep}"  # noqa: S608 - quoted above
        database.execute(f"CREATE VIEW every AS {source}")
        database.execute(f"CREATE VIEW records AS SELECT * FROM every {latest}")  # noqa: S608 - our own
        for setting in _LOCKS:
            database.execute(setting)
    except duckdb.Error as error:
        raise _damaged(error) from error


def _narrowed(where: str) -> str:
    """The latest rows of those jobs alone that have any row which fits: a point's latest row is a matter of its job."""
    jobs = f"SELECT job_id FROM every AS records {where}"  # noqa: S608 - checked before
    return f"(SELECT * FROM every WHERE job_id IN ({jobs}) {_LATEST}) AS records"  # noqa: S608


def _check_where(database: Any, where: str) -> None:
    """Refuse what is not one boolean expression: it must parse alone and in parentheses, and be of that type."""
    try:
        alone = database.extract_statements(f"SELECT {where}")
    except duckdb.Error as error:
        raise _fault(where, error) from error
    if len(alone) != 1:
        raise _refusal(where, "it holds more than one statement", "Give one expression, without `;`.")
    _, rows = _run(database, f"DESCRIBE SELECT ({where}\n) AS answer FROM records", where)  # noqa: S608 - locked
    if rows[0][1] not in ("BOOLEAN", "NULL", '"NULL"'):
        hint = "Compare it with something, as in `latency_ms < 10` or `outcome = 'ok'`."
        raise _refusal(where, f"it gives {rows[0][1]}, not true or false", hint)


def _run(database: Any, sql: str, where: str = "") -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    try:
        return rows_of(database.execute(sql))
    except _FAULTS as error:
        raise _fault(where, error) from error
    except duckdb.Error as error:
        raise _damaged(error) from error


def _fault(where: str, error: Exception) -> UsageError:
    text = str(error)
    missing = re.search(r'Referenced column "([^"]*)" not found', text)
    if missing:
        return _unknown_column(missing[1])
    if isinstance(error, duckdb.PermissionException):
        return _refusal(where, "it reaches outside the index", "Use the index's columns only.")
    cause = re.sub(r"^[A-Za-z ]+ Error: ", "", text.splitlines()[0]).rstrip(". ")
    hint = f"It is an SQL expression, as in `outcome = 'ok' AND latency_ms < 10`. {_column_list()}"
    return _refusal(where, cause, hint)


def _refusal(where: str, cause: str, hint: str) -> UsageError:
    return UsageError(f"the condition {where!r} cannot be used: {cause}", hint=hint)


def _known(name: str, columns: Sequence[str] = tuple(COLUMNS)) -> str:
    """The column of that name; metrics may be named as in records."""
    column = column_name(name.strip())
    if column not in columns:
        raise _unknown_column(name, columns)
    return column


def _unknown_column(name: str, columns: Sequence[str] = tuple(COLUMNS)) -> UsageError:
    near = difflib.get_close_matches(name.lower(), columns, n=1, cutoff=0.5)
    # In SQL, "ok" in double quotes is a column and not a text.
    advice = f"Did you mean {near[0]}? " if near else f"Text goes in single quotes: '{name}'. "
    return UsageError(f"there is no column {name!r}", hint=advice + _column_list(columns))


def _column_list(columns: Sequence[str] = tuple(COLUMNS)) -> str:
    return f"Columns: {', '.join(columns)}."


def _damaged(error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the index cannot be read: {str(error).splitlines()[0]}",
        hint="Delete the store's `index` directory; it is made again from the records.",
    )
