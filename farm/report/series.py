# SPDX-License-Identifier: Apache-2.0
"""Name the rows of a report: one series is one way to run one model on one device class, told apart where needed.

Two jobs of one class, model, workflow and precision may still differ (options, calibration, protocol, device, sweep).
What differs, and only that, becomes the variant that people read beside the precision.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from farm.contract.canonical import short_digest
from farm.contract.catalogue import BASELINES, PRECISIONS, WORKFLOWS
from farm.contract.job import JobSpec, Protocol
from farm.contract.pipeline import GENERATED, PipelineSpec
from farm.contract.record import Record
from farm.identity import switches, telling, threads_text

K = TypeVar("K", bound=Hashable)

#: Facets in the order in which a variant names them. The sweep comes last: it is named only if nothing else differs.
FACETS = (
    "study", "scenario", "threads", "options", "calibration", "calibration_batch", "rebuild", "protocol", "workers",
    "images", "weights", "data", "seed", "input", "stack", "device", "sweep",
)  # fmt: skip

#: Named wherever there is one: throughput of several requests in flight, or of a whole pipeline, is another quantity.
_ALWAYS = ("study", "scenario")
#: What a sweep adds to the name of a protocol whose switches it sets.
MADE_UP = re.compile(r"-[0-9a-f]{6}$")


@dataclass(frozen=True, order=True)
class JobKey:
    """A job, or that part of it that one device ran."""

    job_id: str
    part: int

    def __str__(self) -> str:
        return f"job {self.job_id}-{self.part}"


@dataclass(frozen=True)
class Series:
    """One row of the tables, one line of the figures. `variant` is empty unless rows would share a name."""

    device_class: str
    model: str
    workflow: str
    precision: str
    variant: str = ""

    @property
    def label(self) -> str:
        """What people see: `onnxruntime_cpu int8 (entropy)`."""
        name = f"{self.workflow} {self.precision}"
        return f"{name} ({self.variant})" if self.variant else name

    @property
    def is_reference(self) -> bool:
        """Whether this is what speed-ups and mismatches are taken against."""
        return self.workflow in BASELINES and self.precision == "fp32"

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Class, model, baseline with the reference first, then workflows by name; precisions from wide to narrow."""
        rank = PRECISIONS.index(self.precision) if self.precision in PRECISIONS else len(PRECISIONS)
        order = (
            self.workflow not in BASELINES,
            self.workflow,
            not self.is_reference,
            rank,
            self.precision,
            self.variant,
        )
        return (self.device_class, model_order(self.model), order)


def model_order(label: str) -> tuple[str, int, str]:
    """By name, and encoders of one name by the length of their sequences."""
    name, _, tokens = label.partition("@")
    return (name, int(tokens) if tokens.isdecimal() else 0, label)


def reference_of(workflow: str) -> str:
    """What a workflow's speed-ups are taken against, in words: of models of TensorFlow it is TensorFlow."""
    info = WORKFLOWS.get(workflow)
    return "tensorflow fp32" if info is not None and "keras" in info.sources else "pytorch fp32"


def device_class(job: JobSpec, records: Sequence[Record] = ()) -> str:
    """The class of the device that ran `job`; for a job that reached none, what its target names."""
    for record in records:
        if record.device is not None:
            return record.device.device_class
    return job.target.device_class or str(job.target.device_id)


def device_id(record: Record) -> str:
    """The device of a record, or its target's if the job reached none, or '' if the target is a class."""
    return record.device.device_id if record.device is not None else record.job.target.device_id or ""


def facets(job: JobSpec, records: Sequence[Record]) -> dict[str, str]:
    """Every facet of a job as text; '' where it says nothing (a refused job has no stack)."""
    build = job.rebuild
    stacks = sorted({r.stack.name for r in records if r.stack is not None})
    devices = sorted({device_id(r) for r in records} - {""})
    return {
        "options": ", ".join(f"{k}={_plain(job.options[k])}" for k in sorted(job.options)),
        "calibration": job.calibration.summary if job.calibration else "",
        "calibration_batch": f"calibration batch {job.calibration.batch}" if job.calibration else "",
        "rebuild": "" if build is None else f"build {build.index + 1:02d} of {build.count}, {build.timing_cache}",
        "study": "pipeline" if job.pipeline is not None else "",
        "workers": _workers(job.pipeline) if job.pipeline is not None else "",
        "images": _images(job.pipeline) if job.pipeline is not None else "",
        "scenario": scenario(job.protocol),
        "threads": threads_text(job.protocol),
        "protocol": _protocol(job.protocol),
        "weights": f"weights {job.model.weights[:24]}",
        "data": f"data {job.data}" + (f" {job.data_path}" if job.data_path else ""),
        "seed": f"seed {job.seed}",
        "input": "x".join(str(n) for n in job.model.input_shape),
        "stack": "stack " + "+".join(stacks) if stacks else "",
        "device": "on " + "+".join(devices) if devices else "",
        "sweep": f"sweep {job.sweep_id}",
    }


def _workers(spec: PipelineSpec) -> str:
    return f"decode x{spec.decode_workers}, preprocess x{spec.preprocess_workers}, queues {spec.queue_depth}"


def _images(spec: PipelineSpec) -> str:
    if spec.images != GENERATED:
        return f"images {spec.images}"
    return f"images {spec.width}x{spec.height}, quality {spec.quality}"


def scenario(protocol: Protocol) -> str:
    """`streams 4, contexts 8`, `offline`; '' for one request in flight, which goes without saying."""
    if protocol.scenario == "single":
        return ""
    return protocol.lanes_name if protocol.scenario == "streams" else protocol.scenario


def _protocol(protocol: Protocol) -> str:
    """By name and a digest of all switches but the scenario and the threads, which are facets of their own."""
    alone = replace(
        protocol, scenario="single", streams=1, contexts=None, sessions=None, threads=None, inter_threads=None
    )
    return f"{MADE_UP.sub('', protocol.name)} {short_digest(telling(switches(alone)), 4)}"


def name_all(jobs: Mapping[JobKey, tuple[JobSpec, Sequence[Record]]]) -> dict[JobKey, Series]:
    """Give each key of `jobs` its series; distinct keys get distinct series."""
    groups: dict[Hashable, list[JobKey]] = {}
    for key in sorted(jobs):
        job, records = jobs[key]
        base = (device_class(job, records), job.model.label, job.workflow, job.precision)
        groups.setdefault(base, []).append(key)
    named: dict[JobKey, Series] = {}
    for keys in groups.values():
        told_apart = variants({key: facets(*jobs[key]) for key in keys})
        for key in keys:
            job, records = jobs[key]
            name = (device_class(job, records), job.model.label, job.workflow, job.precision)
            named[key] = Series(*name, told_apart[key])
    return named


def variants(described: Mapping[K, Mapping[str, str]]) -> dict[K, str]:
    """What tells each apart from the others, in words: the facets that differ, and only those."""
    differing = [f for f in FACETS if f in _ALWAYS or len(_values(f, described)) > 1 or _some_lack(f, described)]
    without_sweep = [f for f in differing if f != "sweep"]
    labels = _join(described, without_sweep)
    if len(set(labels.values())) < len(labels):
        labels = _join(described, differing)
    if len(set(labels.values())) < len(labels):
        labels = {key: f"{text}, {key}".lstrip(", ") for key, text in labels.items()}
    return labels


def _values(facet: str, described: Mapping[K, Mapping[str, str]]) -> set[str]:
    return {d[facet] for d in described.values()} - {""}


def _some_lack(facet: str, described: Mapping[K, Mapping[str, str]]) -> bool:
    """Options that one job has and another has not set them apart; a stack or device unknown so far does not."""
    values = {d[facet] for d in described.values()}
    return facet in ("options", "calibration", "rebuild", "threads") and "" in values and len(values) > 1


def _join(described: Mapping[K, Mapping[str, str]], names: Sequence[str]) -> dict[K, str]:
    return {key: ", ".join(d[f] for f in names if d[f]) for key, d in described.items()}


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
