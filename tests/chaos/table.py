# SPDX-License-Identifier: Apache-2.0
"""The table of a run: faults by kind, how many were recovered from and how fast, and what they broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from tests.chaos.invariants import Violation

OTHER = "(of no one fault)"
_HEAD = ("fault", "injected", "recovered", "median s", "longest s", "violations")


@dataclass(frozen=True)
class Row:
    """One kind of fault. Seconds are from its end until every device concerned had ended a run."""

    kind: str
    injected: int
    recovered: int
    median_s: float | None
    longest_s: float | None
    violations: int


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Planned(Protocol):
    @property
    def fault(self) -> _Named: ...


class _Injected(Protocol):
    @property
    def devices(self) -> tuple[str, ...]: ...


class Done(Protocol):
    """What a table needs of an injected fault."""

    @property
    def planned(self) -> _Planned: ...
    @property
    def injected(self) -> _Injected: ...

    began_ns: int
    healed_ns: int
    recovered_ns: int


def rows(done: Sequence[Done], violations: Sequence[Violation], kinds: Sequence[str]) -> list[Row]:
    """One row for each kind that was injected, in the order of `kinds`, and one for what is nobody's."""
    blamed = Counter(blame(violation, done) for violation in violations)
    found = []
    for kind in kinds:
        own = [one for one in done if one.planned.fault.name == kind]
        times = [(one.recovered_ns - one.healed_ns) / 1e9 for one in own if one.recovered_ns]
        if own:
            seconds = (median(times), max(times)) if times else (None, None)
            found.append(Row(kind, len(own), len(times), *seconds, blamed[kind]))
    if blamed[OTHER]:
        found.append(Row(OTHER, 0, 0, None, None, blamed[OTHER]))
    return found


def blame(violation: Violation, done: Sequence[Done]) -> str:
    """The kind of the last fault on the violation's device before it; one without a place or time is nobody's."""
    if violation.at_ns is None or violation.device is None:
        return OTHER
    before = [o for o in done if o.began_ns <= violation.at_ns and violation.device in o.injected.devices]
    return max(before, key=lambda one: one.began_ns).planned.fault.name if before else OTHER


def markdown(found: Sequence[Row]) -> str:
    """The table as Markdown, with its sums."""
    lines = ["| " + " | ".join(_HEAD) + " |", "| --- |" + " ---: |" * (len(_HEAD) - 1)]
    for row in found:
        seconds = [f"{value:.1f}" if value is not None else "" for value in (row.median_s, row.longest_s)]
        lines.append(f"| {row.kind} | {row.injected} | {row.recovered} | {' | '.join(seconds)} | {row.violations} |")
    sums = [sum(getattr(row, name) for row in found) for name in ("injected", "recovered", "violations")]
    lines.append(f"| all | {sums[0]} | {sums[1]} | | | {sums[2]} |")
    return "\n".join(lines)
