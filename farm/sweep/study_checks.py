# SPDX-License-Identifier: Apache-2.0
"""What must agree where a sweep is a study of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from farm.contract.protocols import PROTOCOLS
from farm.sweep.problems import Problem

if TYPE_CHECKING:
    from farm.sweep.document import SweepDocument

#: Each is of measured points, and a study has none.
_APART = ("accuracy", "rebuilds", "profile", "concurrency")


def study_problems(document: SweepDocument) -> Iterator[Problem]:
    """Everything that does not go together with `study: pipeline`, or needs it."""
    if document.study is None:
        if document.pipeline is not None:
            yield Problem(("pipeline",), "says how a study is made: set `study: pipeline`, or leave it out")
        return
    for name in _APART:
        if getattr(document, name) is not None:
            message = "a study of the pipeline times no inference by itself: ask for this in a sweep of its own"
            yield Problem((name,), message)
    entry = document.protocol
    if entry is not None and entry.switch(PROTOCOLS[entry.base], "scenario") != "single":
        message = "the pipeline has one request at the device at a time: use the scenario `single`"
        yield Problem(("protocol", "scenario"), message, entry.scenario)
    for index, model in enumerate(document.models or ()):
        if model.is_encoder:
            yield Problem(("models", index), "the pipeline begins with images, and this takes tokens", model.name)
        if model.input is not None and (len(model.input) != 3 or model.input[0] != 3):
            message = "the pipeline begins with images: the input must be [3, H, W]"
            yield Problem(("models", index, "input"), message, model.input)
