# SPDX-License-Identifier: Apache-2.0
"""Engines built several times on purpose: do builds differ, in time, in tactics, in outputs? Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from farm import identity
from farm.contract.record import Record
from farm.findings import words
from farm.findings.cells import Cell, Series, side_of
from farm.findings.model import Candidate, Evidence, Finding, Sure
from farm.findings.scene import Scene
from farm.findings.variance import Components, components

VARIANCE, OUTPUTS = "rebuild-variance", "rebuild-changes-outputs"


@dataclass(frozen=True)
class Build:
    """One engine: its measured processes in ms, and digests of what it is and what it answers (None: not recorded)."""

    name: str
    runs: tuple[str, ...]
    latencies: tuple[float, ...]
    tactics: str | None
    outputs: str | None


def rebuild_variance(scene: Scene) -> Iterator[Candidate]:
    """Time between builds against time within a build, of every series of rebuilds with processes enough to say."""
    for study, builds in studies(scene.series):
        parts = components([[math.log(value) for value in build.latencies] for build in builds])
        if parts is not None:
            yield _variance(scene, study, builds, parts)


def rebuild_changes_outputs(scene: Scene) -> Iterator[Candidate]:
    """Builds of one network that answer one input differently."""
    for study, builds in studies(scene.series):
        known = [build for build in builds if build.outputs]
        if len(known) < 2:
            continue
        outputs, tactics = _distinct(b.outputs for b in known), _distinct(b.tactics for b in known)
        sentence = (
            f"{words.point(study)}, {study.way}, on {study.place}: {len(known)} builds of one network give {outputs} "
            f"different outputs for one input{_tactics_words(known, tactics)}."
        )
        finding = Finding(
            OUTPUTS,
            _cell(study),
            sentence,
            float(outputs - 1),
            Sure.COUNTED,
            new=Evidence("builds", _runs(known), processes=len(known), device=study.identity["device"]),
            numbers={"builds": len(known), "outputs": outputs, "tactics": tactics or None},
        )
        yield Candidate(finding, outputs > 1)


def studies(series: Iterable[Series]) -> Iterator[tuple[Cell, list[Build]]]:
    """Every series of rebuilds, in order, with its builds: newest software, two builds at least."""
    for is_of, under, of in series:
        newest = identity.software(of[-1])
        by_cache: dict[str, list[Record]] = {}
        for record in of:
            if record.job.rebuild is not None and identity.software(record) == newest:
                by_cache.setdefault(record.job.rebuild.timing_cache, []).append(record)
        for cache, same in sorted(by_cache.items()):
            builds, side, device = _builds(same), side_of(same), same[-1].device
            if len(builds) > 1 and side is not None and device is not None:
                named = {**is_of, "timing_cache": cache}
                yield Cell(named, under, device.device_class, device.kind, tuple(same), side), builds


def _builds(records: Sequence[Record]) -> list[Build]:
    """Runs of one engine file are one build; where the file is not known, those of one job."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(str(record.effective.get("engine_sha256") or record.job.job_id), []).append(record)
    return [build for name, of in found.items() if (build := _build(name, of)).latencies]


def _build(name: str, records: Sequence[Record]) -> Build:
    side = side_of(records)
    values = tuple(process.value for process in side.sound) if side else ()
    tactics, outputs = (_said(records, key) for key in ("tactics_sha256", "outputs_sha256"))
    return Build(name, tuple(record.run_id for record in records), values, tactics, outputs)


def _said(records: Sequence[Record], key: str) -> str | None:
    found = (record.effective.get(key) for record in records)
    return next((str(value) for value in found if value), None)


def _variance(scene: Scene, study: Cell, builds: Sequence[Build], parts: Components) -> Candidate:
    medians = [statistics.median(build.latencies) for build in builds]
    span = max(medians) / min(medians) - 1
    sentence = (
        f"{words.point(study)}, {study.way}, on {study.place}: {len(builds)} builds of one engine take from "
        f"{min(medians):.4g} to {max(medians):.4g} ms. Between builds the standard deviation is "
        f"{words.percent(parts.between, 2)}, within a build {words.percent(parts.within, 2)}; of the variance "
        f"{words.percent(parts.icc, 0)} lies between builds [{words.percent(parts.icc_low, 0)}, "
        f"{words.percent(parts.icc_high, 0)}]{_same_tactics(builds)}."
    )
    side = Evidence(
        f"{len(builds)} builds", _runs(builds), "latency_ms", "ms", statistics.median(medians), min(medians),
        max(medians), None, parts.values, study.identity["device"], study.identity["stack"],
    )  # fmt: skip
    numbers: Mapping[str, float | int] = {
        "sigma_between": parts.between, "sigma_within": parts.within, "icc": parts.icc, "icc_low": parts.icc_low,
        "icc_high": parts.icc_high, "builds": parts.groups, "processes": parts.values, "range": span,
    }  # fmt: skip
    finding = Finding(VARIANCE, _cell(study), sentence, span, Sure.BUILDS, new=side, numbers=numbers)
    holds = span > scene.rules.threshold and parts.icc_low > 0
    return Candidate(finding, holds, parts.p_value)


def _same_tactics(builds: Sequence[Build]) -> str:
    """Whether builds with one list of tactics take the same time: their range against that of all builds."""
    groups: dict[str, list[float]] = {}
    for build in builds:
        if build.tactics:
            groups.setdefault(build.tactics, []).append(statistics.median(build.latencies))
    several = [max(of) / min(of) - 1 for of in groups.values() if len(of) > 1]
    if not several:
        return ""
    lists = "one list of tactics" if len(groups) == 1 else f"{len(groups)} lists of tactics"
    return f"; they have {lists}, and builds with the same one differ by up to {words.percent(max(several))}"


def _tactics_words(known: Sequence[Build], tactics: int) -> str:
    if not tactics:
        return "; their tactics are not recorded"
    by_tactics: dict[str, set[str]] = {}
    for build in known:
        by_tactics.setdefault(str(build.tactics), set()).add(str(build.outputs))
    same = any(len(outputs) > 1 for outputs in by_tactics.values())
    return f", by {tactics} lists of tactics" + (
        "; builds with the same tactics answer differently, too" if same else ""
    )


def _distinct(values: Iterator[str | None]) -> int:
    return len({value for value in values if value})


def _runs(builds: Sequence[Build]) -> tuple[str, ...]:
    return tuple(run for build in builds for run in build.runs)


def _cell(study: Cell) -> dict[str, str]:
    named = ("model", "batch", "device", "timing_cache")
    return {name: study.identity[name] for name in named} | {"way": study.way}
