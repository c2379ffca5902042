# SPDX-License-Identifier: Apache-2.0
"""Some runs of a sweep by words that a person can type: `SWEEP:resnet50:pytorch:fp16:b1`. Pure."""

from __future__ import annotations

FORM = "SWEEP:MODEL:WORKFLOW:PRECISION:bN:DEVICE"


def split(name: str) -> tuple[str, frozenset[str]]:
    """The sweep, and the words behind it: none in a plain sweep's name, id or run id, which have no colon."""
    sweep, *words = name.split(":")
    return sweep, frozenset(words)


def words_of(batch_size: object, *names: object) -> set[str]:
    """The words that a run answers to: its names, `bert-base` for `bert-base@128`, and `b8`.

    It is meant if all that were typed are among them.
    """
    told = {str(name) for name in names if name is not None}
    told |= {name.partition("@")[0] for name in told}
    return told if batch_size is None else told | {f"b{batch_size}"}
