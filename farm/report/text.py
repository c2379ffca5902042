# SPDX-License-Identifier: Apache-2.0
"""Numbers and small phrases as people read them: three or four significant digits, thin spaces, plural forms. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

#: U+202F, a thin space that does not break, between groups of three digits.
THIN = "\u202f"
ABSENT = "\u2013"
MINUS = "\u2212"


def decimals(value: float) -> int:
    """Digits after the point that show `value` with three significant digits, four where the third would be lost."""
    size = abs(value)
    if not math.isfinite(size) or size >= 1000 or size == 0:
        return 0
    if size >= 100:
        return 1
    if size >= 1:
        return 2
    return min(6, 2 - math.floor(math.log10(size)))


def number(value: float, places: int | None = None) -> str:
    """`1234.5` -> `1 234`, `3.14159` -> `3.14`, `0.01234` -> `0.0123`; `places` fixes the decimals."""
    if not math.isfinite(value):
        return ABSENT
    shown = f"{value:,.{decimals(value) if places is None else places}f}".replace(",", THIN)
    return shown.replace("-", MINUS)


def span(low: float, high: float, places: int | None = None) -> str:
    """An interval: both ends with an en dash between."""
    return f"{number(low, places)}\u2013{number(high, places)}"


def percent(value: float) -> str:
    """A percentage without its sign: never more digits than it carries, and a small one is not shown as zero."""
    if value == 0 or value == 100:
        return f"{value:.0f}"
    if 0 < value < 0.001:
        return "<0.001"
    return f">{99.999}" if 99.999 < value < 100 else number(value, min(3, decimals(value)))


def mib(size_bytes: float) -> str:
    """Bytes as MiB (2^20 bytes)."""
    return number(size_bytes / 2**20)


def plural(count: int, one: str, many: str | None = None) -> str:
    """`plural(1, "run")` -> `1 run`; `plural(2, "run")` -> `2 runs`."""
    return f"{number(count, 0)} {one if count == 1 else many or one + 's'}"


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(items)
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def sizes(batches: Iterable[int]) -> str:
    """Batch sizes in a phrase: `batch 4`, `batches 4, 8, 16`."""
    found = [str(b) for b in sorted(set(batches))]
    return f"batch{'es' if len(found) > 1 else ''} {', '.join(found)}"


def plain(word: object) -> str:
    """An identifier as words: `out_of_memory` -> `out of memory`."""
    return str(word).replace("_", " ")


def moment(stamp: str) -> str:
    """An ISO time in UTC to the minute: `2026-11-20 10:31 UTC`; anything else is left as it is."""
    if len(stamp) < 16 or stamp[10] != "T":
        return stamp
    return f"{stamp[:10]} {stamp[11:16]} UTC"
