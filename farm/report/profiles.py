# SPDX-License-Identifier: Apache-2.0
"""Profiled runs in a report: what each profile came to, how to open it, and timelines as still pictures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from farm.contract.canonical import short_digest
from farm.contract.layers import LAYERS_ARTIFACT, PICTURE_ARTIFACT, PROFILES, TENSORRT, TIMELINE_ARTIFACT
from farm.contract.record import Record
from farm.errors import FarmError
from farm.explain.timeline import PICTURE_SCHEMA
from farm.report import text
from farm.report.document import Section
from farm.report.figures import Figure, Panel
from farm.report.select import Point, Selection
from farm.report.table import Cell, Column, Group, Row, Table, absent, at, run_anchor
from farm.report.timeline_drawing import inference_svg, stages_svg
from farm.store import Store

#: Pictures of so many runs: each is some 20 kB.
MOST_PICTURES = 8

_KINDS = {"layers": LAYERS_ARTIFACT, "timeline": TIMELINE_ARTIFACT}


#: Gives a picture of a record's timeline (`farm.explain.timeline.picture`), or None where it has none or none readable.
Pictures = Callable[[Record], "Mapping[str, Any] | None"]


def no_picture(_record: Record) -> None:
    """Where there is no store to read pictures from."""


def pictures_in(store: Store) -> Pictures:
    """Pictures from a store's files. One that is gone, damaged or newer is not drawn: the record leads to the trace."""

    def read(record: Record) -> Mapping[str, Any] | None:
        ref = next((ref for ref in record.artifacts if ref.kind == PICTURE_ARTIFACT), None)
        try:
            found = json.loads(store.blobs.read(ref.sha256)) if ref is not None else None
        except (FarmError, OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("schema") == PICTURE_SCHEMA else None

    return read


def profiles_section(selection: Selection, pictures: Pictures = no_picture) -> Section | None:
    """All profiles of the selection; None where no run has one."""
    points = [point for point in selection.points if _profiles(point.record)]
    if not points:
        return None
    rows = [row for point in points for row in _rows(point)]
    columns = (
        Column("Outcome", numeric=False),
        Column("Rows together", "ms"),
        Column("Over the median"),
        Column("In TensorRT", "%"),
        Column("Artifact", numeric=False, mono=True),
    )
    caption = (
        "Runs under a profiler, each after its point was measured. Over the median: the sum of all rows over the"
        " unprofiled median; `farm explain` says why where it is not near 1. Artifacts: `farm artifacts get SHA256"
        " -o FILE`; a timeline opens in ui.perfetto.dev."
    )
    table = Table("profiles-table", "Profiles", caption, "Run", columns, (Group("", tuple(rows)),), "")
    drawn = (figure for point in points for figure in _figures(point, pictures))
    figures = list(itertools.islice(drawn, MOST_PICTURES))
    return Section("profiles", "Where the time goes", "", (table,), (), tuple(figures))


def _profiles(record: Record) -> Mapping[str, Any]:
    found = record.provenance.get("profiles")
    return found if isinstance(found, dict) else {}


def _name(point: Point) -> str:
    return f"{point.series.model} {point.series.label}, {at(point)}"


def _rows(point: Point) -> Iterator[Row]:
    for kind in PROFILES:
        told = _profiles(point.record).get(kind)
        if told:
            yield Row(f"{_name(point)}: {kind}", tuple(_cells(point.record, kind, told)))


def _cells(record: Record, kind: str, told: Mapping[str, Any]) -> Iterator[Cell]:
    failure = told.get("failure") or {}
    yield Cell(str(told.get("outcome", "")), note=str(failure.get("message", "")), anchor=run_anchor(record))
    sum_ms = told["sum_ns"] / 1e6 if "sum_ns" in told else None
    median_ms = record.metrics.get("latency_ms")
    yield _number(sum_ms, "a timeline has no rows")
    yield _number(sum_ms / median_ms if sum_ms is not None and median_ms else None, "a timeline has no rows")
    share = told.get("share_by_place", {}).get(TENSORRT)
    yield _number(None if share is None else 100 * share, "no row is TensorRT's")
    kept = next((ref.sha256 for ref in record.artifacts if ref.kind == _KINDS[kind]), None)
    yield absent("nothing was kept") if kept is None else Cell(kept)


def _number(value: float | None, reason: str) -> Cell:
    return absent(reason) if value is None else Cell(text.number(value))


def _figures(point: Point, pictures: Pictures) -> Iterator[Figure]:
    told = _profiles(point.record).get("timeline")
    if not told:
        return
    name = _name(point)
    # Records from before there was a file for it hold the picture themselves.
    shown = told if "stages" in told else pictures(point.record) or {}
    drawn = ((f"{name}: the run", stages_svg(shown)), (f"{name}: its last inference", inference_svg(shown)))
    panels = tuple(Panel(title, title, {}, None, svg) for title, svg in drawn if svg)
    offset = told.get("offset") or {}
    caption = "The run under the profiler, with what was sampled meanwhile; and its last inference, on host and device."
    if offset:
        caption += f" The profiler's clock is known to {offset['uncertainty_ns'] / 1e3:.3g} us."
    if panels:
        key = f"timeline-{short_digest(point.record.run_id, 8)}"
        yield Figure(key, f"Timeline of {name}", caption, panels, {}, wide=True)
