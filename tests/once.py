# SPDX-License-Identifier: Apache-2.0
"""What takes long to make, made once for all processes of a test run (`pytest -n`)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`: one process at a time makes it, the others wait and find it made."""
    with path.with_name(f".{path.name}.lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def run_directory(factory: pytest.TempPathFactory) -> Path:
    """The run's temporary directory, which its processes share; each has its own below it."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(whole: Path, make: Callable[[Path], object]) -> Path:
    """Return the directory `whole`, made by `make` at the path that it is given, unless another process has."""
    with alone_at(whole):
        if not whole.is_dir():
            with tempfile.TemporaryDirectory(dir=whole.parent) as aside:
                make(Path(aside) / "made")
                (Path(aside) / "made").rename(whole)
    return whole
