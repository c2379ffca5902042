# SPDX-License-Identifier: Apache-2.0
"""Has a series left its history? (signatures; the body follows within the hour)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from farm.history.model import NightPoint, Series, Trigger
from farm.history.tracked import Rule
from farm.thresholds import DEFAULTS, Limits


def trigger(
    key: str,
    points: Sequence[NightPoint],
    tonight: NightPoint,
    rule: Rule,
    pool: float,
    limits: Limits = DEFAULTS,
    quiet: bool = False,
) -> Trigger | None:
    """Whether tonight left the history `points` (oldest first, all before tonight, since the last accepted change).

    `pool`: `pooled` of the series of the same class and metric. `quiet`: no slow path tonight.
    """
    raise NotImplementedError


def pooled(histories: Iterable[Sequence[NightPoint]], rule: Rule, limits: Limits = DEFAULTS) -> float:
    """The spread, on the rule's scale, that series of a device class and metric usually have from night to night."""
    raise NotImplementedError


def base_nights(points: Sequence[NightPoint], found: Trigger, limits: Limits = DEFAULTS) -> tuple[NightPoint, ...]:
    """Which nights may stand for "before" in an A/B measurement, the best first (never one just before `since`)."""
    raise NotImplementedError
