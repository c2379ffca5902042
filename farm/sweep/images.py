# SPDX-License-Identifier: Apache-2.0
"""What must agree where a sweep's data are images: the accuracy asked for, the data, the weights, the inputs."""

from __future__ import annotations

from collections.abc import Iterator

from farm.contract.job import Calibration
from farm.sweep.document import ModelEntry, SweepDocument
from farm.sweep.problems import Problem
from farm.sweep.reader import Loc

#: Training images of the digits, from which calibration samples are taken.
DIGITS_TRAINING = 1437

_WEIGHTS = {
    "digits": "a top-1 on digits means nothing with weights {}: use `digits:SEED`, `sha256:...` or an ONNX file",
    "imagenet": "a top-1 on imagenet means nothing with weights {}: use `default`, `sha256:...` or an ONNX file",
}
_FITTING = {"digits": ("digits", "sha256"), "imagenet": ("default", "sha256")}


def data_of(document: SweepDocument) -> str:
    """The sweep's data: what it says, else what its accuracy is taken on, else uniform."""
    followed = document.accuracy.dataset if document.accuracy else "uniform"
    return document.data or followed


def image_problems(document: SweepDocument) -> Iterator[Problem]:
    """Everything that does not go together; `data: uniform` without accuracy has nothing to go wrong."""
    data, accuracy = data_of(document), document.accuracy
    if accuracy is not None and data != accuracy.dataset:
        message = f"accuracy is taken on {accuracy.dataset}: leave `data` out, or make it the same"
        yield Problem(("data",), message, data)
        return
    if data == "imagenet" and accuracy is None:
        message = "needs `accuracy: {dataset: imagenet, path: FOLDER}`, which says where the images are"
        yield Problem(("data",), message, data)
    if accuracy is not None:
        yield from _weights(document, accuracy.dataset)
    elif data == "digits":
        yield from _published(document)
    if data != "uniform":
        yield from _inputs(document.models or [], data)
    yield from _samples(document, data)


def _weights(document: SweepDocument, dataset: str) -> Iterator[Problem]:
    told: set[Loc] = set()
    for index, model in enumerate(document.models or ()):
        weights, loc = chosen_weights(document, model, index)
        if not model.is_file and weights.partition(":")[0] not in _FITTING[dataset] and loc not in told:
            told.add(loc)
            yield Problem(loc, _WEIGHTS[dataset].format(weights), weights)


def _published(document: SweepDocument) -> Iterator[Problem]:
    for index, model in enumerate(document.models or ()):
        weights, loc = chosen_weights(document, model, index)
        if not model.is_file and weights == "default":
            yield Problem(loc, "the published weights have 1000 classes, digits has 10: use `digits:SEED`", weights)


def chosen_weights(document: SweepDocument, model: ModelEntry, index: int) -> tuple[str, Loc]:
    """A model's weights, and the key that says so; the key to add where none does."""
    if model.weights is not None:
        return model.weights, ("models", index, "weights")
    if document.weights is not None:
        return document.weights, ("weights",)
    return "random:0", ("accuracy", "dataset")


def _inputs(models: list[ModelEntry], data: str) -> Iterator[Problem]:
    for index, model in enumerate(models):
        if model.input is not None and (len(model.input) != 3 or (data == "imagenet" and model.input[0] != 3)):
            message = f"{data} are images: an input of [C, H, W], for imagenet with three channels"
            yield Problem(("models", index, "input"), message, model.input)


def _samples(document: SweepDocument, data: str) -> Iterator[Problem]:
    entry = document.calibration
    samples = (entry.samples if entry else None) or Calibration().samples
    if data == "digits" and samples > DIGITS_TRAINING:
        yield Problem(("calibration", "samples"), f"digits has {DIGITS_TRAINING} training images", samples)
