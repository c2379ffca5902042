# SPDX-License-Identifier: Apache-2.0
"""What was asked: one JSON document per sweep, `<sweep_id>.json`, written once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.store.documents import DocumentStore


class SweepStore(DocumentStore):
    """The sweeps below one directory. Nothing is touched on construction; `create` makes the directories."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "sweep", "`farm status` lists sweeps.")

    def write(self, name: str, document: Mapping[str, Any], *, replace: bool = False) -> bool:
        """Store a sweep. False: the store has it already, and what is there stays, unless `replace`."""
        return super().write(name, document, replace=replace)

    def ids(self) -> list[str]:
        """The ids of all sweeps, sorted."""
        return self.names()
