# SPDX-License-Identifier: Apache-2.0
"""What a job is, kept small: of 100,000 jobs of a sweep most is the same, so Redis keeps that once.

`farm:spec:<id>` of a job as it was submitted is `@SHARED CASE TARGET`: the names of two parts, each the inside of a
JSON object, which are fields of `farm:sweep:<id>`, and where the job is to run. The scripts' `content` puts the text
together (farm.broker.scripts). A text that begins with `{` is a whole job, as a retry leaves it and earlier versions
wrote it. A part is named by its digest, so what a name stands for never changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from farm.contract.codec import from_json, to_json
from farm.contract.job import JobSpec, Target
from farm.contract.names import check_name

#: What a job is of a sweep's; the rest, less its id and its target, is the same for all of them.
_CASE = ("model", "workflow", "precision", "options", "calibration", "rebuild")
_SHARED = tuple(f.name for f in fields(JobSpec) if f.name not in (*_CASE, "job_id", "target"))
_PART = "part:"
#: Parts that a reader remembers at most: a scheduler that works for months sees those of all sweeps.
MOST_PARTS = 20_000


@dataclass(frozen=True)
class Packed:
    """Jobs as they are kept: a text for each, and the parts that these name."""

    texts: tuple[str, ...]
    parts: dict[str, str]


class Packer:
    """Packs jobs. Remembers what it has turned into text: the jobs of a sweep share their objects."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[str, list[Any]]] = {}
        self._parts: dict[str, str] = {}

    def pack(self, jobs: Sequence[JobSpec]) -> Packed:
        """The texts of these jobs, in their order, with all parts seen so far."""
        texts = [f"@{self._part(job, _SHARED)} {self._part(job, _CASE)} {job.target.key}" for job in jobs]
        return Packed(tuple(texts), self._parts)

    def _part(self, job: JobSpec, names: Sequence[str]) -> str:
        values = [getattr(job, name) for name in names]
        key = (len(names), *map(id, values))
        if key not in self._known:
            text = dump({name: to_json(value) for name, value in zip(names, values, strict=True)})[1:-1]
            ref = hashlib.sha256(text.encode()).hexdigest()[:16]
            self._parts[ref] = text
            # The values are kept, so that nothing else can get their identity.
            self._known[key] = ref, values
        return self._known[key][0]


def part_field(ref: str) -> str:
    """The field of a sweep's hash that holds a part."""
    return _PART + ref


def refs_of(text: str) -> tuple[str, ...]:
    """The parts that a job's text names; none where it is whole."""
    return tuple(text[1:].split(" ", 2)[:2]) if text.startswith("@") else ()


class Reader:
    """Turns what is kept into jobs. `parts` it was given stay known until `trim`: few, however many the jobs."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self._jobs: dict[tuple[str, ...], JobSpec] = {}

    def trim(self) -> None:
        """Forget everything once it is too much; it is read again when it is named."""
        if len(self.parts) > MOST_PARTS:
            self.parts.clear()
            self._jobs.clear()

    def read(self, job_id: str, text: str) -> JobSpec:
        """The job.

        Raises:
            ValueError: the text is no job, or another one; a part of it is missing.
        """
        refs = refs_of(text)
        if not refs:
            return whole(job_id, text)
        kind, _, name = text.rpartition(" ")[2].partition(":")
        check_name(name, "target")
        check_name(job_id, "job id")
        target = Target(device_id=name) if kind == "dev" else Target(device_class=name)
        if refs not in self._jobs:
            missing = [ref for ref in refs if ref not in self.parts]
            if missing or len(refs) != 2:
                raise ValueError(
                    f"of what is kept for job {job_id} the parts {', '.join(missing) or text!r} are missing"
                )
            inside = ",".join(self.parts[ref] for ref in refs)
            own = dump({"job_id": job_id, "target": to_json(target)})[1:]
            self._jobs[refs] = whole(job_id, f"{{{inside},{own}")
        return replace(self._jobs[refs], job_id=job_id, target=target)


def whole(job_id: str, text: str) -> JobSpec:
    """A job from its JSON.

    Raises:
        ValueError: it is no job, or not the one named.
    """
    try:
        job = from_json(JobSpec, json.loads(text))
    except RecursionError as error:
        raise ValueError(f"what is kept for job {job_id} is nested too deep") from error
    for name, what in ((job.job_id, "job id"), (job.sweep_id, "sweep id"), (job.target.key[4:], "target")):
        check_name(name, what)
    if job.job_id != job_id:
        raise ValueError(f"what is kept for job {job_id} is job {job.job_id}")
    return job


def dump(value: Any) -> str:
    """Compact JSON, without NaN."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
