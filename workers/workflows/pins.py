# SPDX-License-Identifier: Apache-2.0
"""Prepared files that a job names by their digest: taken as they were recorded, or refused, and never built anew.

The key that such a file was made for must be the one that is needed now, so that a file of another platform, another
version of a library or another model is refused with the field that differs. Two fields may differ, since they are
what such a file is for: `recipe`, how this version of the farm makes it, and `rebuild`, which of several builds it is.
"""

from typing import Any, Dict, List, Optional, Sequence

from farm.contract.run import PinnedFile
from workers.workflows.cache import CachedFile, read_manifest, verified
from workers.workflows.errors import PinRefused
from workers.workflows.keys import Difference, described, differing

_FREE = ("recipe", "rebuild")


def find_pinned(pinned: Sequence[PinnedFile], kind: str, key: Dict[str, Any]) -> Optional[CachedFile]:
    """The pinned file for a key; None where nothing of the kind is pinned.

    Raises:
        PinRefused: files of the kind are pinned, and none of them is for this key or is what was recorded.
    """
    of_kind = [pin for pin in pinned if pin.kind == kind]
    if not of_kind:
        return None
    nearest: Optional[List[Difference]] = None
    for pin in of_kind:
        manifest = _manifest(pin)
        parts = unlike(key, manifest["key"])
        if not parts:
            return _taken(pin, manifest)
        if nearest is None or len(parts) < len(nearest):
            nearest = parts
    raise PinRefused(
        "the pinned {} is for something else: {}".format(kind, described(nearest)),
        "It is not loaded. Pin a file that was made for this model, on this platform and with these versions.",
    )


def unlike(wanted: Dict[str, Any], found: Dict[str, Any]) -> List[Difference]:
    """Where two keys differ, but for what a pinned file may differ in. Pure."""
    return [part for part in differing(wanted, found) if not set(part[0].split(".")) & set(_FREE)]


def _manifest(pin: PinnedFile) -> Dict[str, Any]:
    try:
        manifest = read_manifest(pin.manifest, pin.kind)
    except (OSError, ValueError) as error:
        raise _unusable(pin, str(error)) from error
    if manifest["sha256"] != pin.sha256:
        raise _unusable(pin, "its manifest is of another file, {}".format(manifest["sha256"]))
    return manifest


def _taken(pin: PinnedFile, manifest: Dict[str, Any]) -> CachedFile:
    try:
        return verified(manifest, pin.path, pin.manifest)
    except (OSError, ValueError) as error:
        raise _unusable(pin, str(error)) from error


def _unusable(pin: PinnedFile, why: str) -> PinRefused:
    return PinRefused(
        "the pinned {} {} cannot be used: {}".format(pin.kind, pin.sha256, why),
        "It is not loaded. `farm artifacts verify` tells whether the store's copy is good.",
    )
