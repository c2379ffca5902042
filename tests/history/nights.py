# SPDX-License-Identifier: Apache-2.0
"""Short series for tests: nights with values, and measurements with an answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, timedelta

from farm.history.model import Confirmation, NightPoint

KEY = "0123456789abcdef:latency_ms"


def name(night: int) -> str:
    return (date(2026, 1, 1) + timedelta(days=night)).isoformat()


def points(values: Sequence[float], first: int = 0) -> list[NightPoint]:
    return [NightPoint(name(first + i), value) for i, value in enumerate(values)]


def quiet(count: int, level: float = 10.0, spread: float = 0.005, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [level * (1 + rng.gauss(0, spread)) for _ in range(count)]


def measured(night: int, ratio: float, verdict: str = "", how: str = "ab", clock: bool = False) -> Confirmation:
    """An answer with a narrow interval."""
    word = verdict or ("SLOWER" if ratio > 1.02 else "FASTER" if ratio < 0.98 else "SAME")
    return Confirmation(KEY, name(night), how, word, ratio, ratio - 0.004, ratio + 0.004, 0.992, clock)


def open_answer(night: int) -> Confirmation:
    """An interval that leaves it open."""
    return Confirmation(KEY, name(night), "ab", "UNCLEAR", 1.04, 0.98, 1.10, 0.992)
