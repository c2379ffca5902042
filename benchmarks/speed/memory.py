# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory of processes, as the kernel tells it of each.

Not by `getrusage`: what it tells of a process begins with its parent's peak from before the program was executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def peak_mib(pid: int | str = "self", proc: Path = Path("/proc")) -> float:
    """The peak of a process, in MiB; not a number where it has ended."""
    try:
        found = _PEAK.search((proc / str(pid) / "status").read_text())
    except OSError:
        found = None
    return int(found[1]) / 1024 if found else float("nan")


def children(pid: int, proc: Path = Path("/proc")) -> Iterator[int]:
    """The processes that a process started, and those that they did, the parents first."""
    for path in proc.glob(f"{pid}/task/*/children"):
        try:
            started = [int(word) for word in path.read_text().split()]
        except OSError:
            continue
        for child in started:
            yield child
            yield from children(child, proc)


def is_warm(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process is one that runs are forked from, or a fork of one."""
    try:
        return b"--warm" in (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
