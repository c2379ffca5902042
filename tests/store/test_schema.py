# SPDX-License-Identifier: Apache-2.0
"""Schema versions of records: the way up, and no further."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.record import RECORD_SCHEMA
from farm.store.schema import (
    UPGRADES,
    RecordError,
    decode_json,
    decode_record,
    encode_json,
    encode_record,
    upgrade,
    utc_time,
)
from tests.factories import make_record, make_ref

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def test_there_is_a_way_up_from_every_old_schema() -> None:
    assert set(UPGRADES) == set(range(1, RECORD_SCHEMA))


def test_an_old_document_is_brought_up_step_by_step() -> None:
    steps = {1: lambda d: {**d, "b": d["a"] + 1}, 2: lambda d: {"c": d["b"] * 10}}
    assert upgrade({"schema": 1, "a": 1}, 3, steps) == {"schema": 3, "c": 20}
    assert upgrade({"schema": 2, "b": 5}, 3, steps) == {"schema": 3, "c": 50}
    assert upgrade({"schema": 3, "c": 7}, 3, steps) == {"schema": 3, "c": 7}


def test_a_record_from_before_several_processes_is_one_of_one_process() -> None:
    record = make_record(samples=[make_ref("a" * 64)])
    old = json.loads(encode_record(record))
    del old["processes"], old["samples"][0]["process"]
    assert decode_record(json.dumps(old | {"schema": 1}).encode()) == record
    assert record.processes == []


@pytest.mark.parametrize("version", [None, "1", 0, -1, 1.0, True])
def test_a_document_without_a_version_is_refused(version: object) -> None:
    with pytest.raises(RecordError, match="schema version"):
        upgrade({"schema": version})


def test_the_future_is_refused() -> None:
    with pytest.raises(RecordError, match=r"written by a newer farm .*; upgrade this one"):
        upgrade({"schema": RECORD_SCHEMA + 1})


@given(st.dictionaries(st.text(), json_values))
def test_equal_documents_have_equal_bytes_and_come_back(document: dict[str, object]) -> None:
    data = encode_json(document)
    assert decode_json(data) == document
    assert encode_json(dict(reversed(document.items()))) == data


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        decode_record(data)


@given(st.text(max_size=40))
def test_no_text_does_more_than_be_no_time(text: str) -> None:
    try:
        moment = utc_time(text)
    except RecordError:
        return
    assert moment.utcoffset() is not None


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_the_end_of_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(RecordError):
        utc_time(text)


@pytest.mark.parametrize("number", ["1e400", "-" + "9" * 330 + ".0", "NaN", "Infinity"])
def test_a_number_that_would_be_an_infinity_is_no_document(number: str) -> None:
    with pytest.raises(RecordError, match="not valid JSON"):
        decode_json(f'{{"value": {number}}}'.encode())
