# SPDX-License-Identifier: Apache-2.0
"""The island, copied by content to where foreign interpreters can run it: HOME/cache/runner/SHA256/.

The digest is in every record, so results measured by different measuring code are visibly so. The bytes are read
once, when the worker starts: an upgrade under a running worker does not mix two versions.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import farm
import workers

#: The runner's exit status when its interpreter is too old to read the island.
EXIT_PYTHON_TOO_OLD = 97

_PACKAGES = ("farm/contract", "workers/runner", "workers/workflows")
_FILES = ("farm/__init__.py", "workers/__init__.py")

# Must parse on any Python, or the interpreter dies of a syntax error before it can say that it is too old.
_MAIN = f"""\
import sys

if sys.version_info < (3, 8):
    sys.stderr.write("the runner needs Python 3.8 or newer, this is %s\\n" % sys.version.split()[0])
    sys.exit({EXIT_PYTHON_TOO_OLD})

from workers.runner.main import main

raise SystemExit(main())
"""


_Stamps = dict[str, tuple[int, int, int, int]]
#: Copies that this process has read and found sound, as they were then: reading a hundred files takes a run some time.
_sound: dict[Path, _Stamps] = {}


class Bundle(NamedTuple):
    """An installed copy: `python -I PATH CONTROL_DIR` runs it."""

    path: Path
    digest: str


class Island(NamedTuple):
    """The island's files by their path in the bundle, and the SHA-256 over sorted (path, bytes)."""

    files: Mapping[str, bytes]
    digest: str

    def install(self, cache_dir: Path) -> Bundle:
        """Put the files under `cache_dir`, unless a sound copy is there; safe against others who do the same.

        Raises:
            OSError: the cache cannot be written.
        """
        target = cache_dir / "runner" / self.digest
        # Before the look: what is written meanwhile is found the next time.
        stamps = _stamps(target)
        if not stamps or _sound.get(target) != stamps:
            if _is_sound(target, self.files):
                _sound[target] = stamps
            else:
                _replace(target, self.files)
        return Bundle(target, self.digest)


def read_island() -> Island:
    """Read the island from where this farm is installed."""
    roots = {"farm": _package_dir(farm.__file__), "workers": _package_dir(workers.__file__)}
    files = {"__main__.py": _MAIN.encode()}
    for name in _FILES:
        files[name] = (roots[name.split("/")[0]].parent / name).read_bytes()
    for package in _PACKAGES:
        base = roots[package.split("/")[0]].parent
        for path in sorted((base / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[path.relative_to(base).as_posix()] = path.read_bytes()
    return Island(files, _digest(files))


def make_bundle(cache_dir: Path) -> Bundle:
    """Read the island and install it: what a one-off caller needs."""
    return read_island().install(cache_dir)


def _package_dir(module_file: str | None) -> Path:
    if module_file is None:
        raise OSError("the farm is not installed as files, so there is nothing to copy for the runner")
    return Path(module_file).resolve().parent


def _digest(files: Mapping[str, bytes]) -> str:
    hasher = hashlib.sha256()
    for name, content in sorted(files.items()):
        for part in (name.encode(), content):
            hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()


def _stamps(target: Path) -> _Stamps:
    """What changes when anybody writes to a file of the copy or puts another in its place. The kernel's own clock."""
    found: _Stamps = {}
    for folder, folders, names in os.walk(target):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                status = path.stat()
                found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def _is_sound(target: Path, files: Mapping[str, bytes]) -> bool:
    """Whether the copy holds exactly these bytes: an interrupted cleaner or a full disk may have damaged it."""
    try:
        found = {
            path.relative_to(target).as_posix(): path.read_bytes()
            for path in target.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    except OSError:
        return False
    return found == files


def _replace(target: Path, files: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        fresh.chmod(0o755)
        _move_in(fresh, target, files)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _move_in(fresh: Path, target: Path, files: Mapping[str, bytes]) -> None:
    for _ in range(10):
        try:
            fresh.rename(target)
        except OSError:
            if _is_sound(target, files):
                return
            _set_aside(target)
        else:
            return
    raise OSError(f"{target} cannot be replaced: others keep writing there")


def _set_aside(target: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
    try:
        target.rename(aside / "was")
    except FileNotFoundError:
        return
    finally:
        shutil.rmtree(aside, ignore_errors=True)
