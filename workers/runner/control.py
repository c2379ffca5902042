# SPDX-License-Identifier: Apache-2.0
"""The control directory: how the daemon and the runner talk, in files only."""

import contextlib
import json
import os
import sys
import time
from array import array
from typing import Any, Dict, Iterator, List, Optional

from farm.contract.codec import DecodeError, from_json, to_json
from farm.contract.names import EVENTS_FILE, REQUEST_FILE, RESULT_FILE, SAMPLES_DIR
from farm.contract.run import STAGES, Event, RunRequest, RunResult, SampleFile, StageTime


class Control:
    """One run's control directory.

    `stages` are those that have ended, `stage_name` the open one; `failed_stage` is the one that an exception left.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.run_id = ""
        self.stages: List[StageTime] = []
        self.failed_stage: Optional[str] = None
        self._open: Optional[str] = None
        self._events = os.open(
            os.path.join(directory, EVENTS_FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )

    def stage_name(self) -> str:
        """The open stage, or an empty text between stages."""
        return self._open or ""

    def read_request(self) -> RunRequest:
        """Read `request.json` strictly.

        Raises:
            DecodeError: it does not fit `RunRequest`, with every fault and its path.
            OSError: it is not there.
        """
        with open(os.path.join(self.directory, REQUEST_FILE), encoding="utf-8") as stream:
            text = stream.read()
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DecodeError(["not JSON: {} @ $".format(error)]) from error
        if isinstance(data, dict) and isinstance(data.get("run_id"), str):
            self.run_id = data["run_id"]  # known before the rest is checked, so that a refusal can name its run
        return from_json(RunRequest, data)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Mark a stage: events with monotonic nanoseconds at its start and end, the end also when it fails."""
        if name not in STAGES or self._open is not None:
            raise ValueError("stage {!r} cannot be opened inside {!r}".format(name, self._open))
        start = time.monotonic_ns()
        self._open = name
        self._event(Event("stage_start", name, start))
        try:
            yield
        except BaseException:
            self.failed_stage = self.failed_stage or name
            raise
        finally:
            end = time.monotonic_ns()
            self._open = None
            self.stages.append(StageTime(name, start, end))
            self._event(Event("stage_end", name, end))

    def progress(self, fraction: float) -> None:
        """Tell how far the open stage is, 0..1. Never called while the clock of a sample runs."""
        if self._open is not None:
            self._event(Event("progress", self._open, time.monotonic_ns(), min(max(fraction, 0.0), 1.0)))

    def write_samples(self, name: str, values: "array[int]") -> SampleFile:
        """Write samples as `samples/<name>.i64`: little-endian signed 64-bit integers, in the order they were taken."""
        relative = os.path.join(SAMPLES_DIR, name + ".i64")
        os.makedirs(os.path.join(self.directory, SAMPLES_DIR), exist_ok=True)
        ordered = array("q", values)
        if sys.byteorder != "little":
            ordered.byteswap()
        with open(os.path.join(self.directory, relative), "wb") as stream:
            ordered.tofile(stream)
        return SampleFile(name, relative, len(values))

    def write_result(self, result: RunResult) -> None:
        """Write `result.json` so that it is there whole or not at all, also after a power cut."""
        write_json(os.path.join(self.directory, RESULT_FILE), to_json(result))

    def _event(self, event: Event) -> None:
        data: Dict[str, Any] = {k: v for k, v in to_json(event).items() if v is not None}
        os.write(self._events, (json.dumps(data) + "\n").encode("utf-8"))


def write_json(path: str, data: Any) -> None:
    """Write JSON atomically: a temporary file, fsync, rename, fsync of the directory."""
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(data, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
