# SPDX-License-Identifier: Apache-2.0
"""What no single key shows: duplicates, exclusions that match nothing, combinations that cannot be, too many jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from farm.contract.canonical import canonical_json
from farm.contract.catalogue import WORKFLOWS
from farm.contract.concurrency import having, switches_of
from farm.contract.job import Calibration
from farm.sweep.concurrency import Concurrency, ways
from farm.sweep.document import SweepDocument
from farm.sweep.images import data_of, image_problems
from farm.sweep.options import without_defaults
from farm.sweep.problems import Problem
from farm.sweep.reader import Loc
from farm.sweep.sequences import sequence_problems
from farm.sweep.study_checks import study_problems

MAX_JOBS = 100_000

DEFAULT_PRECISIONS = ("fp32",)

#: Axes of a study that only some workflows have, with the switch of a protocol that each sets.
_SWITCH_OF = {("contexts",): "contexts", ("sessions",): "sessions", ("threads", "inter"): "inter_threads"}

Check = Callable[[SweepDocument], Iterator[Problem]]


def cross_problems(document: SweepDocument, bad: Collection[str]) -> list[Problem]:
    """Run every check whose keys are all sound. `bad` names the top-level keys that have mistakes of their own."""
    return [problem for check, keys in _CHECKS if not set(keys) & set(bad) for problem in check(document)]


def _twice(loc: Loc, values: Sequence[Any], what: str, shown: Sequence[Any]) -> Iterator[Problem]:
    seen: dict[bytes, int] = {}
    for index, value in enumerate(values):
        first = seen.setdefault(canonical_json(value), index)
        if first != index:
            yield Problem((*loc, index), f"the same {what} is there twice (see [{first}])", shown[index])


def _models(document: SweepDocument) -> Iterator[Problem]:
    names = [model.name for model in document.models or ()]
    yield from _twice(("models",), names, "model name", names)


def _workflows(document: SweepDocument) -> Iterator[Problem]:
    entries = document.workflows or []
    said = [(entry.name, without_defaults(WORKFLOWS[entry.name], entry.options)) for entry in entries]
    yield from _twice(("workflows",), said, "workflow with the same options", [entry.name for entry in entries])


def _precisions(document: SweepDocument) -> Iterator[Problem]:
    precisions = list(document.precisions or DEFAULT_PRECISIONS)
    yield from _twice(("precisions",), precisions, "precision", precisions)
    names = [entry.name for entry in document.workflows or ()]
    able = {precision for name in names for precision in WORKFLOWS[name].precisions}
    for index, precision in enumerate(precisions):
        if names and precision not in able:
            message = f"none of the sweep's workflows ({', '.join(sorted(set(names)))}) runs it"
            yield Problem(("precisions", index), message, precision, tuple(sorted(able)))


def _calibration(document: SweepDocument) -> Iterator[Problem]:
    entry = document.calibration
    if entry is None:
        return
    if "int8" not in (document.precisions or DEFAULT_PRECISIONS):
        yield Problem(("calibration",), "only int8 is calibrated, and `precisions` has no int8")
    methods, batches = entry.method or ["minmax"], entry.batch or [Calibration().batch]
    yield from _twice(("calibration", "method"), methods, "method", methods)
    yield from _twice(("calibration", "batch"), batches, "batch", batches)
    yield from _calibration_methods(document, methods)
    if entry.percentile is not None and "percentile" not in methods:
        yield Problem(("calibration", "percentile"), "only the method `percentile` uses it", entry.percentile)
    samples = Calibration().samples if entry.samples is None else entry.samples
    if max(batches) > samples:
        yield Problem(("calibration",), f"the batch {max(batches)} is more than the samples, {samples}")


def _rebuilds(document: SweepDocument) -> Iterator[Problem]:
    entry, names = document.rebuilds, [workflow.name for workflow in document.workflows or ()]
    if entry is None or entry.is_default or not names or any(WORKFLOWS[name].rebuilds for name in names):
        return
    able = ", ".join(name for name, info in WORKFLOWS.items() if info.rebuilds)
    message = f"none of the sweep's workflows ({', '.join(sorted(set(names)))}) builds engines; these do: {able}"
    yield Problem(("rebuilds",), message)


def _concurrency(document: SweepDocument) -> Iterator[Problem]:
    """Axes that no workflow of the sweep has, a protocol that says otherwise, and no workflow that can run several."""
    entry, names = document.concurrency, sorted({workflow.name for workflow in document.workflows or ()})
    if entry is None or not names:
        return
    for loc, axis in entry.axes():
        switch = _SWITCH_OF.get(loc)
        if axis and switch and not any(switch in switches_of(WORKFLOWS[name]) for name in names):
            message = (
                f"none of the sweep's workflows ({', '.join(names)}) has it; these do: {', '.join(having(switch))}"
            )
            yield Problem(("concurrency", *loc), message, axis)
    if not any("streams" in WORKFLOWS[name].scenarios for name in names):
        able = ", ".join(name for name, info in WORKFLOWS.items() if "streams" in info.scenarios)
        message = f"none of the sweep's workflows ({', '.join(names)}) runs several requests at once; these do: {able}"
        yield Problem(("concurrency",), message)
    axes = dict(entry.axes())
    varied = {"threads": axes["threads", "intra"], "inter_threads": axes["threads", "inter"]}
    for key in ("scenario", "streams", "contexts", "sessions", *varied):
        given = None if document.protocol is None else getattr(document.protocol, key)
        if given not in (None, "streams") and varied.get(key, True):
            yield Problem(("protocol", key), "the study in `concurrency` sets it: leave one of the two out", given)


def _calibration_methods(document: SweepDocument, methods: Sequence[str]) -> Iterator[Problem]:
    """Methods that no workflow of the sweep has; where some have it, the others' jobs are refused when matched."""
    infos = [WORKFLOWS[entry.name] for entry in document.workflows or ()]
    able = {method for info in infos if "int8" in info.precisions for method in info.calibration_methods}
    for index, method in enumerate(methods):
        if able and method not in able:
            message = f"none of the sweep's workflows ({', '.join(sorted({i.name for i in infos}))}) has it"
            yield Problem(("calibration", "method", index), message, method, tuple(sorted(able)))


def _training(document: SweepDocument) -> Iterator[Problem]:
    for index, entry in enumerate(document.workflows or ()):
        if entry.options.get("mode") == "qat" and data_of(document) == "uniform":
            message = "training needs data with classes: set `data: digits` or `data: imagenet`"
            yield Problem(("workflows", index, "mode"), message, "qat")


def _excluded_names(document: SweepDocument) -> Iterator[Problem]:
    named = {
        "model": [model.name for model in document.models or ()],
        "workflow": [entry.name for entry in document.workflows or ()],
        "precision": list(document.precisions or DEFAULT_PRECISIONS),
    }
    for index, entry in enumerate(document.exclude or ()):
        for key, names in named.items():
            value = getattr(entry, key)
            if value is not None and names and value not in names:
                message = f"the sweep has no such {key}, so this would leave nothing out"
                yield Problem(("exclude", index, key), message, value, tuple(dict.fromkeys(names)))


def _something_left(document: SweepDocument) -> Iterator[Problem]:
    """A product in which every name is known: all is left out only if the exclusions cover every combination."""
    excluded = document.exclude or []
    for model in document.models or ():
        for entry in document.workflows or ():
            for precision in document.precisions or DEFAULT_PRECISIONS:
                here = {"model": model.name, "workflow": entry.name, "precision": precision}
                if not any(_covers(e.model_dump(exclude_none=True), here) for e in excluded):
                    return
    if excluded and document.models and document.workflows:
        yield Problem(("exclude",), "leaves nothing to measure")


def _covers(excluded: dict[str, str], here: dict[str, str]) -> bool:
    return all(here[key] == value for key, value in excluded.items())


def _size(document: SweepDocument) -> Iterator[Problem]:
    entry = document.calibration
    grid = len((entry and entry.method) or [1]) * len((entry and entry.batch) or [1])
    precisions = document.precisions or DEFAULT_PRECISIONS
    points = sum(grid if precision == "int8" else 1 for precision in precisions)
    builds = document.rebuilds.count if document.rebuilds else 1
    runs = sum(
        (builds if WORKFLOWS[e.name].rebuilds else 1) * _ways(document, e.name) for e in document.workflows or ()
    )
    lengths = len(document.sequence or [1])
    models = sum(lengths if model.is_encoder else 1 for model in document.models or ())
    jobs = models * runs * points * len(document.devices or [1])
    if jobs > MAX_JOBS:
        yield Problem((), f"describes {jobs} jobs, before exclusions; a sweep has at most {MAX_JOBS}")


def _ways(document: SweepDocument, workflow: str) -> int:
    entry = document.concurrency
    return 1 if entry is None else len(ways(Concurrency(*(tuple(axis) for _, axis in entry.axes())), workflow))


_CHECKS: tuple[tuple[Check, tuple[str, ...]], ...] = (
    (_models, ("models",)),
    (_workflows, ("workflows",)),
    (_precisions, ("precisions", "workflows")),
    (_calibration, ("calibration", "precisions", "workflows")),
    (image_problems, ("accuracy", "data", "weights", "models", "calibration")),
    (sequence_problems, ("sequence", "models", "weights", "data", "accuracy")),
    (_training, ("workflows", "data", "accuracy")),
    (_rebuilds, ("rebuilds", "workflows")),
    (_concurrency, ("concurrency", "workflows", "protocol")),
    (study_problems, ("study", "pipeline", "protocol", "models", "accuracy", "rebuilds", "profile", "concurrency")),
    (_excluded_names, ("exclude", "models", "workflows", "precisions")),
    (_something_left, ("exclude", "models", "workflows", "precisions")),
    (
        _size,
        ("models", "sequence", "workflows", "precisions", "calibration", "devices", "rebuilds", "concurrency"),
    ),
)
