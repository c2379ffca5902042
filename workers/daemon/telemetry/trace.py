# SPDX-License-Identifier: Apache-2.0
"""The telemetry of one run as its file holds it: JSON lines, a header, samples by CLOCK_MONOTONIC, a last line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farm.contract.run import StageTime

TRACE_SCHEMA = 1

#: A value at a time (ns).
Point = tuple[int, float]


@dataclass(frozen=True)
class Trace:
    """What was sampled during a run. `problem` says why it is not whole; None: it is.

    A value that the host or device did not tell is absent from its sample. `path` is the file, if there is one.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    period_s: float | None = None
    cost_us: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    problem: str | None = None
    path: Path | None = None

    def inside(self, stage: StageTime) -> Trace:
        """The samples of one stage."""
        found = [s for s in self.samples if stage.start_ns <= s["ns"] <= stage.end_ns]
        return Trace(self.facts, self.period_s, self.cost_us, found, self.problem, self.path)

    def points(self, name: str) -> list[Point]:
        """A value over time, where it is known."""
        return [(s["ns"], float(s[name])) for s in self.samples if name in s]

    def values(self, name: str) -> list[float]:
        """A value of each sample that has it."""
        return [value for _, value in self.points(name)]

    def delta(self, name: str) -> float | None:
        """How far a counter went from its first reading to its last; None below two."""
        found = self.values(name)
        return found[-1] - found[0] if len(found) > 1 else None

    def rate(self, name: str, least_s: float) -> float | None:
        """A counter's rise per second; None where its readings span less than `least_s`."""
        found = self.points(name)
        if len(found) < 2 or (found[-1][0] - found[0][0]) / 1e9 < least_s:
            return None
        return (found[-1][1] - found[0][1]) / ((found[-1][0] - found[0][0]) / 1e9)


def read_trace(path: Path, problem: str | None = None) -> Trace:
    """Read what a telemetry process wrote; a damaged line is left out and named. Never raises.

    `problem`: what is known already about how the process ended.
    """
    try:
        lines = list(_lines(path.read_bytes()))
    except OSError as error:
        return Trace(problem=problem or f"there is no trace: {error.strerror or error}")
    header = next((line for line in lines if line is not None and "schema" in line), {})
    samples = [line for line in lines if line is not None and isinstance(line.get("ns"), int)]
    damaged = lines.count(None)
    if problem is None and (damaged or not any(line is not None and "end" in line for line in lines)):
        problem = f"{damaged} lines are damaged" if damaged else "the telemetry process ended before the run"
    return Trace(header.get("facts", {}), header.get("period_s"), header.get("cost_us", {}), samples, problem, path)


def _lines(content: bytes) -> Iterator[dict[str, Any] | None]:
    for line in content.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        yield found if isinstance(found, dict) else None
