# SPDX-License-Identifier: Apache-2.0
"""From what a sweep's author wrote to what it means: defaults filled in, files looked at, grids spelled out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from farm.contract.catalogue import KERAS_MODELS, WORKFLOWS
from farm.contract.encoders import DEFAULT_SEQUENCE
from farm.contract.encoders import SOURCE as ENCODER
from farm.contract.job import AccuracySpec, BatchLadder, Calibration, ModelSpec, Protocol
from farm.contract.layers import PROFILES
from farm.contract.pipeline import PipelineSpec
from farm.contract.protocols import PROTOCOLS
from farm.devices import Selector, parse_conditions
from farm.sweep import onnx_file, saved_model
from farm.sweep.checks import DEFAULT_PRECISIONS
from farm.sweep.concurrency import Concurrency
from farm.sweep.concurrency_entry import ConcurrencyEntry
from farm.sweep.document import (
    AccuracyEntry,
    BatchEntry,
    CalibrationEntry,
    DeviceEntry,
    ModelEntry,
    RebuildsEntry,
    SweepDocument,
)
from farm.sweep.images import data_of
from farm.sweep.onnx_file import ModelFile
from farm.sweep.options import without_defaults
from farm.sweep.problems import Problem
from farm.sweep.protocol_entry import ProtocolEntry
from farm.sweep.spec import Exclusion, Rebuilds, SweepSpec, WorkflowChoice, named
from farm.sweep.study import PipelineEntry

DEFAULT_PROTOCOL = "quick"

#: torchvision's own input where 224 x 224 does not run.
_INPUTS = {"inception_v3": (3, 299, 299), "keras_inception_v3": (3, 299, 299)}


_LOOKS: dict[str, Callable[[str, Path], ModelFile]] = {
    "onnx": onnx_file.look_at,
    "saved_model": saved_model.look_at,
}


def find_files(models: Sequence[ModelEntry], directory: Path) -> tuple[dict[int, ModelFile], list[Problem]]:
    """Look at the files of a sweep; return them by the model's index, and what is wrong with the others."""
    found, problems = {}, []
    for index, entry in enumerate(models):
        for key, look in _LOOKS.items():
            written = getattr(entry, key)
            if written is None:
                continue
            try:
                found[index] = look(written, directory)
            except ValueError as error:
                problems.append(Problem(("models", index, key), str(error), written))
    return found, problems


def resolve(document: SweepDocument, files: dict[int, ModelFile]) -> SweepSpec:
    """Make the spec of a document that has no mistakes."""
    weights = document.weights or "random:0"
    precisions = tuple(document.precisions or DEFAULT_PRECISIONS)
    lengths = document.sequence or [DEFAULT_SEQUENCE]
    models = [
        model
        for index, entry in enumerate(document.models or ())
        for model in _models(entry, weights, files.get(index), lengths)
    ]
    workflows = [
        WorkflowChoice(entry.name, without_defaults(WORKFLOWS[entry.name], entry.options))
        for entry in document.workflows or ()
    ]
    devices = None if document.devices is None else tuple(_selector(entry) for entry in document.devices)
    spec = SweepSpec(
        name=document.name or "",
        protocol=_protocol(document.protocol),
        models=tuple(models),
        workflows=tuple(workflows),
        precisions=precisions,
        batches=_ladder(document.batch),
        devices=devices,
        calibrations=_calibrations(document.calibration) if "int8" in precisions else (),
        data=data_of(document),
        seed=document.seed or 0,
        exclude=tuple(Exclusion(e.model, e.workflow, e.precision) for e in document.exclude or ()),
        priority=document.priority,
        accuracy=_accuracy(document.accuracy),
        rebuilds=_rebuilds(document.rebuilds),
        concurrency=_concurrency(document.concurrency),
        profile=tuple(kind for kind in PROFILES if kind in (document.profile or ())),
        pipeline=_pipeline(document),
    )
    return spec.with_files({file.sha256: file.path for file in files.values()})


def _models(entry: ModelEntry, weights: str, file: ModelFile | None, lengths: Sequence[int]) -> list[ModelSpec]:
    """One model; a text encoder once for each length of a sequence, since compilers make another one of each."""
    if not entry.is_encoder:
        return [_model(entry, weights, file)]
    chosen = _seeded(entry.weights or weights)
    return [ModelSpec(entry.name, ENCODER, (length,), chosen) for length in lengths]


def _model(entry: ModelEntry, weights: str, file: ModelFile | None) -> ModelSpec:
    if file is not None:
        # A file brings its weights: the field says which, so that two files never look alike.
        own, source = f"sha256:{file.sha256}", "onnx" if entry.onnx is not None else "saved_model"
        return ModelSpec(entry.name, source, tuple(entry.input or ()), own, file.sha256)
    shape = tuple(entry.input) if entry.input else _INPUTS.get(entry.name, (3, 224, 224))
    source = "keras" if entry.name in KERAS_MODELS else "torchvision"
    return ModelSpec(entry.name, source, shape, _seeded(entry.weights or weights))


def _seeded(weights: str) -> str:
    kind, _, seed = weights.partition(":")
    return f"{kind}:{int(seed)}" if kind in ("random", "digits") else weights


def _protocol(entry: ProtocolEntry | None) -> Protocol:
    """The named protocol, or it with other switches and a name that says so: `quick-3fa9c1`."""
    if entry is None:
        return PROTOCOLS[DEFAULT_PROTOCOL]
    base = PROTOCOLS[entry.base]
    given: dict[str, Any] = {
        key: value for key in entry.model_fields_set - {"base"} if (value := getattr(entry, key)) is not None
    }
    if given.get("inter_threads") == 1:
        del given["inter_threads"]  # one is what leaving it out means
    if "rtols" in given:
        given["rtols"] = tuple(given["rtols"])
    if "stage_limits_s" in given:
        given["stage_limits_s"] = {**base.stage_limits_s, **given["stage_limits_s"]}
    changed = dataclasses.replace(base, **given)
    return base if changed == base else named(changed)


def _ladder(entry: BatchEntry | None) -> BatchLadder:
    if entry is None:
        return BatchLadder((1,))
    if entry.until is None:
        return BatchLadder(entry.ladder())
    return BatchLadder(entry.ladder(), tuple(sorted(set(entry.until))))


def _selector(entry: DeviceEntry) -> Selector:
    conditions = [c for fact in sorted(entry.facts) for c in parse_conditions(fact, entry.facts[fact])]
    return Selector(entry.id, entry.device_class, entry.kind, tuple(conditions))


def _accuracy(entry: AccuracyEntry | None) -> AccuracySpec | None:
    if entry is None:
        return None
    path = None if entry.path is None else os.path.normpath(entry.path)
    return AccuracySpec(entry.dataset, path, entry.limit)


def _pipeline(document: SweepDocument) -> PipelineSpec | None:
    return None if document.study is None else (document.pipeline or PipelineEntry()).spec()


def _rebuilds(entry: RebuildsEntry | None) -> Rebuilds | None:
    if entry is None or entry.is_default:
        return None
    return Rebuilds(entry.count, entry.timing_cache or "cold")


def _concurrency(entry: ConcurrencyEntry | None) -> Concurrency | None:
    return None if entry is None else Concurrency(*(tuple(axis) for _, axis in entry.axes()))


def _calibrations(entry: CalibrationEntry | None) -> tuple[Calibration, ...]:
    """Every method with every batch; the percentile stands only where it is used."""
    usual = Calibration()
    if entry is None:
        return (usual,)
    samples = entry.samples or usual.samples
    percentile = entry.percentile or usual.percentile
    return tuple(
        Calibration(method, samples, batch, percentile if method == "percentile" else usual.percentile)
        for method in entry.method or [usual.method]
        for batch in entry.batch or [usual.batch]
    )
