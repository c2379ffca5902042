# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the telemetry process: start it for one run, end it, read what it left.

It never keeps a run waiting: the runner starts beside it, and at the end it is given a moment, then killed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import workers
from farm.contract.codec import to_json
from farm.contract.device import DeviceInfo
from workers.daemon.control import Control
from workers.daemon.telemetry.trace import Trace, read_trace

#: How long it may take over its last sample, and to be gone once killed.
STOP_LIMIT_S = 2.0
_GONE_LIMIT_S = 1.0
_MODULE = "workers.daemon.telemetry.sampler"


class TelemetryProcess:
    """Samples from entry to exit of its `with` block; then `trace` is what it wrote."""

    def __init__(self, device: DeviceInfo, control: Control, rate_hz: float, root: Path = Path("/")) -> None:
        self._out = control.path / "telemetry.jsonl"
        self._log = control.path / "telemetry.log"
        self._request = {
            "out": str(self._out),
            "events": str(control.events),
            "period_s": 1 / rate_hz,
            "device": to_json(device),
            "root": str(root),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: str | None = None
        self.trace = Trace(problem="the run has not ended")

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        try:
            with self._log.open("ab") as log:
                # The interpreter's own -P keeps the working directory out of its imports.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=environment(),
                    start_new_session=True,
                )
            self._say(json.dumps(self._request).encode() + b"\n")
        except OSError as error:
            self._problem = f"the telemetry process could not be started: {error.strerror or error}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._end(self._process)
        self.trace = read_trace(self._out, self._problem)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            if process.stdin:
                process.stdin.close()
        except OSError:
            pass
        if not has_ended(process, STOP_LIMIT_S):
            process.kill()
            self._problem = f"the telemetry process did not end within {STOP_LIMIT_S:g} s"
            self._wait_until_gone(process)
            return
        code = process.wait()
        if code != 0:
            self._problem = f"the telemetry process ended with status {code}; {self._last_words()}"

    def _wait_until_gone(self, process: subprocess.Popen[bytes]) -> None:
        if has_ended(process, _GONE_LIMIT_S):
            process.wait()
        else:
            self._problem = f"{self._problem} and cannot be killed: a driver holds it"

    def _say(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _last_words(self) -> str:
        try:
            text = self._log.read_text(errors="replace").strip()
        except OSError:
            text = ""
        return f"it wrote: {text.splitlines()[-1][:300]}" if text else "it wrote nothing"


def has_ended(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Wait for a process to end, at most so long: in the kernel, where `Popen.wait` looks every 50 ms."""
    if process.poll() is not None:
        return True
    descriptor = os.pidfd_open(process.pid)
    try:
        return bool(select.select([descriptor], [], [], limit_s)[0])
    finally:
        os.close(descriptor)


def environment() -> dict[str, str]:
    """What the process gets: where this farm's code and libraries are, none of its settings, no mark of the run."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if key in os.environ}
    paths = [str(Path(workers.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
