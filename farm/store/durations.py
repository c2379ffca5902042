# SPDX-License-Identifier: Apache-2.0
"""How long measured points took, from the index in one question: what predictions are learned from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from farm.errors import UnavailableError
from farm.store.parquet import connection, file_list, quoted

#: Runs of a point that are looked at: the latest, since software changes and engines get cached.
LATEST = 25

_CASE = "model, workflow, precision, options, calibration, device_class, protocol_id, batch_size"


@dataclass(frozen=True)
class Took:
    """How long a point of a case took on a class of devices: medians over its latest runs that were ok.

    `seconds` is the wall clock of all its processes, `latency_ms` that of one call, `prepare_s` of its preparation.
    '' stands for no options and no calibration.
    """

    model: str
    workflow: str
    precision: str
    options: str
    calibration: str
    device_class: str
    protocol_id: str
    batch_size: int
    seconds: float
    latency_ms: float | None
    prepare_s: float | None
    runs: int


def durations(parts: Sequence[Path], workflows: Iterable[str]) -> list[Took]:
    """What the index's files know of these workflows.

    Raises:
        UnavailableError: a file is damaged or gone.
    """
    names = ", ".join(quoted(name) for name in sorted(set(workflows)))
    if not parts or not names:
        return []
    sql = f"""
        SELECT model, workflow, precision, coalesce(options, ''), coalesce(calibration, ''), device_class, protocol_id,
               batch_size, median(seconds), median(latency_ms), median(prepare_s), count(*)
        FROM (SELECT *, epoch(finished_at - started_at) AS seconds FROM read_parquet({file_list(parts)})
              WHERE outcome = 'ok' AND point = 'latency' AND workflow IN ({names})
                AND device_class IS NOT NULL AND batch_size IS NOT NULL AND finished_at > started_at
              QUALIFY row_number() OVER (PARTITION BY {_CASE} ORDER BY finished_at DESC, run_id) <= {LATEST})
        GROUP BY {_CASE} ORDER BY ALL
    """  # noqa: S608 - our own names, quoted
    try:
        with connection() as database:
            return [Took(*row) for row in database.execute(sql).fetchall()]
    except duckdb.Error as error:
        raise UnavailableError(
            f"the index cannot be read: {str(error).splitlines()[0]}",
            hint="Delete the store's `index` directory; it is made again from the records.",
        ) from error
