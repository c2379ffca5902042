# SPDX-License-Identifier: Apache-2.0
"""What every rule looks at: records, cells, and limits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from farm.compare.model import Rules
from farm.contract.record import Record
from farm.findings.cells import Cell, Series, by_series, cells_of, usable
from farm.findings.judging import Answer
from farm.findings.model import Candidate, Finding
from farm.thresholds import DEFAULTS, Limits


@dataclass(frozen=True)
class Scene:
    """All records that ended well, canaries aside, and the limits that a finding must pass."""

    records: tuple[Record, ...]
    limits: Limits
    rules: Rules

    @classmethod
    def of(cls, records: Iterable[object], limits: Limits | None = None) -> Scene:
        """The scene of any records; what is none, or did not end well, is not in it."""
        return cls(tuple(usable(records)), {**DEFAULTS, **(limits or {})}, Rules())

    @cached_property
    def series(self) -> list[Series]:
        """Every series of latency points."""
        return list(by_series(self.records))

    @cached_property
    def cells(self) -> list[Cell]:
        """Every measured latency."""
        return cells_of(self.series)

    @cached_property
    def together(self) -> dict[tuple[Any, ...], list[Cell]]:
        """Cells of one model and batch size under the same conditions on one device: they may be compared."""
        found: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in self.cells:
            key = (*(cell.identity[n] for n in ("model", "batch", "device")), tuple(sorted(cell.conditions.items())))
            found.setdefault(key, []).append(cell)
        return found


@dataclass(frozen=True)
class Rule:
    """What is looked for. `about` says what a finding of it means, `silent` what it does not say."""

    name: str
    title: str
    about: str
    silent: str
    source: str
    look: Callable[[Scene], Iterable[Candidate]]


def subset(base: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether every option of `base` is set the same in `new`: `new` may have more of its own."""
    return all(name in new and new[name] == value for name, value in base.items())


def candidate(finding: Finding, answer: Answer) -> Candidate:
    """What a rank test, or its stand-in for few processes, makes of a finding."""
    decided = answer.above or answer.below or (answer.p_value is not None and not answer.why)
    return Candidate(finding, answer.above, answer.p_value if answer.p_value is not None else 1.0, decided)
