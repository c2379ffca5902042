# SPDX-License-Identifier: Apache-2.0
"""A sweep as the farm keeps it: everything said, nothing left to a default. Its digest is its identity."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from farm.contract.canonical import short_digest
from farm.contract.codec import to_json
from farm.contract.job import AccuracySpec, BatchLadder, Calibration, ModelSpec, Pin, Protocol
from farm.contract.pipeline import PipelineSpec
from farm.devices import Selector
from farm.errors import IntegrityError
from farm.sweep.concurrency import Concurrency, Way

#: Schema history: 1 (0.1.0): first.
SWEEP_SCHEMA = 1


@dataclass(frozen=True)
class WorkflowChoice:
    """A workflow with the options that differ from their defaults."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exclusion:
    """A combination to leave out; None stands for any."""

    model: str | None = None
    workflow: str | None = None
    precision: str | None = None

    def matches(self, model: str, workflow: str, precision: str) -> bool:
        """Whether the combination is one to leave out."""
        pairs = ((self.model, model), (self.workflow, workflow), (self.precision, precision))
        return all(wanted in (None, found) for wanted, found in pairs)


@dataclass(frozen=True)
class Rebuilds:
    """How often each engine is built anew, and with which timing cache (`Rebuild` has the meanings)."""

    count: int
    timing_cache: str = "cold"


_FIRST_SWITCHES = ("boundary", "inputs", "rtols", "atol", "threads")
#: Switches that protocols did not always have, with what a protocol without them does.
_LATER_SWITCHES = {
    switch.name: switch.default
    for switch in dataclasses.fields(Protocol)
    if switch.default is not dataclasses.MISSING and switch.name not in _FIRST_SWITCHES
}


def protocol_identity(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's JSON without later switches that do nothing, so that the ids from before there were any stay."""
    unset = {name for name, value in _LATER_SWITCHES.items() if name in protocol and protocol[name] == value}
    return {name: value for name, value in protocol.items() if name not in unset}


#: What a protocol's name ends with where switches are set otherwise: `quick-3fa9c1`.
_MADE_UP = re.compile(r"-[0-9a-f]{6}$")


def named(protocol: Protocol) -> Protocol:
    """A protocol whose switches are not those of its name, with a name that says so: `quick-3fa9c1`."""
    base = dataclasses.replace(protocol, name=_MADE_UP.sub("", protocol.name))
    return dataclasses.replace(base, name=f"{base.name}-{short_digest(protocol_identity(to_json(base)), 6)}")


class SweepSpec(BaseModel):
    """One sweep. `devices` None means every class known; `calibrations` are used for int8; `again` counts repeats.

    `rebuilds` None means: engines are built once and used again. `concurrency` are the axes of a study of requests in
    flight, whose jobs have the protocol with other switches.

    `priority` None means: 5 for a new sweep, unchanged for a known one. It is no part of the sweep's identity.

    `pins` and `stack` are those of each of its jobs, and `purpose` says what it was made for (`farm.history.purpose`).
    People's sweeps have none of the three. `profile` are the runs under a profiler that follow each point.
    With `pipeline`, each point is a study of the whole pipeline.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    protocol: Protocol
    models: tuple[ModelSpec, ...]
    workflows: tuple[WorkflowChoice, ...]
    precisions: tuple[str, ...]
    batches: BatchLadder
    devices: tuple[Selector, ...] | None = None
    calibrations: tuple[Calibration, ...] = ()
    data: str = "uniform"
    seed: int = 0
    exclude: tuple[Exclusion, ...] = ()
    priority: int | None = None
    accuracy: AccuracySpec | None = None
    again: int = 0
    rebuilds: Rebuilds | None = None
    concurrency: Concurrency | None = None
    pins: tuple[Pin, ...] = ()
    stack: str | None = None
    purpose: str = ""
    profile: tuple[str, ...] = ()
    pipeline: PipelineSpec | None = None

    _files: dict[str, Path] = PrivateAttr(default_factory=dict)
    _protocols: dict[Way, Protocol] = PrivateAttr(default_factory=dict)
    _stored_id: str | None = PrivateAttr(default=None)

    @property
    def sweep_id(self) -> str:
        """The name and twelve digits that stand for everything else but the priority."""
        return self._stored_id or f"{self.name}-{short_digest(self._identity(), 12)}"

    @property
    def onnx_files(self) -> dict[str, Path]:
        """Where the ONNX files lie here, by sha256. Empty for a sweep that came from the store."""
        return dict(self._files)

    def with_files(self, files: Mapping[str, Path]) -> Self:
        """The same sweep, knowing where its ONNX files lie."""
        copy = self.model_copy()
        copy._files = dict(files)
        return copy

    def repeated(self, again: int) -> Self:
        """The same sweep once more: with an id, and so with jobs and records, of its own."""
        copy = self.model_copy(update={"again": again})
        copy._stored_id = None
        return copy

    def protocol_for(self, way: Way | None) -> Protocol:
        """The protocol of the jobs that are run in one way of the study: one object, however many they are."""
        if way is None:
            return self.protocol
        if way not in self._protocols:
            self._protocols[way] = named(way.applied(self.protocol))
        return self._protocols[way]

    def document(self) -> dict[str, Any]:
        """What the store keeps: JSON, with the id."""
        return {"schema": SWEEP_SCHEMA, "sweep_id": self.sweep_id, **self.model_dump(mode="json")}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a stored sweep; keys that are not a sweep's own are passed over. The stored id is kept.

        Raises:
            IntegrityError: the document does not fit, or a newer farm wrote it.
        """
        if document.get("schema") != SWEEP_SCHEMA:
            raise IntegrityError(
                f"the stored sweep {document.get('sweep_id')!r} has schema {document.get('schema')!r}; "
                f"this farm knows {SWEEP_SCHEMA}",
                hint="Use the farm version that wrote it, or a newer one.",
            )
        own = {key: document[key] for key in cls.model_fields if key in document}
        try:
            spec = cls.model_validate_json(json.dumps(own))
        except (ValidationError, ValueError) as error:
            told = " ".join(str(error).split())[:300]
            raise IntegrityError(f"the stored sweep {document.get('sweep_id')!r} cannot be used: {told}") from error
        spec._stored_id = str(document["sweep_id"]) if "sweep_id" in document else None
        return spec

    def _identity(self) -> dict[str, Any]:
        content = self.model_dump(mode="json", exclude={"priority"})
        if not self.again:
            del content["again"]
        if self.accuracy is None:
            del content["accuracy"]  # sweeps without it keep the ids that they had before there was any
        for name in ("rebuilds", "concurrency", "pins", "stack", "purpose", "profile", "pipeline"):
            if not content[name]:
                del content[name]
        content["protocol"] = protocol_identity(content["protocol"])
        return content
