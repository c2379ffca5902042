# SPDX-License-Identifier: Apache-2.0
"""What a stored sweep was made for: what the farm measures to settle a change is no point of any series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farm.store import Store

#: The key of a stored sweep's document. One that a person asked for has none, or an empty one.
PURPOSE = "purpose"

#: Measured to settle whether a change that a night saw is real.
CONFIRMATION = "confirmation"


def is_confirmation(document: Mapping[str, Any]) -> bool:
    """Whether a stored sweep was made to settle a change."""
    return document.get(PURPOSE) == CONFIRMATION


def confirmations(store: Store) -> frozenset[str]:
    """The ids of all sweeps that were made to settle a change."""
    if not store.sweeps.root.is_dir():
        return frozenset()
    return frozenset(str(document["sweep_id"]) for document in store.sweeps.list() if is_confirmation(document))
