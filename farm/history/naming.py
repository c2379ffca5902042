# SPDX-License-Identifier: Apache-2.0
"""What series and events are called, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from farm.history import coverage, device_events
from farm.history.load import FIELDS
from farm.history.model import Event
from farm.history.tracked import TRACKED, told
from farm.store import Store


def case_name(fields: Mapping[str, str]) -> str:
    """`resnet18/onnx_tensorrt/fp16 b8`, and what else tells one series from others of a device."""
    name = "/".join(filter(None, (fields.get("model"), fields.get("workflow"), fields.get("precision"))))
    batch = f"b{fields['batch']}" if fields.get("batch") else ""
    scenario = fields.get("scenario", "")
    rest = (
        fields.get("options", ""),
        fields.get("calibration", ""),
        scenario if scenario != "single" else "",
        "accuracy" if fields.get("point") == "accuracy" else "",
    )
    return " ".join(filter(None, (name, batch, *rest)))


def names_of(store: Store, events: Iterable[Event]) -> dict[str, str]:
    """The name of every series that the events are of, by its key. The index must be fresh.

    Raises:
        UnavailableError: the index cannot be read.
    """
    keys = {key for event in events for key in event.keys}
    newest = ", ".join(f"arg_max({column}, started_at)" for column in FIELDS.values())
    sql = f"""SELECT series_id, {newest} FROM records
        WHERE series_id IN (SELECT unnest($ids::VARCHAR[])) GROUP BY series_id"""  # noqa: S608 - our own columns
    ids = sorted({key.partition(":")[0] for key in keys})
    if not ids:
        return {}
    called = {}
    for series_id, *values in store.index.stream(sql, {"ids": ids}):
        fields = {name: "" if value is None else str(value) for name, value in zip(FIELDS, values, strict=True)}
        called[str(series_id)] = case_name(fields)
    return {key: called[key.partition(":")[0]] for key in keys if key.partition(":")[0] in called}


def changed(event: Event) -> str:
    """By how much, in words: `+12.0 % worse`, `-15.1 % better`, `ok -> failed`."""
    if event.metric not in TRACKED:
        return event.cause[0] if event.kind == coverage.KIND and event.cause else f"{100 * event.change:+.1f} %"
    return f"{told(event.metric, event.change)} {'worse' if event.worse else 'better'}"


def subject(event: Event, names: Mapping[str, str]) -> str:
    """What an event is about: a case, or a whole device."""
    if event.kind == device_events.KIND:
        return f"the whole device ({len(event.keys)} series)" if event.keys else "the whole device"
    if coverage.of_device(event):
        return "the whole device"
    found = [names.get(key, key) for key in event.keys]
    return found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "") if found else event.device
