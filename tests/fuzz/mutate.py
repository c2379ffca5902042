# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - tables of odd values
"""Sound inputs made unsound: bytes flipped, cut, doubled and spliced, and JSON with odd values in odd places."""

from __future__ import annotations

import json
import random
from typing import Any

TOKENS = [
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xe2\x80\xae", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"-1", b"null", b"{}",
    b"[]", b'""', b"[" * 3000, b'{"a":' * 3000, b"../../../etc/passwd", b"\\u0000", b"\\ud800", b"\n", b"\r", b"\t",
    b"&a [*a]", b"!!python/object/apply:os.system", b"<<: *a", b"%TAG ! x", b"---\n", b"'", b'"', b"\\", b",", b"}", b"]",
    b"x" * 5000, b"1970-01-01T00:00:00+00:00", b"9999-12-31T23:59:59-23:59", b"true", b"0.1",
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, -0.0, 1e-320, "", "x", "../../x", "/etc/passwd", "a\0b",
    "\ud800", "\u202e", "x" * 5000, "NaN", "0" * 64, [], [[]], {}, {"": None}, [1, "a", None], {"schema": 99}, "ok",
    "9999-12-31T23:59:59.999999+00:00", "0001-01-01T00:00:00+23:59", "2026-03-01T10:00:00", "latency", "cpu",
]  # fmt: skip


def mutate(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One input: a seed with a few changes, of its bytes or, where it is JSON, of its values."""
    data = chance.choice(seeds)
    if chance.random() < 0.5:
        try:
            return _odd_json(chance, json.loads(data))
        except ValueError:
            pass
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        data = _change(chance, data, seeds)
    return data[: 1 << 20]


def _change(chance: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice((1, 1, 2, 8, 64, 1000)))
    kind = chance.randrange(6)
    if kind == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[to:]
    if kind == 2:
        return data[:at] + data[at:to] * chance.choice((2, 2, 50)) + data[to:]
    if kind == 3:
        return data[:at] + chance.choice(TOKENS) + data[chance.choice((at, to)) :]
    if kind == 4:
        other = chance.choice(seeds)
        return data[:at] + other[chance.randrange(len(other) + 1) :]
    return data[:at]


def _odd_json(chance: random.Random, value: Any) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 5))):
        value = _replaced(chance, value, chance.randrange(1, 7))
    return json.dumps(value, ensure_ascii=chance.random() < 0.9).encode("utf-8", "surrogatepass")


def _replaced(chance: random.Random, value: Any, depth: int) -> Any:
    """The value with one part of it, at most `depth` down, replaced, dropped, renamed or doubled."""
    if depth == 0 or not isinstance(value, (dict, list)) or not value:
        return chance.choice(ODD)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        return [*value[:at], _replaced(chance, value[at], depth - 1), *value[at + chance.choice((0, 1)) :]]
    key = chance.choice(list(value))
    kind = chance.randrange(8)
    rest = {k: v for k, v in value.items() if k != key}
    if kind == 0:
        return rest
    if kind == 1:
        return {**rest, str(chance.choice(ODD))[:50]: value[key]}
    return {**value, key: _replaced(chance, value[key], depth - 1)}
