# SPDX-License-Identifier: Apache-2.0
"""What a device's canary says of it: kept in the register, made again from the records when Redis lost it."""

from __future__ import annotations

from dataclasses import dataclass

#: The canary has not run yet, or never came to a time.
NO_VERDICT = "none"
#: Too few canaries to judge by.
BASELINE = "baseline"
STEADY = "steady"
#: Out of the band once: measured once more before it counts.
UNCONFIRMED = "unconfirmed"
SHIFTED = "shifted"


@dataclass(frozen=True)
class CanaryState:
    """Verdict and numbers of a device's canary. Times are UTC, ISO 8601; shares are of 1.

    `points` canaries, of `needed` at least, are the series' baseline. `latency_ms` is the last one's, `centre_ms` and
    `spread` are the baseline's, `change` and `z` the last one's distance from it. `since` is when the shift was first
    seen and `steady_at` when the canary was last steady: what was measured in between is doubtful. `problem` says why
    the last run gave nothing to judge, `note` why the series began anew. `number` counts the series that an operator
    began.
    """

    verdict: str = NO_VERDICT
    points: int = 0
    needed: int = 0
    latency_ms: float | None = None
    centre_ms: float | None = None
    spread: float | None = None
    change: float | None = None
    z: float | None = None
    since: str | None = None
    steady_at: str | None = None
    last_at: str | None = None
    run_id: str | None = None
    evidence: str = ""
    problem: str = ""
    note: str = ""
    number: int = 0

    @property
    def shifted(self) -> bool:
        """Whether the device is marked."""
        return self.verdict == SHIFTED

    @property
    def summary(self) -> str:
        """A few words: `steady, 0.4 %`, `shifted +7.1 % since 2026-03-01 04:10`, `baseline, 2 of 5`."""
        change = "" if self.change is None else f" {self.change:+.1%}".replace("%", " %")
        if self.verdict == SHIFTED:
            return f"shifted{change} since {minute(self.since)}"
        if self.verdict == STEADY and self.spread is not None:
            return f"steady, {self.spread:.1%}".replace("%", " %")
        if self.verdict == UNCONFIRMED:
            return f"unconfirmed{change}"
        return f"baseline, {self.points} of {self.needed}" if self.verdict == BASELINE else "no verdict"

    @property
    def doubt(self) -> str:
        """What a run on a shifted device has against it."""
        steady = f"; it was last steady on {minute(self.steady_at)}" if self.steady_at else ""
        return f"the device's canary has shifted since {minute(self.since)}: {self.evidence}{steady}"


def minute(at: str | None) -> str:
    """A time to the minute: `2026-03-01 04:10`; `?` where there is none."""
    return at[:16].replace("T", " ") if at else "?"
