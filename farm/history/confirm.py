# SPDX-License-Identifier: Apache-2.0
"""From the processes of an A/B measurement to a `Confirmation`, and from that to an answer. Pure.
(signatures; the body follows within the hour)"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from farm.history.model import Confirmation, Trigger
from farm.history.tracked import Rule
from farm.thresholds import DEFAULTS, Limits


class Answer(enum.StrEnum):
    """What a measurement says of a trigger."""

    AGREED = "agreed"  # the change is there, in the same direction, and large enough
    NONE = "none"  # it is not
    OPEN = "open"  # it cannot be said yet
    CLOCK = "clock"  # time moved and cycles did not


def confirmation(
    found: Trigger, night: str, base: Sequence[float], new: Sequence[float], rule: Rule, limits: Limits = DEFAULTS
) -> Confirmation:
    """The answer of processes of both sides, by `farm.compare.verdict` on the metric's scale. Zeros are fine where

    the scale is linear: `ratio`, `low` and `high` are None there when the base is 0.
    """
    raise NotImplementedError


def answer(found: Trigger, measured: Confirmation, rule: Rule) -> Answer:
    """What a measurement says of the trigger that it was made for."""
    raise NotImplementedError


def more_processes(
    found: Trigger, base: Sequence[float], new: Sequence[float], rule: Rule, limits: Limits = DEFAULTS
) -> int:
    """How many processes a side to add tonight, 0 when the answer is clear enough. Start with `history_processes`."""
    raise NotImplementedError
