# SPDX-License-Identifier: Apache-2.0
"""The files that a job pins, fetched from the store: only what a record of this farm names may reach a runner.

A pinned file may be code. So its record is read first, and a digest that it does not name for that kind of file is
refused before a byte of it is touched; then the store verifies the bytes, and the runner its key.
"""

from __future__ import annotations

import json
from pathlib import Path

from farm.contract.canonical import sha256_file
from farm.contract.job import JobSpec, Pin
from farm.contract.names import check_name, check_sha256
from farm.contract.outcome import Failure
from farm.contract.record import BlobRef
from farm.contract.run import PinnedFile
from farm.errors import IntegrityError, UsageError
from farm.store.kept import WorkerStore

_STAGE = "start"
_MANIFEST = "manifest.json"


def fetch_pins(job: JobSpec, store: WorkerStore, directory: Path) -> list[PinnedFile] | Failure:
    """Copy what the job pins to `directory`, or say why that cannot be done.

    Raises:
        UnavailableError: the store is away, or the disk does not take a file.
    """
    found = []
    for pin in job.pins:
        ref = _recorded(pin, store)
        if isinstance(ref, Failure):
            return ref
        try:
            found.append(_fetch(ref, store, directory))
        except (UsageError, IntegrityError, ValueError, KeyError, TypeError) as error:
            hint = "`farm artifacts verify` tells whether the store's copy is good."
            return Failure(_STAGE, "pin-missing", f"the pinned {pin.kind} cannot be had: {error}", hint)
    return found


def _recorded(pin: Pin, store: WorkerStore) -> BlobRef | Failure:
    """What the record that the pin names says of its file."""
    try:
        record = store.records.read(pin.run_id)
    except (UsageError, IntegrityError) as error:
        return _foreign(pin, f"its record cannot be read: {error.message}")
    refs = [ref for ref in record.artifacts if (ref.kind, ref.sha256) == (pin.kind, pin.sha256)]
    if not refs:
        return _foreign(pin, f"the record of run {pin.run_id} names no such {pin.kind}")
    ref = next((ref for ref in refs if ref.manifest), None)
    return ref or _foreign(pin, f"the record of run {pin.run_id} does not say what it was made for")


def _foreign(pin: Pin, why: str) -> Failure:
    message = f"the pinned {pin.kind} {pin.sha256} is none that this farm recorded: {why}"
    hint = "It is not loaded. Pin a file of one of this farm's own records: `farm artifacts ls` lists them."
    return Failure(_STAGE, "pin-not-recorded", message, hint)


def _fetch(ref: BlobRef, store: WorkerStore, directory: Path) -> PinnedFile:
    """The file keeps the name that it had: some libraries tell a format by it."""
    directory = directory / check_sha256(str(ref.manifest))
    directory.mkdir(parents=True, exist_ok=True)
    manifest = directory / _MANIFEST
    _copy(str(ref.manifest), store, manifest)
    name = check_name(json.loads(manifest.read_text(encoding="utf-8"))["file"], "file")
    if name == _MANIFEST:
        raise ValueError(f"it would have the name {name}")
    path = directory / name
    _copy(ref.sha256, store, path)
    return PinnedFile(ref.kind, str(path), ref.sha256, str(manifest))


def _copy(sha256: str, store: WorkerStore, path: Path) -> None:
    if not path.is_file() or sha256_file(str(path)) != sha256:
        store.blobs.get(sha256, path)
