# SPDX-License-Identifier: Apache-2.0
"""Timelines in a report: drawn from the file beside the trace, or from a record of before there was one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from farm.contract.layers import PICTURE_ARTIFACT
from farm.contract.record import BlobRef, Record
from farm.explain.timeline import PICTURE_SCHEMA
from farm.report.figures import Figure
from farm.report.profiles import MOST_PICTURES, Pictures, no_picture, pictures_in, profiles_section
from farm.report.select import select
from farm.store import Store
from tests.report import demo

PICTURE: dict[str, Any] = {
    "schema": PICTURE_SCHEMA,
    "stages": [["start", 0.0, 900.0], ["profile", 900.0, 600.0]],
    "inference_us": 120.0,
    "host": [["infer", 0.0, 100.0], ["wait", 100.0, 20.0], ["aten::conv2d", 10.0, 60.0]],
    "device": [],
    "counters": {},
}
KEPT: dict[str, Any] = {"outcome": "ok", "source": None, "offset": None, "events": 1, "device_events": 0}


def profiled(told: dict[str, Any], batch: int = 1, **more: Any) -> Record:
    provenance = {"profiles": {"timeline": told}}
    return demo.ok(demo.job(), batch, provenance=provenance, **more)


def figures(records: list[Record], pictures: Pictures = no_picture) -> tuple[Figure, ...]:
    section = profiles_section(select(records), pictures)
    assert section is not None
    return section.figures


def test_the_picture_is_drawn_from_the_file_beside_the_trace() -> None:
    (figure,) = figures([profiled(KEPT)], lambda _record: PICTURE)
    assert figure.wide and len(figure.panels) == 2
    drawn = "".join(panel.svg for panel in figure.panels)
    assert "conv2d" in drawn and "profile" in drawn
    for panel in figure.panels:
        ElementTree.fromstring(panel.svg)


def test_a_record_that_holds_its_picture_itself_is_drawn_as_before() -> None:
    before = {name: value for name, value in PICTURE.items() if name != "schema"}
    (figure,) = figures([profiled(KEPT | before)])
    assert [panel.svg for panel in figure.panels] == [
        panel.svg for panel in figures([profiled(KEPT)], lambda _record: PICTURE)[0].panels
    ]


def test_no_more_pictures_are_read_than_are_drawn() -> None:
    read: list[str] = []

    def pictures(record: Record) -> dict[str, Any]:
        read.append(record.run_id)
        return PICTURE

    jobs = [demo.job(model) for model in demo.BASE_MS]
    provenance = {"profiles": {"timeline": KEPT}}
    records = [demo.ok(of, batch, provenance=provenance) for of in jobs for batch in demo.SIZES]
    assert len(records) > MOST_PICTURES
    assert len(figures(records, pictures)) == len(read) == MOST_PICTURES


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (json.dumps(PICTURE), PICTURE),
        (json.dumps(PICTURE | {"schema": PICTURE_SCHEMA + 1}), None),
        ("[1]", None),
        ("{", None),
        (None, None),
    ],
    ids=["whole", "newer", "something else", "cut", "gone"],
)
def test_a_picture_that_cannot_be_used_is_not_drawn(
    tmp_path: Path, content: str | None, found: dict[str, Any] | None
) -> None:
    store = Store(tmp_path / "store")
    store.create()
    sha256 = "0" * 64
    if content is not None:
        sha256 = store.blobs.put_bytes(content.encode()).sha256
    record = profiled(KEPT, artifacts=[BlobRef(PICTURE_ARTIFACT, sha256, 8)])
    assert pictures_in(store)(record) == found
    assert pictures_in(store)(profiled(KEPT)) is None
    assert len(figures([record], pictures_in(store))) == (found is not None)
