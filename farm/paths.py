# SPDX-License-Identifier: Apache-2.0
"""Names from outside on their way to a path. The alphabets are in `farm.contract.names`; this says where a path leads.

Who takes names from outside: sweeps and ONNX files (`farm.sweep`), run, sweep and blob ids (`farm.store`), job and
device ids from Redis (`farm.broker`), files that a runner names (`workers.daemon.control`, `collect`).
"""

from __future__ import annotations

from pathlib import Path

from farm.contract.names import check_path


def inside(written: str, base: Path, *others: Path, what: str = "file") -> Path:
    """The place that `written` names, from `base` if it is relative, with links followed.

    Raises:
        ValueError: it is no plain path, or leads out of `base` and of all `others`. Never another exception: a name
            that the file system itself refuses (too long, a loop of links) is such a path, too.
    """
    # The farm's own directories may be called anything: theirs is not a name from outside.
    prefixes = [f"{root}/" for root in (base, *others)] if isinstance(written, str) else []
    known = next((prefix for prefix in prefixes if written.startswith(prefix)), "")
    check_path(written[len(known) :] if known else written, what)
    try:
        path = (base / written).resolve()
        roots = [root.resolve() for root in (base, *others)]
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{what} {written!r} cannot be followed: {error}") from error
    if not any(path.is_relative_to(root) and path != root for root in roots):
        raise ValueError(f"{what} {written!r} lies outside the directories that it may be in")
    return path
