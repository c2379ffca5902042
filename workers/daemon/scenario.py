# SPDX-License-Identifier: Apache-2.0
"""What of a run's summary depends on its scenario: what is withheld, what must hold still, whose inputs count. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from farm.contract.job import Protocol
from farm.contract.record import Flag
from farm.summary import Summary
from farm.thresholds import Limits

_NO_LATENCY = "offline: inputs are queued all at once, so none has a latency of its own"
_LATENCIES = ("latency_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "sample_count")


def needs_latencies(effective: Mapping[str, Any]) -> bool:
    """Whether a run that is ok must have latency samples."""
    return effective.get("scenario") != "offline"


def without_latencies(protocol: Protocol) -> Summary:
    """The summary of a run that has no latency samples: for `offline`, with the reason."""
    withheld = dict.fromkeys(_LATENCIES, _NO_LATENCY) if protocol.scenario == "offline" else {}
    return Summary(dict.fromkeys(withheld), {}, withheld, [])


def judged(summary: Summary, protocol: Protocol, effective: Mapping[str, Any], limits: Limits) -> Summary:
    """With several requests in flight what must hold still is their rate: a request that waits for another scatters."""
    if protocol.scenario != "streams":
        return summary
    flags = [flag for flag in summary.flags if flag.name != "unstable"]
    flags += [*_unsteady(effective.get("window_rates_per_s"), limits), *_held_up(protocol, effective, limits)]
    return replace(summary, flags=flags)


def energy_inputs(protocol: Protocol, effective: Mapping[str, Any], latencies: int, batch_size: int) -> int:
    """The model inputs that a run's energy is shared out over: of its energy pass, else of its timed stage."""
    passed = effective.get("energy_inputs")
    if protocol.energy_s is not None and isinstance(passed, int):
        return passed
    timed = effective.get("timed_iterations") if protocol.scenario == "offline" else latencies
    return timed * batch_size if isinstance(timed, int) else 0


def _held_up(protocol: Protocol, effective: Mapping[str, Any], limits: Limits) -> Iterator[Flag]:
    """What the number of requests in flight meets before the device: too few processors, or one interpreter.

    Where contexts share a stream, handing over holds the wait for it, and tells nothing of the interpreter.
    """
    at_work, processors = effective.get("threads_at_work"), effective.get("processors")
    if isinstance(at_work, int) and isinstance(processors, int) and at_work > processors:
        yield Flag("oversubscribed", "info", f"up to {at_work} threads compute on {processors} processors")
    busy, limit = effective.get("enqueue_threads"), limits["interpreter_threads"]
    if isinstance(busy, float) and busy >= limit and protocol.in_flight == protocol.streams:
        evidence = (
            f"host threads handed requests over for {busy:.2f} of the wall clock, from {limit:g} on they wait for"
        )
        yield Flag("interpreter_bound", "info", f"{evidence} the one interpreter that they share")


def _unsteady(rates: Any, limits: Limits) -> Iterator[Flag]:
    sound = isinstance(rates, list) and all(isinstance(rate, float) and rate > 0 for rate in rates)
    if not sound or not rates:
        return
    spread, limit = max(rates) / min(rates) - 1, limits["window_rate_spread"]
    if spread > limit:
        told = ", ".join(f"{rate:.4g}" for rate in rates)
        evidence = f"inputs a second in equal parts of the timed stage: {told}; {100 * spread:.1f} % apart"
        yield Flag("unstable", "suspect", f"{evidence}, limit {100 * limit:g} %")
