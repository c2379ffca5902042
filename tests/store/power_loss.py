# SPDX-License-Identifier: Apache-2.0
"""Power loss between any two file operations: what a disk may hold then, as directories to look into.

`Disk` watches a directory while something writes to it. Before each operation that changes names or flushes, it notes
what would be left if the power went now, in each of these ways:
    killed      every operation took place: the process died, the kernel lived
    flushed     only what was flushed took place: contents by fsync of the file, names by fsync of their directory
    empty       every name is there, and files that were not flushed are empty: names went to the disk first
    torn        the same, and such files hold the first half of what was written
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WAYS = ("killed", "flushed", "empty", "torn")
_OPERATIONS = ("link", "rename", "replace", "unlink", "mkdir", "rmdir", "fsync", "utime")


@dataclass(frozen=True)
class Image:
    """What the disk holds if the power goes before operation `before`, in one of the `WAYS`: None is a directory."""

    way: str
    before: str
    entries: dict[str, bytes | None]
    finished: bool = False

    def restore(self, to: Path) -> Path:
        """Make it real."""
        to.mkdir(parents=True)
        for name, content in sorted(self.entries.items()):
            if content is None:
                (to / name).mkdir(parents=True, exist_ok=True)
            else:
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                (to / name).write_bytes(content)
        return to


class Disk:
    """The file system below `root`: what it shows, and what of that is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[int, dict[str, int]] = {}
        self._contents: dict[int, bytes] = {}
        self._directories: set[int] = set()
        self.images: list[Image] = []
        for path in [root, *root.rglob("*")]:
            self._flush(path)

    def watch(self, monkeypatch: pytest.MonkeyPatch, write: Callable[[], Any]) -> list[Image]:
        """Run `write` and return an image of each way for the moment before each operation, and for its end."""
        with monkeypatch.context() as patched:
            for name in _OPERATIONS:
                patched.setattr(os, name, self._wrapped(name, getattr(os, name)))
            write()
        self._note("its end", finished=True)
        return self.images

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            self._note(f"{name}{args}")
            result = real(*args, **keywords)
            if name == "fsync":
                self._flush(Path(f"/proc/self/fd/{args[0]}").readlink())
            return result

        return call

    def _flush(self, path: Path) -> None:
        number = path.lstat().st_ino
        if path.is_dir():
            self._names[number] = {entry.name: entry.lstat().st_ino for entry in path.iterdir()}
            self._directories |= {number} | {entry.lstat().st_ino for entry in path.iterdir() if entry.is_dir()}
        else:
            self._contents[number] = path.read_bytes()

    def _note(self, before: str, *, finished: bool = False) -> None:
        for way in WAYS:
            entries = dict(self._flushed(self._root.lstat().st_ino, "") if way == "flushed" else self._shown(way))
            self.images.append(Image(way, before, entries, finished))

    def _flushed(self, directory: int, place: str) -> Iterator[tuple[str, bytes | None]]:
        for name, number in self._names.get(directory, {}).items():
            if number in self._directories:
                yield place + name, None
                yield from self._flushed(number, f"{place}{name}/")
            else:
                yield place + name, self._contents.get(number, b"")

    def _shown(self, way: str) -> Iterator[tuple[str, bytes | None]]:
        for path in self._root.rglob("*"):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                yield str(path.relative_to(self._root)), None
                continue
            written = path.read_bytes()
            if way != "killed" and self._contents.get(status.st_ino) != written:
                written = b"" if way == "empty" else written[: len(written) // 2]
            yield str(path.relative_to(self._root)), written
