# SPDX-License-Identifier: Apache-2.0
"""Records between bytes and objects: canonical JSON, schema versions, and the way up from old ones.

Stored records are never rewritten: an old one is upgraded each time it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from farm.contract.codec import DecodeError, from_json, to_json
from farm.contract.record import RECORD_SCHEMA, Record

Document = dict[str, Any]


def _as_it_is(document: Document) -> Document:
    """What a new schema added has a default that says what held before."""
    return document


#: From each schema version, the function that makes the next one of it. A test holds the keys equal to
#: 1 .. RECORD_SCHEMA - 1.
UPGRADES: Mapping[int, Callable[[Document], Document]] = {1: _as_it_is}


class RecordError(ValueError):
    """Bytes that are no record, with the reason."""


def upgrade(
    document: Document, current: int = RECORD_SCHEMA, upgrades: Mapping[int, Callable[[Document], Document]] = UPGRADES
) -> Document:
    """Bring a record's document to schema `current`.

    Raises:
        RecordError: it has no schema version, or one from the future.
    """
    version = document.get("schema")
    if type(version) is not int or version < 1:
        raise RecordError(f"its schema version is {version!r}, not a whole number from 1 on")
    if version > current:
        raise RecordError(
            f"written by a newer farm (record schema {version}, this one reads up to {current}); upgrade this one"
        )
    while version < current:
        document = {**upgrades[version](document), "schema": version + 1}
        version += 1
    return document


def encode_json(value: Any) -> bytes:
    """Encode pretty JSON that is the same for equal values: sorted keys, one space of indent, a newline at the end.

    Lone surrogates (undecodable bytes in a log) become JSON's own `\\udcXX` escapes and come back as they were.

    Raises:
        ValueError: NaN or an infinity, which JSON has no word for.
        TypeError: not JSON.
    """
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", errors="backslashreplace")


def decode_json(data: bytes) -> Document:
    """Decode a JSON object.

    Raises:
        RecordError: not UTF-8, not JSON, not an object, NaN or an infinity in it.
    """
    if not data.strip():
        raise RecordError("it is empty")
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise RecordError("not a JSON object")
    return document


def encode_record(record: Record) -> bytes:
    """Encode a record, and make sure that it can be read again.

    Raises:
        RecordError: with every field that does not fit.
    """
    try:
        data = encode_json(to_json(record))
    except (ValueError, TypeError) as error:
        raise RecordError(str(error)) from error
    decode_record(data)
    return data


def decode_record(data: bytes) -> Record:
    """Decode and upgrade a record.

    Raises:
        RecordError: with every fault.
    """
    document = upgrade(decode_json(data))
    try:
        record = from_json(Record, document)
    except DecodeError as error:
        raise RecordError(str(error)) from error
    except OverflowError as error:
        raise RecordError(f"a number is too large: {error}") from error
    utc_time(record.finished_at)
    return record


def utc_time(text: str) -> datetime:
    """Parse a record's time.

    Raises:
        RecordError: not ISO 8601, or without an offset from UTC.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise RecordError(f"the time {text!r} has no offset: write UTC, as in 2026-01-31T12:00:00.000000+00:00")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{text!r} is not a time in ISO 8601") from error


def _finite(digits: str) -> float:
    """A number that JSON may spell and a float cannot hold would be an infinity."""
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]}... is too large a number")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
