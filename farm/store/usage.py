# SPDX-License-Identifier: Apache-2.0
"""What takes up a store's space: records and documents by area, blobs by what they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farm.contract.record import Record
from farm.store import files
from farm.store.store import Store

#: Blobs that no record names: models of sweeps, late results, what waits for a collection.
UNNAMED = "(no record)"


@dataclass(frozen=True)
class Use:
    """Files of one kind: `what` is an area (`records`), or `blobs: KIND`."""

    what: str
    files: int
    size_bytes: int


def store_use(store: Store) -> list[Use]:
    """What there is, the largest first. A record is counted once, although it has two names; so is a blob.

    Raises:
        UnavailableError: the store cannot be read.
    """
    with files.store_errors("read", store.root):
        areas = [_area(path) for path in sorted(store.root.iterdir()) if path.is_dir() and path != store.blobs.root]
        found = [*areas, *_blobs(store)]
    return sorted((use for use in found if use.files), key=lambda use: (-use.size_bytes, use.what))


def _area(root: Path) -> Use:
    sizes = dict(_sizes(root))
    return Use(root.name, len(sizes), sum(sizes.values()))


def _sizes(root: Path) -> Iterator[tuple[int, int]]:
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                status = (Path(directory) / name).lstat()
            except FileNotFoundError:
                continue  # a temporary file whose writer is done
            yield status.st_ino, status.st_size


def _blobs(store: Store) -> list[Use]:
    kinds: dict[str, str] = {}
    for record in store.records.iterate():
        if isinstance(record, Record):
            for ref in (*record.samples, *record.artifacts):
                kinds.setdefault(ref.sha256, ref.kind.partition(":")[0])
                if ref.manifest:
                    kinds.setdefault(ref.manifest, "manifest")
    counts: dict[str, list[int]] = {}
    for info in store.blobs.list():
        total = counts.setdefault(kinds.get(info.sha256, UNNAMED), [0, 0])
        total[0] += 1
        total[1] += info.size_bytes
    return [Use(f"blobs: {kind}", count, size) for kind, (count, size) in counts.items()]
