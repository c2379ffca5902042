# SPDX-License-Identifier: Apache-2.0
"""What is left of attempts that were lost: their logs and how far they came, kept for the record of a job given up.

An attempt whose worker died, or that lost its claim, leaves its directory on the host. Logs and facts of it go to the
store as blobs, their names to the job's state in Redis; the scheduler writes them into the record of a job that it
quarantines. A store or a broker that is away costs only time: the directory waits.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from farm.broker.jobs import JobStore
from farm.contract.codec import DecodeError, from_json, to_json
from farm.contract.record import BlobRef
from farm.contract.run import RunRequest
from farm.errors import FarmError
from farm.store.kept import WorkerStore
from workers.daemon import control as control_dirs
from workers.daemon.control import Control, EventFollower

log = logging.getLogger(__name__)

_LOST = ".lost"
_GONE = ".gone"
_NAME = re.compile(r"(?P<job>.+)-a(?P<attempt>\d+)\.lost")


def set_aside(directory: Path) -> None:
    """Mark an attempt's directory as lost. What is large and nobody will ask for (samples, engines) goes at once."""
    for run in _runs(directory):
        for entry in list(run.path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
    aside = directory.with_name(directory.name + _LOST)
    shutil.rmtree(aside, ignore_errors=True)
    directory.rename(aside)


def discard(directory: Path) -> None:
    """Remove a directory of an attempt; a removal that is interrupted is no lost attempt."""
    gone = directory.with_name(directory.name + _GONE)
    with suppress(OSError):  # what cannot be removed now is set aside when the device is next taken
        directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def set_aside_leftovers(work_dir: Path, device_id: str) -> int:
    """Set aside what ended workers of this device left, and count it; the caller holds the device's lock."""
    left = [path for path in _directories(work_dir, device_id) if path.suffix != _LOST]
    for path in left:
        with suppress(OSError):
            if path.suffix == _GONE:
                shutil.rmtree(path)
            else:
                set_aside(path)
    return len(left)


def lost_of(work_dir: Path, device_id: str) -> list[Path]:
    """The directories that are set aside of this device."""
    return [path for path in _directories(work_dir, device_id) if path.suffix == _LOST]


def _directories(work_dir: Path, device_id: str) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted((work_dir / device_id).iterdir())
    return []


def keep_lost(work_dir: Path, device_id: str, store: WorkerStore, jobs: JobStore) -> int:
    """Bring what is set aside of this device to the store and to the jobs; return how many directories still wait."""
    waiting = lost_of(work_dir, device_id)
    for done, path in enumerate(waiting):
        found = _NAME.fullmatch(path.name)
        try:
            if found is not None:
                job_id, attempt = found["job"], int(found["attempt"])
                jobs.keep_logs(job_id, [to_json(ref) for ref in _put(path, job_id, attempt, device_id, store)])
        except FileNotFoundError:
            continue  # the worker's other process was faster
        except (FarmError, redis.RedisError, OSError) as error:
            log.warning("logs of %d lost attempt(s) wait: %s", len(waiting) - done, error)
            return len(waiting) - done
        discard(path)
    return 0


def _put(path: Path, job_id: str, attempt: int, device_id: str, store: WorkerStore) -> Iterator[BlobRef]:
    runs = _runs(path)
    facts = {"job_id": job_id, "attempt": attempt, "device_id": device_id, "runs": [_facts(run) for run in runs]}
    texts = {
        f"log:attempt-{attempt}": b"".join(_log(run) for run in runs),
        f"failure:attempt-{attempt}": json.dumps(facts, indent=1, sort_keys=True).encode(),
    }
    for kind, data in texts.items():
        info = store.blobs.put_bytes(data)
        yield BlobRef(kind, info.sha256, info.size_bytes)


def _runs(directory: Path) -> list[Control]:
    """The control directories of an attempt, in the order in which they were made."""
    found = [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    return [Control(path) for path in sorted(found, key=lambda path: (_made_ns(path), path.name))]


def _made_ns(directory: Path) -> int:
    """When its request was written, once; the directory itself is as new as the last file made or removed in it."""
    with suppress(FileNotFoundError):
        return Control(directory).request.stat().st_mtime_ns
    return directory.stat().st_mtime_ns


def _log(run: Control) -> bytes:
    with suppress(FileNotFoundError):
        control_dirs.shorten_log(run)
        return f"== {run.path.name}\n".encode() + run.log.read_bytes().rstrip(b"\n") + b"\n"
    return b""


def _facts(run: Control) -> dict[str, Any]:
    """How far a run came, from what its runner and its supervisor left: any of it may be missing or damaged."""
    events = EventFollower(run.events).read()
    facts: dict[str, Any] = {
        "directory": run.path.name,
        "last_stage": events[-1].stage if events else None,
        "stages_begun": [event.stage for event in events if event.kind == "stage_start"],
        "supervisor": _json(run.exit),
        "result": run.result.exists(),
    }
    with suppress(DecodeError):
        request = from_json(RunRequest, _json(run.request))
        facts |= {"run_id": request.run_id, "mode": request.mode, "batch_size": request.batch_size}
    return facts


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
