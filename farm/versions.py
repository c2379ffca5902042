# SPDX-License-Identifier: Apache-2.0
"""Which releases of the farm work together: controller and workers may be one minor release apart. Pure.

What they share (messages, records, the store's requests) is kept readable for the release before and after. So a farm
is upgraded a machine at a time, the controller first or last.
"""

from __future__ import annotations

import re

#: How far apart, in minor releases.
REACH = 1
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})(?:[.+a-z-][0-9A-Za-z.+-]{0,64})?")


def release(version: str) -> tuple[int, int] | None:
    """`0.3.1.dev4` -> (0, 3); None for what is no version."""
    found = _VERSION.fullmatch(version)
    return (int(found[1]), int(found[2])) if found else None


def too_far_apart(controller: str, worker: str) -> str | None:
    """Why a worker of one version must not work for a controller of the other, and what to upgrade; None if it may.

    Two major releases never fit: only the minor ones within a major are known to follow each other.
    """
    ours, theirs = release(controller), release(worker)
    if ours is None or theirs is None:
        odd, whose = (controller, "controller") if ours is None else (worker, "worker")
        return f"the {whose} says that it has inferfarm {odd[:40]!r}, which is no version: install a release on it"
    if ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= REACH:
        return None
    older, wanted = ("worker", ours) if theirs < ours else ("controller", theirs)
    return (
        f"the controller has inferfarm {controller}, the worker {worker}: they may be one minor release apart, no "
        f"more. Upgrade the {older} to {wanted[0]}.{wanted[1]}"
    )
