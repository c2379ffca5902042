# SPDX-License-Identifier: Apache-2.0
"""Which code made a record: gathered once, when the worker starts. Names no user."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import farm
from farm.settings import Settings
from workers.daemon.host import boot_id

_GIT_LIMIT_S = 10.0
_CODE = ("farm", "scheduler", "workers")


def provenance(settings: Settings, runner_digest: str) -> dict[str, Any]:
    """The facts that every record of this worker shares."""
    return {
        "farm_version": farm.__version__,
        **git_state(Path(farm.__file__).resolve().parent.parent),
        "runner_digest": runner_digest,
        "lock_dir": str(settings.lock_dir),
        "python": platform.python_version(),
        "celery": metadata.version("celery"),
        "redis_py": metadata.version("redis"),
        "boot_id": boot_id(),
    }


def git_state(root: Path) -> dict[str, Any]:
    """The checkout's revision and whether its code was changed since; both None where the code is no checkout."""
    if not (root / ".git").exists():
        return {"git_revision": None, "git_dirty": None}
    changes = _git(root, "status", "--porcelain", "--", *(part for part in _CODE if (root / part).is_dir()))
    return {
        "git_revision": _git(root, "rev-parse", "--verify", "HEAD") or None,
        "git_dirty": None if changes is None else bool(changes),
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
