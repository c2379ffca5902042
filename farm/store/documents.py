# SPDX-License-Identifier: Apache-2.0
"""Small JSON documents by name, `<name>.json`: nights, and decisions that people took on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from farm.contract.names import check_name
from farm.errors import IntegrityError, UsageError
from farm.store import files
from farm.store.records import BadRecord
from farm.store.schema import Document, RecordError, decode_json, encode_json


class DocumentStore:
    """The documents below one directory. Nothing is touched on construction; `create` makes the directories.

    `kind` names what they are in errors (`night`), `area` where (`nights`), `hint` says how to see which there are.
    """

    def __init__(self, root: Path, kind: str, hint: str) -> None:
        self.root = root
        self.temp = root / "tmp"
        self.kind = kind
        self.area = root.name
        self._hint = hint

    def create(self) -> None:
        """Make the directories. `root.parent` must exist."""
        with files.store_errors("create", self.root):
            files.make_directories(self.temp, self.root.parent)

    def path(self, name: str) -> Path:
        """Where the document lies, or would.

        Raises:
            UsageError: `name` is no safe name.
        """
        try:
            check_name(name, self.kind)
        except ValueError as error:
            raise UsageError(str(error), hint=self._hint) from error
        return self.root / f"{name}.json"

    def write(self, name: str, document: Mapping[str, Any], *, replace: bool = True) -> bool:
        """Store a document whole. False: there is one of this name, and it stays (`replace` is off).

        Raises:
            UsageError: the document is not JSON, or the name is no safe name.
            UnavailableError: the store cannot be written; nothing half-written is left.
        """
        path = self.path(name)
        try:
            data = encode_json(dict(document))
        except (ValueError, TypeError) as error:
            hint = "This is a fault of the program that made the document; please report it."
            raise UsageError(f"the {self.kind} {name} cannot be stored: {error}", hint=hint) from error
        with files.store_errors("write to", self.root), files.temp_file(self.temp) as temp:
            temp.write(data)
            files.seal(temp)
            if not replace:
                return files.publish_new(Path(temp.name), path)
            files.publish_over(Path(temp.name), path)
            return True

    def exists(self, name: str) -> bool:
        """Whether there is a document of this name."""
        path = self.path(name)
        with files.store_errors("read", path):
            return files.is_regular(path)

    def read(self, name: str) -> Document:
        """Return a document.

        Raises:
            UsageError: there is none of this name.
            IntegrityError: it cannot be read, with the reason.
        """
        if not self.exists(name):
            raise UsageError(f"the store has no {self.kind} {name}", hint=self._hint)
        found = _load(self.path(name))
        if isinstance(found, BadRecord):
            hint = "Restore the file from a backup, or delete it."
            raise IntegrityError(f"the {self.kind} {found.path} cannot be used: {found.problem}", hint=hint)
        return found

    def names(self) -> list[str]:
        """The names of all documents, sorted. A store from before there were any has none."""
        with files.store_errors("read", self.root):
            if self.root.parent.is_dir() and not self.root.is_dir():
                return []
            return sorted(path.stem for path in self.root.iterdir() if path.suffix == ".json")

    def iterate(self) -> Iterator[tuple[str, Document] | BadRecord]:
        """Every document with its name, by name. A bad file is yielded as such and stops nothing."""
        for name in self.names():
            found = _load(self.root / f"{name}.json")
            yield found if isinstance(found, BadRecord) else (name, found)

    def list(self) -> list[Document]:
        """All documents that can be read, by name. `Store.verify` names those that can't."""
        return [found[1] for found in self.iterate() if not isinstance(found, BadRecord)]


def _load(path: Path) -> Document | BadRecord:
    try:
        check_name(path.stem, "name")
        return decode_json(path.read_bytes())
    except OSError as error:
        return BadRecord(path, error.strerror or str(error))
    except (RecordError, ValueError) as error:
        return BadRecord(path, str(error))
