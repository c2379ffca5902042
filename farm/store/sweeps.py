# SPDX-License-Identifier: Apache-2.0
"""What was asked: one JSON document per sweep, `<sweep_id>.json`, written once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from farm.contract.names import check_name
from farm.errors import IntegrityError, UsageError
from farm.store import files
from farm.store.records import BadRecord
from farm.store.schema import Document, RecordError, decode_json, encode_json


class SweepStore:
    """The sweeps below one directory. Nothing is touched on construction; `create` makes the directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.temp = root / "tmp"

    def create(self) -> None:
        """Make the directories. `root.parent` must exist."""
        with files.store_errors("create", self.root):
            files.make_directories(self.temp, self.root.parent)

    def path(self, sweep_id: str) -> Path:
        """Where the sweep lies, or would.

        Raises:
            UsageError: `sweep_id` has characters that no sweep id has.
        """
        try:
            check_name(sweep_id, "sweep id")
        except ValueError as error:
            raise UsageError(str(error), hint="`farm status` lists sweeps.") from error
        return self.root / f"{sweep_id}.json"

    def write(self, sweep_id: str, document: Mapping[str, Any]) -> bool:
        """Store a sweep. False: the store has it already, and what is there stays.

        Raises:
            UsageError: the document is not JSON, or the id is no safe name.
            UnavailableError: the store cannot be written; nothing half-written is left.
        """
        path = self.path(sweep_id)
        try:
            data = encode_json(dict(document))
        except (ValueError, TypeError) as error:
            hint = "This is a fault of the program that made the document; please report it."
            raise UsageError(f"sweep {sweep_id} cannot be stored: {error}", hint=hint) from error
        with files.store_errors("write to", self.root), files.temp_file(self.temp) as temp:
            temp.write(data)
            files.seal(temp)
            return files.publish_new(Path(temp.name), path)

    def exists(self, sweep_id: str) -> bool:
        """Whether the store has the sweep."""
        path = self.path(sweep_id)
        with files.store_errors("read", path):
            return files.is_regular(path)

    def read(self, sweep_id: str) -> Document:
        """Return a sweep's document.

        Raises:
            UsageError: the store has no such sweep.
            IntegrityError: it cannot be read, with the reason.
        """
        if not self.exists(sweep_id):
            raise UsageError(f"the store has no sweep {sweep_id}", hint="`farm status` lists sweeps.")
        found = _load(self.path(sweep_id))
        if isinstance(found, BadRecord):
            hint = "Restore the file from a backup, or delete it and submit the sweep again."
            raise IntegrityError(f"the sweep {found.path} cannot be used: {found.problem}", hint=hint)
        return found

    def ids(self) -> list[str]:
        """The ids of all sweeps, sorted."""
        with files.store_errors("read", self.root):
            return sorted(path.stem for path in self.root.iterdir() if path.suffix == ".json")

    def iterate(self) -> Iterator[tuple[str, Document] | BadRecord]:
        """Every sweep's id and document, by id. A bad file is yielded as such and stops nothing."""
        for sweep_id in self.ids():
            path = self.root / f"{sweep_id}.json"
            found = _load(path)
            yield found if isinstance(found, BadRecord) else (sweep_id, found)

    def list(self) -> list[Document]:
        """The documents of all sweeps that can be read, by id. `Store.verify` names those that can't."""
        return [found[1] for found in self.iterate() if not isinstance(found, BadRecord)]


def _load(path: Path) -> Document | BadRecord:
    try:
        check_name(path.stem, "sweep id")
        return decode_json(path.read_bytes())
    except OSError as error:
        return BadRecord(path, error.strerror or str(error))
    except (RecordError, ValueError) as error:
        return BadRecord(path, str(error))
