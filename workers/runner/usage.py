# SPDX-License-Identifier: Apache-2.0
"""What this process uses: memory, CPU time, context switches. What cannot be read is left out, never 0."""

import resource
from dataclasses import dataclass
from typing import Dict

_STATUS_KEYS = {"VmRSS": "host_rss_bytes", "VmHWM": "host_rss_peak_bytes"}


@dataclass(frozen=True)
class Usage:
    """Counters of all threads of this process since its start."""

    cpu_s: float
    involuntary_switches: int


def usage() -> Usage:
    """Read the counters."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(found.ru_utime + found.ru_stime, found.ru_nivcsw)


def usage_metrics(before: Usage, after: Usage, wall_ns: int) -> Dict[str, float]:
    """CPU time over wall clock, and switches, between two readings that are `wall_ns` apart."""
    values = {"involuntary_switches": float(after.involuntary_switches - before.involuntary_switches)}
    if wall_ns > 0:
        values["cpu_utilisation"] = (after.cpu_s - before.cpu_s) / (wall_ns / 1e9)
    return values


def memory_metrics(status: str = "/proc/self/status") -> Dict[str, float]:
    """Resident memory now and at its peak, in bytes, from /proc."""
    values: Dict[str, float] = {}
    try:
        with open(status, encoding="ascii", errors="replace") as stream:
            lines = stream.readlines()
    except OSError:
        return values
    for line in lines:
        key, _, rest = line.partition(":")
        words = rest.split()
        if key in _STATUS_KEYS and len(words) == 2 and words[1] == "kB":
            values[_STATUS_KEYS[key]] = float(int(words[0]) * 1024)
    return values
