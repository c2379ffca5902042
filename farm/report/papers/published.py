# SPDX-License-Identifier: Apache-2.0
"""What the papers published, read from published.yaml: models, workflows, protocol, and every table and figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from farm.errors import UsageError

DATA = Path(__file__).with_name("published.yaml")
#: The workflow that the others are held against.
BASE = "W0"


@dataclass(frozen=True)
class Way:
    """One of a paper's workflows: its tag there (`W2`), its name there, and what runs it here, in which precision."""

    tag: str
    name: str
    workflow: str
    precision: str

    @property
    def label(self) -> str:
        """`W2 ONNX to TensorRT`."""
        return f"{self.tag} {self.name}"


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of a paper. `says` is what the paper says of it; `published` what it prints, {} for figures.

    `at` is `smallest` or `best` batch size; the other fields are empty where the kind has no use for them.
    """

    key: str
    kind: str
    title: str
    says: str = ""
    metric: str = ""
    model: str = ""
    at: str = ""
    statistic: str = ""
    published: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the paper calls it: `Table I`, `Figure 2`."""
        return self.title.partition(": ")[0]

    @property
    def heading(self) -> str:
        """The title of its table: what is in it, for a figure what it is made of."""
        if self.label.startswith("Figure"):
            return f"Values of {self.label[:1].lower()}{self.label[1:]}"
        rest = self.title.partition(": ")[2]
        return rest[:1].upper() + rest[1:]


@dataclass(frozen=True)
class Paper:
    """A paper. `ways` are its workflows in order, `protocol` its own words on how it measured."""

    key: str
    title: str
    authors: str
    hardware: Mapping[str, str]
    software: Mapping[str, str]
    protocol: Mapping[str, Any]
    models: tuple[str, ...]
    ways: tuple[Way, ...]
    exhibits: tuple[Exhibit, ...]

    @property
    def batches(self) -> tuple[int, ...]:
        """Its batch sizes, in order."""
        return tuple(self.protocol["batches"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.protocol["input_shape"])

    @property
    def evaluates(self) -> bool:
        """Whether any of its exhibits is of an accuracy."""
        return any(exhibit.kind in ("accuracy", "by_calibration") for exhibit in self.exhibits)

    @property
    def rivals(self) -> tuple[Way, ...]:
        """All workflows but the one that they are held against."""
        return tuple(way for way in self.ways if way.tag != BASE)

    def way(self, tag: str) -> Way:
        """The workflow with this tag."""
        return next(way for way in self.ways if way.tag == tag)

    @property
    def citation(self) -> str:
        """Authors and title."""
        return f"{self.authors}: {self.title}"


@cache
def papers() -> dict[str, Paper]:
    """Every paper by its key, in the order of the file."""
    document = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return {key: _paper(key, entry) for key, entry in document.items()}


def paper(key: str) -> Paper:
    """The paper of this key.

    Raises:
        UsageError: there is none; the hint lists all.
    """
    known = papers()
    if key not in known:
        listed = "; ".join(f"{name} ({of.title})" for name, of in known.items())
        raise UsageError(f"no paper {key!r}", hint=f"Known: {listed}.")
    return known[key]


def _paper(key: str, entry: Mapping[str, Any]) -> Paper:
    return Paper(
        key=key,
        title=entry["title"],
        authors=entry["authors"],
        hardware=entry["hardware"],
        software=entry["software"],
        protocol=entry["protocol"],
        models=tuple(entry["models"]),
        ways=tuple(Way(tag, **way) for tag, way in entry["workflows"].items()),
        exhibits=tuple(Exhibit(name, **of) for name, of in entry["exhibits"].items()),
    )
