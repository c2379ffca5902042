#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Build the checkout's wheel for the play, once for each state of the sources; print its path and its release as JSON.

The release names the directory that the hosts install it into: the version and a digest of the sources, so that what
is installed is told from what should be.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("farm", "scheduler", "workers", "pyproject.toml", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def sources() -> list[Path]:
    """The files that a wheel is made of, in an order that does not change."""
    found = [
        path for part in PARTS for path in ([ROOT / part] if (ROOT / part).is_file() else (ROOT / part).rglob("*"))
    ]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def release() -> str:
    """`VERSION-DIGEST` of the checkout."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    version = re.search(r'^__version__ = "([^"]+)"', (ROOT / "farm/__init__.py").read_text(), re.MULTILINE)
    if version is None:
        raise SystemExit("wheel: farm/__init__.py has no version")
    return f"{version[1]}-{digest.hexdigest()[:12]}"


def build(directory: Path) -> Path:
    """The wheel in `directory`; built there if it is not."""
    found = sorted(directory.glob("*.whl"))
    if found:
        return found[0]
    directory.mkdir(parents=True, exist_ok=True)
    # In a copy: setuptools leaves its working files beside the sources.
    with tempfile.TemporaryDirectory() as at:
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, Path(at) / part, ignore=LEFT_OUT)
            else:
                shutil.copy2(source, at)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), at]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"wheel: pip could not build it:\n{done.stderr}")
    return sorted(directory.glob("*.whl"))[0]


if __name__ == "__main__":
    name = release()
    sys.stdout.write(json.dumps({"release": name, "wheel": str(build(Path(sys.argv[1]) / name))}) + "\n")
