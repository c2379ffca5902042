# SPDX-License-Identifier: Apache-2.0
"""What may have caused a change: every difference of software, settings and clock between runs of both sides. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from farm.contract.record import Record
from farm.identity import device_settings, farm_code, software
from farm.thresholds import DEFAULTS, Limits

#: The clock of each kind of device. A CPU's is the mean over its cores.
_CLOCKS = ("gpu_clock_sm_mhz", "cpu_frequency_mhz")
_FARM = {"farm_version": "farm", "git_revision": "farm's revision", "runner_digest": "farm's runner"}


def causes(base: Sequence[Record], new: Sequence[Record], limits: Limits = DEFAULTS) -> tuple[str, ...]:
    """The differences in words, `onnxruntime 1.26 -> 1.27`, the libraries first; none where a side has no record."""
    if not base or not new:
        return ()
    libraries = _differences(_facts(base[-1]), _facts(new[-1]))
    return (*libraries, *_clock(base, new, limits))


def _facts(record: Record) -> dict[str, str]:
    engine = str(record.effective.get("engine_sha256") or "")[:12]
    code = {_FARM[name]: value for name, value in farm_code(record).items()}
    return {**software(record), **device_settings(record), **({"engine": engine} if engine else {}), **code}


def _differences(base: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """In the order in which the facts are told: what a library does comes before what the farm does."""
    names = [name for name in dict.fromkeys((*base, *new)) if base.get(name) != new.get(name)]
    return [f"{name} {base.get(name, 'none')} -> {new.get(name, 'none')}" for name in names]


def _clock(base: Sequence[Record], new: Sequence[Record], limits: Limits) -> list[str]:
    for name in _CLOCKS:
        sides = [[mhz for each in side if (mhz := each.metrics.get(name))] for side in (base, new)]
        if all(sides):
            before, now = (statistics.median(side) for side in sides)
            moved = abs(now / before - 1) > limits["clock_drift"]
            return [f"clock {before:.0f} -> {now:.0f} MHz"] if moved else []
    return []
