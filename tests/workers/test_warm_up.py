# SPDX-License-Identifier: Apache-2.0
"""Flags of a warm-up, from what the runner's own rule leaves in `effective`."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from farm.thresholds import DEFAULTS
from workers.daemon.warm_up import warm_up_doubts
from workers.runner.steady import SteadyState

MS = 1_000_000


def effective(ended_by: str, latency_ns: Callable[[int], float], count: int) -> dict[str, Any]:
    """As a run leaves it whose warm-up took `count` samples."""
    rule, samples = SteadyState(), array("q")
    for number in range(count):
        samples.append(int(latency_ns(number)))
        rule.ended_by(samples)
    facts = {"warm_up_ended_by": ended_by, "warm_up_iterations": count, "warm_up_wall_ns": sum(samples)}
    return facts | rule.facts()


def test_a_fixed_warm_up_raises_no_doubt_however_it_ended() -> None:
    fixed = {"warm_up_ended_by": "max_s", "warm_up_iterations": 3, "warm_up_wall_ns": 10**12}
    assert warm_up_doubts(fixed, DEFAULTS) == []
    assert warm_up_doubts({}, DEFAULTS) == []


def test_no_steady_state_is_suspect_and_tells_how_the_last_windows_differed() -> None:
    (flag,) = warm_up_doubts(effective("max_s", lambda i: (100 + 10 * i) * MS, 60), DEFAULTS)
    assert (flag.name, flag.level) == ("no_steady_state", "suspect")
    assert flag.evidence.startswith("after 23.7 s and 60 runs no two windows agreed, of 21 pairs; the last: median +33")
    assert "median absolute deviation +0.0 %" in flag.evidence
    assert "outlier" not in flag.evidence


def test_a_first_value_that_stands_out_and_a_change_from_nothing_are_in_the_evidence() -> None:
    (flag,) = warm_up_doubts(effective("max_s", lambda i: (3000 if i == 0 else 100 + (i < 20) * i) * MS, 40), DEFAULTS)
    assert "median absolute deviation from 0" in flag.evidence
    assert "first value an outlier" in flag.evidence


def test_too_few_runs_for_two_windows_are_no_steady_state_and_the_remedy_is_named() -> None:
    (flag,) = warm_up_doubts(effective("max_s", lambda _: 1000 * MS, 30), DEFAULTS)
    assert flag.evidence == "after 30.0 s and 30 runs there were too few for two windows: raise `warmup_max_s`"


def test_a_slow_start_is_worth_knowing_and_its_threshold_can_be_set() -> None:
    facts = effective("steady", lambda _: 100 * MS, 250)
    (flag,) = warm_up_doubts(facts, DEFAULTS)
    assert (flag.name, flag.level) == ("slow_start", "info")
    assert flag.evidence == "warm-up took 25.0 s, more than 5 times the 4.0 s at which it could have ended"
    assert warm_up_doubts(facts, {**DEFAULTS, "slow_start": 7}) == []
    assert warm_up_doubts(effective("steady", lambda _: 100 * MS, 200), DEFAULTS) == []


def test_streams_whose_rate_still_changes_are_in_no_steady_state() -> None:
    found = {"warm_up_iterations": 90, "warm_up_wall_ns": 2_000 * MS, "warm_up_rate_change": 0.07}
    (flag,) = warm_up_doubts(found | {"warm_up_ended_by": "max_s"}, DEFAULTS)
    assert (flag.name, flag.level) == ("no_steady_state", "suspect")
    assert "after 2.0 s and 90 runs the rate of requests still changed by +7.0 %" in flag.evidence
    assert warm_up_doubts(found | {"warm_up_ended_by": "steady"}, DEFAULTS) == []
    (flag,) = warm_up_doubts(found | {"warm_up_ended_by": "max_s", "warm_up_rate_change": None}, DEFAULTS)
    assert "warmup_max_s" in flag.evidence
