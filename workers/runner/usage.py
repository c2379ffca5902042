# SPDX-License-Identifier: Apache-2.0
"""What this process uses and waits for: memory, CPU time, processors. What cannot be read is left out, never 0."""

import contextlib
import os
import resource
from dataclasses import dataclass, field
from typing import Dict, Tuple

_STATUS_KEYS = {"VmRSS": "host_rss_bytes", "VmHWM": "host_rss_peak_bytes"}


@dataclass(frozen=True)
class Usage:
    """Counters of this process since its start.

    `threads` maps each thread's id to nanoseconds on a processor and nanoseconds in which it could run and waited for
    one; empty where the kernel does not tell.
    """

    cpu_s: float
    involuntary_switches: int
    threads: Dict[int, Tuple[int, int]] = field(default_factory=dict)


def usage(tasks: str = "/proc/self/task") -> Usage:
    """Read the counters."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(found.ru_utime + found.ru_stime, found.ru_nivcsw, _threads(tasks))


def usage_metrics(before: Usage, after: Usage, wall_ns: int) -> Dict[str, float]:
    """CPU time over wall clock, switches and waits, between two readings that are `wall_ns` apart."""
    values = {"involuntary_switches": float(after.involuntary_switches - before.involuntary_switches)}
    if wall_ns > 0:
        values["cpu_utilisation"] = (after.cpu_s - before.cpu_s) / (wall_ns / 1e9)
    ran, waited = _between(before, after)
    # A kernel that keeps no account has zeros, and so has a process that did nothing: neither is a share of 0.
    if ran > 0:
        values["cpu_wait_share"] = waited / (ran + waited)
    return values


def _threads(tasks: str) -> Dict[int, Tuple[int, int]]:
    """From Linux's schedstat, whose first two numbers they are; a thread that ends meanwhile is left out."""
    found = {}
    try:
        for name in os.listdir(tasks):
            with contextlib.suppress(OSError, ValueError):
                with open(os.path.join(tasks, name, "schedstat"), encoding="ascii") as stream:
                    ran, waited, _ = stream.read().split()
                found[int(name)] = (int(ran), int(waited))
    except OSError:
        return {}
    return found


def _between(before: Usage, after: Usage) -> Tuple[int, int]:
    """Nanoseconds on a processor and waiting for one, over the threads that are there at the end."""
    pairs = [(now, before.threads.get(thread, (0, 0))) for thread, now in after.threads.items()]
    return sum(now[0] - then[0] for now, then in pairs), sum(now[1] - then[1] for now, then in pairs)


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
