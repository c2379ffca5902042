# SPDX-License-Identifier: Apache-2.0
"""The fake workflow's own log of what really ran, for tests of the farm: one JSON line at the start and at the end.

It is written only where the stack's environment names a file in `INFERFARM_FAKE_LOG`. Every line is one `write` in
append mode, so that the lines of all runners of a host stay whole and in the order in which they were written.
"""

import json
import os
import time
import uuid
from typing import Any, Dict, List

from farm.contract.names import DEVICE_ENV
from farm.contract.run import RunRequest

LOG_ENV = "INFERFARM_FAKE_LOG"


class ExecutionLog:
    """One runner's two lines. `token` stands for this execution; it is None where no log is kept."""

    def __init__(self, request: RunRequest) -> None:
        self._path = os.environ.get(LOG_ENV)
        self._request = request
        self.token = uuid.uuid4().hex if self._path else None

    def start(self) -> None:
        """Say that this runner begins, and which other processes of runs of its device live."""
        if self._path:
            self._write("start", others=others_on_device())

    def end(self) -> None:
        """Say that this runner has done all it was asked to do."""
        if self._path:
            self._write("end")

    def _write(self, event: str, **more: Any) -> None:
        line: Dict[str, Any] = {
            "event": event,
            "run_id": self._request.run_id,
            "job_id": self._request.job.job_id,
            "mode": self._request.mode,
            "device": self._request.device.device_id,
            "execution": self.token,
            "pid": os.getpid(),
            "monotonic_ns": time.monotonic_ns(),
            "boot": _boot_id(),
        }
        line.update(more)
        descriptor = os.open(str(self._path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode("utf-8"))
        finally:
            os.close(descriptor)


def others_on_device() -> List[int]:
    """Living processes, this one excepted, that carry this one's device in their environment."""
    own = os.environ.get(DEVICE_ENV)
    if own is None:
        return []
    wanted = "{}={}".format(DEVICE_ENV, own).encode("utf-8")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open("/proc/{}/environ".format(entry), "rb") as stream:
                    if wanted in stream.read().split(b"\0"):
                        found.append(int(entry))
            except OSError:
                continue  # it has ended, or is another user's
    return found


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()
