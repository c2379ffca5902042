# SPDX-License-Identifier: Apache-2.0
"""What `Farm.records` gives: a list of records that can also become a pandas or an Arrow table."""

from __future__ import annotations

from typing import Any

from farm.contract.record import Record
from farm.store import BadRecord
from farm.store.arrow import arrow_table, pandas_table
from farm.store.columns import COLUMNS, row_of


class Records(list["Record | BadRecord"]):
    """Records in the order of the store. Files that cannot be read are among them, as `BadRecord`, and in no table.

    The tables have one row per record and the columns of `farm results --columns all`, units in their names.
    """

    @property
    def bad(self) -> list[BadRecord]:
        """The files that cannot be read, with the reason."""
        return [entry for entry in self if isinstance(entry, BadRecord)]

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`. Raises UnavailableError without pyarrow."""
        return arrow_table(list(COLUMNS), self._rows())

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`. Raises UnavailableError without pandas."""
        return pandas_table(list(COLUMNS), self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        return [row_of(entry) for entry in self if isinstance(entry, Record)]
