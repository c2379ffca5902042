# SPDX-License-Identifier: Apache-2.0
"""A real store in the test's own directory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store that has been created."""
    made = Store(tmp_path / "store")
    made.create()
    return made


@pytest.fixture
def tiny_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 2 MiB, unmounted afterwards; skips where this user cannot mount one."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, timeout=30
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=120)
