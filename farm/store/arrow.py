# SPDX-License-Identifier: Apache-2.0
"""Rows of the index's columns as Arrow and pandas tables, for notebooks. Both libraries are optional."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from farm.errors import UnavailableError
from farm.store.columns import COLUMNS


def arrow_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Any:
    """A `pyarrow.Table` of these columns: int64, float64, text, and times with their zone (UTC). Null: not there.

    Raises:
        UnavailableError: pyarrow is not installed.
    """
    arrow = _library("pyarrow")
    kinds = {
        "VARCHAR": arrow.string(),
        "BIGINT": arrow.int64(),
        "DOUBLE": arrow.float64(),
        "TIMESTAMP": arrow.timestamp("us", tz="UTC"),
    }
    made = {}
    for name in columns:
        kind = COLUMNS[name].kind
        values = [row.get(name) for row in rows]
        found = [_moment(value) for value in values] if kind == "TIMESTAMP" else values
        made[name] = arrow.array(found, type=kinds[kind])
    return arrow.table(made)


def pandas_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Any:
    """A `pandas.DataFrame` of these columns. Whole numbers stay whole where some are missing (`Int64`).

    Raises:
        UnavailableError: pandas or pyarrow is not installed.
    """
    pandas = _library("pandas")
    table = arrow_table(columns, rows)
    whole = {_library("pyarrow").int64(): pandas.Int64Dtype()}
    return table.to_pandas(types_mapper=whole.get)


def _moment(value: Any) -> datetime | None:
    """Times come as text, with UTC's offset or without any."""
    if value is None:
        return None
    found = datetime.fromisoformat(str(value))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = 'Install the extra `notebook`: pip install "inferfarm[notebook]".'
        raise UnavailableError(f"{name} is not installed here: {error}", hint=hint) from error
