# SPDX-License-Identifier: Apache-2.0
"""The telemetry process: reads one JSON request, then appends samples to a file until its stdin ends.

A process of its own, so that neither a slow driver nor Python's lock shows in what the daemon does, and so that what
it costs is known: each sample holds the processor time used so far. It changes nothing on any device.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from farm.contract.codec import from_json
from farm.contract.device import DeviceInfo
from workers.daemon.control import EventFollower
from workers.daemon.host import Files
from workers.daemon.jetson import find_jetson
from workers.daemon.nvml import find_gpu, open_nvml
from workers.daemon.telemetry import cpu, gpu, jetson
from workers.daemon.telemetry.channels import Channel, Probed, probe, read
from workers.daemon.telemetry.trace import TRACE_SCHEMA

_PR_SET_PDEATHSIG = 1
#: At the borders of these the costly counters are read.
_TIMED = ("measure", "energy")


@contextmanager
def open_channels(device: DeviceInfo, files: Files) -> Iterator[tuple[list[Channel], dict[str, Any]]]:
    """The channels of a device and its host, and facts to read their values by."""
    found, facts = cpu.channels(files), cpu.facts(files)
    if device.kind == "soc":
        board = find_jetson(files)
        if board is not None:
            found, facts = [*found, *jetson.channels(board)], facts | jetson.facts(board)
    if device.kind != "gpu":
        yield found, facts
        return
    with open_nvml() as gpus:
        board_gpu = find_gpu(gpus, device)
        if board_gpu is not None:
            found, facts = [*found, *gpu.channels(board_gpu)], facts | gpu.facts(board_gpu)
        yield found, facts


class Sampler:
    """Writes the trace: a header, a line for each sample, a last line that says it is whole."""

    def __init__(self, out: TextIO, probed: Probed, events: EventFollower, period_s: float) -> None:
        self._out = out
        self._probed = probed
        self._events = events
        self._period_s = period_s
        self._tick = 0

    def run(self, facts: dict[str, Any]) -> None:
        """Sample until stdin ends, at ticks of the clock: one that was missed is not made up for."""
        cost = {"cost_us": self._probed.cost_us, "silent": self._probed.silent}
        self._write({"schema": TRACE_SCHEMA, "period_s": self._period_s, "facts": facts, **cost})
        due = time.monotonic()
        self._sample(end=True)
        while True:
            due = max(due + self._period_s, time.monotonic())
            ready, _, _ = select.select([0], [], [], max(0.0, due - time.monotonic()))
            if ready and not os.read(0, 512):
                break
            self._sample()
        self._sample(end=True)
        self._write({"end": True})

    def _sample(self, *, end: bool = False) -> None:
        border = any(event.stage in _TIMED and event.kind != "progress" for event in self._events.read())
        now_ns = time.monotonic_ns()
        values = read(self._probed.channels, self._tick, border=border, end=end)
        self._write({"ns": now_ns, "own_cpu_s": round(time.process_time(), 6), **values})
        self._tick += 1

    def _write(self, line: dict[str, Any]) -> None:
        self._out.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._out.flush()


def die_with_parent() -> None:
    """Have the kernel kill this process when the daemon dies: the end of stdin would wait for a driver that hangs."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> int:
    """Serve one request from stdin: `out`, `events`, `period_s`, `device`, `root`."""
    die_with_parent()
    # Unbuffered: what follows the request is the end of the file, and `select` must see it.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        request = json.loads(stdin.readline())
    device, files = from_json(DeviceInfo, request["device"]), Files(Path(request["root"]))
    events = EventFollower(Path(request["events"]))
    with (
        open(request["out"], "w", encoding="utf-8") as out,
        open_channels(device, files) as (channels, facts),
    ):
        Sampler(out, probe(channels), events, request["period_s"]).run(facts)
    return 0


if __name__ == "__main__":
    status = main()
    # The trace is on its way to the disk, and the worker waits: no tear-down of the interpreter.
    os._exit(status)
