# SPDX-License-Identifier: Apache-2.0
"""What a worker needs of a store, and which store it gets: a directory, or the controller's over HTTPS."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from farm.contract.record import Record
from farm.store.blobs import BlobInfo


class BlobKeeper(Protocol):
    """Files by their sha256; each method as `BlobStore` has it."""

    def exists(self, sha256: str) -> bool:
        """Whether the store has the blob."""

    def put_bytes(self, data: bytes) -> BlobInfo:
        """Keep `data`."""

    def put_file(self, path: Path) -> BlobInfo:
        """Keep a copy of a file's bytes."""

    def get(self, sha256: str, to: Path) -> None:
        """Copy a blob to a file, verified."""


class RecordKeeper(Protocol):
    """Records by their run id; each method as `RecordStore` has it."""

    def exists(self, run_id: str) -> bool:
        """Whether the run has a record."""

    def read(self, run_id: str) -> Record:
        """Return one run's record."""

    def write(self, record: Record) -> bool:
        """Store a record, once and for ever."""


class WorkerStore(Protocol):
    """A store as a worker sees it."""

    @property
    def blobs(self) -> BlobKeeper:
        """Its files."""

    @property
    def records(self) -> RecordKeeper:
        """Its records."""
