# SPDX-License-Identifier: Apache-2.0
"""What people call a series: its model, workflow, precision and batch, and the switches that are set."""

from __future__ import annotations

from collections.abc import Iterable

from farm.history.model import Event
from farm.store import Store

_FIELDS = ("model", "workflow", "precision", "options", "calibration", "batch_size", "scenario", "point")
_NEWEST = ", ".join(f"arg_max({name}, started_at)" for name in _FIELDS)
_SQL = f"""SELECT series_id, {_NEWEST} FROM records WHERE series_id IN (SELECT unnest($wanted::VARCHAR[]))
    GROUP BY series_id"""  # noqa: S608 - our own columns


def series_names(store: Store, events: Iterable[Event]) -> dict[str, str]:
    """The names of all series that events speak of, by series key; what the index does not know is left out.

    Raises:
        UnavailableError: the index cannot be read.
    """
    keys = {key for event in events for key in event.keys}
    wanted = sorted({key.partition(":")[0] for key in keys})
    if not wanted:
        return {}
    known = {str(row[0]): series_name(*row[1:]) for row in store.index.stream(_SQL, {"wanted": wanted})}
    return {key: known[name] for key in keys if (name := key.partition(":")[0]) in known}


def series_name(
    model: str, workflow: str, precision: str, options: str | None, calibration: str | None, batch: int | None,
    scenario: str | None, point: str | None,
) -> str:  # fmt: skip
    """`resnet18 onnxruntime_cpu int8 batch 1`, with switches in brackets where any is set."""
    set_apart = [scenario or "", options or "", calibration or ""]
    said = ", ".join(word for word in set_apart if word and word != "single")
    at = "accuracy" if point == "accuracy" else f"batch {batch}" if batch is not None else "whole job"
    return f"{model} {workflow} {precision} {at}" + (f" ({said})" if said else "")
