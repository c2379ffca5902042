# SPDX-License-Identifier: Apache-2.0
"""What must agree where a sweep has text encoders: the lengths of their sequences, their weights, and no images."""

from __future__ import annotations

from collections.abc import Iterator

from farm.contract.encoders import ENCODERS, POSITIONS
from farm.sweep.document import ModelEntry, SweepDocument
from farm.sweep.images import chosen_weights, data_of
from farm.sweep.problems import Problem


def sequence_problems(document: SweepDocument) -> Iterator[Problem]:
    """Everything that does not go together. Models of images have no sequence, and pass it over in a mixed sweep."""
    encoders = [(index, model) for index, model in enumerate(document.models or ()) if model.is_encoder]
    if document.sequence is not None:
        yield from _lengths(document.sequence)
        if document.models and not encoders:
            able = ", ".join(ENCODERS)
            message = f"none of the sweep's models takes tokens, and images have no sequence; these do: {able}"
            yield Problem(("sequence",), message, document.sequence)
    for index, model in encoders:
        yield from _weights(document, index, model)
        data = data_of(document)
        if data != "uniform":
            message = f"{model.name} takes tokens, and data {data} are images: give it a sweep of its own"
            yield Problem(("models", index), message, model.name)


def _lengths(lengths: list[int]) -> Iterator[Problem]:
    for index, length in enumerate(lengths):
        if length > POSITIONS:
            message = f"the encoders have positions for {POSITIONS} tokens at most"
            yield Problem(("sequence", index), message, length)
        if length in lengths[:index]:
            first = lengths.index(length)
            yield Problem(("sequence", index), f"the same length is there twice (see [{first}])", length)


def _weights(document: SweepDocument, index: int, model: ModelEntry) -> Iterator[Problem]:
    weights, loc = chosen_weights(document, model, index)
    if weights.partition(":")[0] not in ("random", "sha256"):
        message = f"{model.name} has no weights {weights}: use `random:SEED`, or a state dict by `sha256:...`"
        yield Problem(loc, message, weights)
