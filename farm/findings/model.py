# SPDX-License-Identifier: Apache-2.0
"""What a finding is: plain values, no behaviour but their own arithmetic."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farm.contract.canonical import short_digest

#: The share of false ones among all findings that rest on a test.
FALSE_DISCOVERY_RATE = 0.05


class Sure(enum.StrEnum):
    """What a finding rests on, and so how far it reaches.

    PROCESSES: processes of both sides, by the exact rank test of `farm compare`. RUNS: too few processes for that; it
    holds between any two of them, with an assumed scatter between processes taken off. IMAGES: a test of shares on one
    set of images. BUILDS: an analysis of variance over builds. COUNTED: read off the record, nothing is estimated.
    """

    PROCESSES = "between processes"
    RUNS = "within one run only"
    IMAGES = "on this test set"
    BUILDS = "between builds"
    COUNTED = "counted, not estimated"


@dataclass(frozen=True)
class Evidence:
    """One side of a finding: what it is, its runs and its number with the interval, in `unit`.

    `confidence` None: there is no interval, and `low` and `high` are None too.
    """

    label: str
    runs: tuple[str, ...]
    metric: str = ""
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    processes: int = 0
    device: str = ""
    stack: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that the records show.

    `size` is a share whose meaning the rule tells (0.12: 12 % slower); findings of a rule are ordered by it. `ratio`
    is new over base with `low` and `high` at `confidence`. `p_value` is adjusted for all that was examined. `notes`
    are differences between the sides that the reader must know, and what the finding does not say.
    """

    rule: str
    cell: Mapping[str, str]
    sentence: str
    size: float
    sure: Sure
    base: Evidence | None = None
    new: Evidence | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    p_value: float | None = None
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[str, ...]:
        """Every run that it rests on, once."""
        sides = (side for side in (self.base, self.new) if side is not None)
        return tuple(dict.fromkeys(run for side in sides for run in side.runs))

    @property
    def finding_id(self) -> str:
        """The same for the same rule and runs."""
        return short_digest([self.rule, sorted(self.runs), dict(self.cell)], 12)


@dataclass(frozen=True)
class Examined:
    """How many pairs (or cells) a rule looked at: `found`, of the others `undecided` could not be told."""

    rule: str
    pairs: int = 0
    found: int = 0
    undecided: int = 0


@dataclass(frozen=True)
class Findings:
    """All that was found, by rule and then the largest first, and what was examined for it."""

    found: tuple[Finding, ...] = ()
    examined: tuple[Examined, ...] = ()
    false_discovery_rate: float = FALSE_DISCOVERY_RATE

    def of(self, rule: str) -> tuple[Finding, ...]:
        """The findings of one rule."""
        return tuple(finding for finding in self.found if finding.rule == rule)


@dataclass(frozen=True)
class Candidate:
    """What a rule looked at, before false ones are weeded out among all.

    `holds`: the evidence alone is clear. `p_value` None: nothing was tested, `holds` alone decides. `decided`: clear
    either way.
    """

    finding: Finding
    holds: bool
    p_value: float | None = None
    decided: bool = True
