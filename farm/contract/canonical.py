# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON and the digests made from it: the one source of every deterministic id."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Encode `value` so that equal values give equal bytes (sorted keys, no spaces, no NaN).

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON has no word for.
        TypeError: `value` holds something that is not JSON.
    """
    return _canonical_text(value).encode("utf-8")


def _canonical_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits.

    Text of records may hold lone surrogates, which are no characters and cannot be written as UTF-8, but have a digest.
    """
    return hashlib.sha256(_canonical_text(value).encode("utf-8", "surrogatepass")).hexdigest()


def short_digest(value: Any, length: int = 16) -> str:
    """Return the first `length` digits of `digest(value)`: 16 digits keep 10^6 ids apart with room to spare."""
    return digest(value)[:length]


def sha256_file(path: str) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks, so that size does not matter."""
    hasher = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            hasher.update(block)
    return hasher.hexdigest()
