# SPDX-License-Identifier: Apache-2.0
"""Whether a doubtful point is worth a wait or another try, decided from its flags and what was spent already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farm.contract.outcome import Outcome
from farm.contract.record import Flag, Record

#: Doubts that pass: a battery, a coarse clock or changed settings are the same a minute later.
PASSING = frozenset(
    {
        "foreign_process",
        "host_busy",
        "stolen_time",
        "throttled",
        "clock_low",
        "clock_drift",
        "no_steady_state",
        "unstable",
    }
)
#: What is waited for before a run, and which of the two budgets it draws on.
WAITED_FOR = {"foreign_process": "idle", "host_busy": "idle", "throttled": "cool"}
#: Where so many tries in a row came out doubtful again, the device is like that: no more of them in this job.
GIVE_UP_AFTER = 2


def worth_another_try(outcome: Outcome, flags: Sequence[Flag], *, tried: int, retries: int, in_vain: int) -> bool:
    """Whether to measure a point again.

    Args:
        outcome: of the last try; only a measurement that succeeded is repeated for its doubts.
        flags: of the last try.
        tried: tries of this process so far, and second tries of the point's processes before it.
        retries: tries that the settings allow beyond the first.
        in_vain: second tries in a row, of this job's points, that came out doubtful again.
    """
    if outcome is not Outcome.OK or tried > retries or in_vain >= GIVE_UP_AFTER:
        return False
    doubts = {flag.name for flag in flags if flag.level != "info"}
    # Another try cannot mend the rest: with a lasting doubt, the run stays doubtful.
    return bool(doubts) and doubts <= PASSING


def worth_waiting(flags: Sequence[Flag]) -> tuple[str, Flag] | None:
    """The budget to draw on, `idle` or `cool`, and the doubt to wait out; None: go on."""
    for flag in flags:
        if flag.level != "info" and flag.name in WAITED_FOR:
            return WAITED_FOR[flag.name], flag
    return None


class Retries:
    """The tries of one job's points."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._in_vain = 0

    def again(self, record: Record, tried: int, spent: int = 0) -> bool:
        """Whether to make the process of `record`, its try number `tried`, once more.

        `spent` counts the second tries of the point's earlier processes: all share what the settings allow.
        """
        if tried > 1:
            self._in_vain = self._in_vain + 1 if any(flag.level != "info" for flag in record.flags) else 0
        return worth_another_try(
            record.outcome, record.flags, tried=tried + spent, retries=self._allowed, in_vain=self._in_vain
        )


def try_facts(record: Record) -> dict[str, Any]:
    """What stays of a try that was made again: why, and what it had measured."""
    kept = {name: record.metrics.get(name) for name in ("latency_ms", "throughput_per_s")}
    flags = [{"name": flag.name, "level": flag.level, "evidence": flag.evidence} for flag in record.flags]
    return {"started_at": record.started_at, "flags": flags, **kept}
