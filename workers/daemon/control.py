# SPDX-License-Identifier: Apache-2.0
"""The control directory of one run, from the daemon's side: write the request, follow the events, read the result.

Nothing that a runner leaves here is trusted: it may be missing, cut off, damaged, or about another run.
"""

from __future__ import annotations

import array
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from farm.contract.codec import DecodeError, from_json, to_json
from farm.contract.names import (
    ARTIFACTS_DIR,
    EVENTS_FILE,
    EXIT_FILE,
    LOG_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    SAMPLES_DIR,
    check_name,
)
from farm.contract.outcome import Outcome
from farm.contract.run import Event, RunRequest, RunResult, SampleFile
from farm.paths import inside
from workers.daemon.scenario import needs_latencies

#: A log longer than this is emptied while it is written: a runner that only shouts must not fill the disk.
LOG_LIMIT_BYTES = 256 << 20
_LOG_HEAD_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4 << 20
_RESULT_LIMIT_BYTES = 64 << 20
_LINE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Control:
    """The paths in one control directory."""

    path: Path

    @property
    def request(self) -> Path:
        """What the runner is told."""
        return self.path / REQUEST_FILE

    @property
    def events(self) -> Path:
        """One `Event` per line, appended by the runner."""
        return self.path / EVENTS_FILE

    @property
    def result(self) -> Path:
        """What the runner says about itself."""
        return self.path / RESULT_FILE

    @property
    def log(self) -> Path:
        """The runner's stdout and stderr."""
        return self.path / LOG_FILE

    @property
    def exit(self) -> Path:
        """What the supervisor says about the runner's end."""
        return self.path / EXIT_FILE


def job_dir(work_dir: Path, device_id: str, job_id: str, attempt: int) -> Path:
    """Where the runs of one attempt at a job work. Attempts do not share: a fenced one may still be clearing up."""
    return work_dir / check_name(device_id, "device id") / f"{check_name(job_id, 'job id')}-a{attempt}"


def prepare(work_dir: Path, request: RunRequest, attempt: int, process: int = 1) -> Control:
    """Make a fresh control directory WORK/DEVICE/JOB-aATTEMPT/RUN, private to this user, and write the request into it.

    Further processes of a run have directories RUN.p2, RUN.p3 ...: what each left is kept until the run is recorded.

    Raises:
        ValueError: an id that is no safe file name.
        OSError: the directory cannot be made or written.
    """
    name = check_name(request.run_id, "run id") + (f".p{process}" if process > 1 else "")
    path = job_dir(work_dir, request.device.device_id, request.job.job_id, attempt) / name
    shutil.rmtree(path, ignore_errors=True)
    for part in (SAMPLES_DIR, ARTIFACTS_DIR, "tmp"):
        (path / part).mkdir(parents=True, mode=0o700)
    path.chmod(0o700)
    control = Control(path)
    control.request.write_text(json.dumps(to_json(request)), encoding="utf-8")
    control.log.touch()
    return control


class EventFollower:
    """Reads `events.jsonl` while it grows. A line without its end is kept for later; damaged lines are counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._partial = b""
        self.damaged = 0

    def read(self) -> list[Event]:
        """The events that are new since the last call."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read(_LINE_LIMIT_BYTES)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LINE_LIMIT_BYTES:
            self._partial = b""
            self.damaged += 1
        events = [self._decode(line) for line in lines]
        return [event for event in events if event is not None]

    def _decode(self, line: bytes) -> Event | None:
        try:
            return from_json(Event, json.loads(line))
        except (DecodeError, ValueError, RecursionError):
            self.damaged += 1
            return None


@dataclass(frozen=True)
class ReadResult:
    """A runner's result, its samples by name, or the fault that makes it no result."""

    result: RunResult | None = None
    samples: dict[str, array.array[int]] | None = None
    fault: str | None = None


def read_result(control: Control, *, measured: bool) -> ReadResult:
    """Read `result.json` and the sample files it names; a fault in any of them is a fault of the result.

    `measured`: an ok result must have latency samples, but for the scenario `offline`, which has none.
    """
    try:
        if control.result.stat().st_size > _RESULT_LIMIT_BYTES:
            return ReadResult(fault=f"{RESULT_FILE} is larger than {_RESULT_LIMIT_BYTES >> 20} MiB")
        data = json.loads(control.result.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        return ReadResult()
    except (OSError, ValueError, RecursionError) as error:
        return ReadResult(fault=f"{RESULT_FILE} cannot be read: {error}")
    try:
        result = from_json(RunResult, data)
        samples = {file.name: _read_samples(control, file) for file in result.samples}
    except DecodeError as error:
        return ReadResult(fault=f"{RESULT_FILE}: {error}")
    except (OSError, ValueError) as error:
        return ReadResult(fault=str(error))
    if any(stage.end_ns < stage.start_ns for stage in result.stages):
        return ReadResult(fault=f"{RESULT_FILE} has a stage that ends before it starts")
    must_have = measured and result.outcome is Outcome.OK and needs_latencies(result.effective)
    if must_have and not samples.get("latency"):
        return ReadResult(fault=f"{RESULT_FILE} says ok and names no latency samples")
    return ReadResult(result, samples)


def sample_path(control: Control, file: SampleFile) -> Path:
    """The path of a sample file.

    Raises:
        ValueError: it lies outside the control directory.
    """
    return inside(file.path, control.path, what="sample file")


def _refuse_constant(word: str) -> None:
    raise ValueError(f"it holds {word}, which is not JSON")


def _read_samples(control: Control, file: SampleFile) -> array.array[int]:
    content = sample_path(control, file).read_bytes()
    if len(content) != 8 * file.count:
        raise ValueError(f"{file.path} holds {len(content)} bytes, {file.count} samples need {8 * file.count}")
    values = array.array("q")
    values.frombytes(content)
    if sys.byteorder == "big":
        values.byteswap()
    if values and min(values) < 0:
        raise ValueError(f"{file.path} holds a negative time")
    return values


def bound_log(control: Control) -> bool:
    """Empty the log if it has grown past all use; the runner writes on in append mode. Return whether it was."""
    try:
        if control.log.stat().st_size <= LOG_LIMIT_BYTES:
            return False
        with control.log.open("r+b") as stream:
            stream.truncate(0)
            stream.write(f"[the log grew past {LOG_LIMIT_BYTES >> 20} MiB; what was here is gone]\n".encode())
    except FileNotFoundError:
        return False
    return True


def log_tail(control: Control, limit_bytes: int = 4000) -> str:
    """The end of the log, as text."""
    try:
        with control.log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - limit_bytes))
            return stream.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def shorten_log(control: Control) -> None:
    """Keep the first MiB and the last four of a log that is longer, and say how much was left out."""
    size = control.log.stat().st_size
    if size <= _LOG_HEAD_BYTES + _LOG_TAIL_BYTES:
        return
    short = control.log.with_suffix(".short")
    with control.log.open("rb") as source, short.open("wb") as target:
        target.write(source.read(_LOG_HEAD_BYTES))
        left_out = size - _LOG_HEAD_BYTES - _LOG_TAIL_BYTES
        target.write(f"\n[{left_out} bytes left out]\n".encode())
        source.seek(size - _LOG_TAIL_BYTES)
        shutil.copyfileobj(source, target)
    short.replace(control.log)
