# SPDX-License-Identifier: Apache-2.0
"""A sweep's cases, and the jobs they become. Pure: the same sweep gives the same cases and ids, always."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from farm.contract.canonical import canonical_json
from farm.contract.catalogue import WORKFLOWS
from farm.contract.codec import to_json
from farm.contract.job import Calibration, JobSpec, ModelSpec, Rebuild, Target
from farm.sweep import SweepSpec
from farm.sweep.concurrency import Way, ways


@dataclass(frozen=True)
class Case:
    """One thing to measure, wherever: model x workflow with options x precision x calibration x build x way to run."""

    model: ModelSpec
    workflow: str
    precision: str
    options: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    rebuild: Rebuild | None = None
    way: Way | None = None

    @functools.cached_property
    def text(self) -> str:
        """Canonical JSON of what a job's id is made from: the same for all places, of which there may be hundreds."""
        said = to_json(self)
        for name in ("rebuild", "way"):
            if said[name] is None:
                del said[name]  # so that the ids of sweeps that do not speak of it stay what they were
        return canonical_json(said).decode()

    @property
    def name(self) -> str:
        """`resnet18/onnxruntime_cpu/int8`."""
        return f"{self.model.label}/{self.workflow}/{self.precision}"


def expand(spec: SweepSpec) -> list[Case]:
    """All cases of a sweep but the excluded ones: by model, then workflow, then precision, as the sweep lists them.

    A job prepares its model once for all its batch sizes, so the ladder is no axis here. A precision that a workflow
    does not have is still a case: it is refused later, with the reason on record, and not passed over in silence.
    """
    return [
        Case(model, choice.name, precision, choice.options, calibration, rebuild, way)
        for model in spec.models
        for choice in spec.workflows
        for precision in spec.precisions
        if not any(excluded.matches(model.name, choice.name, precision) for excluded in spec.exclude)
        for calibration in _calibrations(spec, precision)
        for rebuild in _rebuilds(spec, choice.name)
        for way in _ways(spec, choice.name)
    ]


def _calibrations(spec: SweepSpec, precision: str) -> Sequence[Calibration | None]:
    return spec.calibrations if precision == "int8" else (None,)


def _rebuilds(spec: SweepSpec, workflow: str) -> Sequence[Rebuild | None]:
    """One job for each build; a workflow that builds nothing has one job, whatever the sweep says."""
    wanted, info = spec.rebuilds, WORKFLOWS.get(workflow)
    if wanted is None or info is None or not info.rebuilds:
        return (None,)
    return [Rebuild(index, wanted.count, wanted.timing_cache) for index in range(wanted.count)]


def _ways(spec: SweepSpec, workflow: str) -> Sequence[Way | None]:
    return (None,) if spec.concurrency is None else ways(spec.concurrency, workflow)


def job_id(sweep_id: str, case: Case, place: str) -> str:
    """A job's id: 16 digits that stand for the sweep, the case and where it was asked to run (`cls:X` or `dev:Y`)."""
    said = f'{{"case":{case.text},"place":{_text(place)},"sweep":{_text(sweep_id)}}}'
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _text(word: str) -> str:
    return canonical_json(word).decode()


def make_job(spec: SweepSpec, case: Case, place: str, target: Target, sweep_id: str | None = None) -> JobSpec:
    """The job of a case. `place` is what was asked for; `target` may be narrower, without changing the id.

    `sweep_id` is the sweep's, from those who make many jobs: a sweep works its id out anew each time.
    """
    sweep_id = sweep_id or spec.sweep_id
    return JobSpec(
        job_id=job_id(sweep_id, case, place),
        sweep_id=sweep_id,
        sweep_name=spec.name,
        model=case.model,
        workflow=case.workflow,
        precision=case.precision,
        batches=spec.batches,
        protocol=spec.protocol_for(case.way),
        target=target,
        options=case.options,
        calibration=case.calibration,
        data=spec.data,
        seed=spec.seed,
        accuracy=spec.accuracy,
        data_path=spec.accuracy.path if spec.accuracy else None,
        rebuild=case.rebuild,
        pins=spec.pins,
        stack=spec.stack,
        profile=spec.profile,
        pipeline=spec.pipeline,
    )


def target_of(place: str) -> Target:
    """The target that a place's name stands for: the reverse of `Target.key`.

    Raises:
        ValueError: it is neither `cls:X` nor `dev:Y`.
    """
    kind, _, name = place.partition(":")
    if kind not in ("cls", "dev") or not name:
        raise ValueError(f"{place!r} is not a place: use cls:CLASS or dev:ID")
    return Target(device_class=name) if kind == "cls" else Target(device_id=name)


def jobs_at(spec: SweepSpec, places: Sequence[str], narrowed: dict[str, str]) -> Iterator[JobSpec]:
    """All jobs of a sweep at places known by name, e.g. from the store. `narrowed`: job id -> the one device for it."""
    sweep_id = spec.sweep_id
    for case in expand(spec):
        for place in places:
            device_id = narrowed.get(job_id(sweep_id, case, place))
            target = Target(device_id=device_id) if device_id else target_of(place)
            yield make_job(spec, case, place, target, sweep_id)
