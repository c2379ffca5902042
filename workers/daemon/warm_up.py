# SPDX-License-Identifier: Apache-2.0
"""What the runner says of a steady warm-up, as flags with their evidence. Pure.

That no steady state is shown is a doubt and no failure: many programs never reach one (Barrett et al., Virtual Machine
Warmup Blows Hot and Cold, OOPSLA 2017, found it consistently in fewer than half of their pairs of VM and benchmark).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farm.contract.record import Flag
from farm.thresholds import Limits

_SHOWN = {"median": "median", "q1": "first quartile", "q3": "third quartile", "deviation": "median absolute deviation"}


def warm_up_doubts(effective: Mapping[str, Any], limits: Limits) -> list[Flag]:
    """`no_steady_state` or `slow_start`, from `effective` of a run whose warm-up rule was `steady`; else nothing."""
    if "warm_up_windows" not in effective and "warm_up_rate_change" not in effective:
        return []
    took_s, runs = effective["warm_up_wall_ns"] / 1e9, effective["warm_up_iterations"]
    if effective["warm_up_ended_by"] != "steady":
        return [Flag("no_steady_state", "suspect", f"after {took_s:.1f} s and {runs} runs {_not_shown(effective)}")]
    if "warm_up_windows" not in effective:
        return []
    first_s, limit = effective["warm_up_first_windows_ns"] / 1e9, limits["slow_start"]
    if took_s <= limit * first_s:
        return []
    evidence = (
        f"warm-up took {took_s:.1f} s, more than {limit:g} times the {first_s:.1f} s at which it could have ended"
    )
    return [Flag("slow_start", "info", evidence)]


def _not_shown(effective: Mapping[str, Any]) -> str:
    if "warm_up_windows" not in effective:
        rate = effective["warm_up_rate_change"]
        if rate is None:
            return "there was no time for two passes: raise `warmup_max_s`"
        return f"the rate of requests still changed by {_percent(rate)} from one pass to the next"
    pairs, change = effective["warm_up_windows"], effective["warm_up_last_change"]
    if change is None:
        return "there were too few for two windows: raise `warmup_max_s`"
    parts = [f"{name} {_percent(change[key])}" for key, name in _SHOWN.items()]
    if change["first_is_outlier"]:
        parts.append("first value an outlier")
    return f"no two windows agreed, of {pairs} pairs; the last: {', '.join(parts)}"


def _percent(change: float | None) -> str:
    return "from 0" if change is None else f"{100 * change:+.1f} %"
