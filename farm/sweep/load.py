# SPDX-License-Identifier: Apache-2.0
"""Load a sweep: read, check everything, resolve. All mistakes come in one error, each with its place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from farm.errors import UsageError
from farm.sweep.checks import cross_problems
from farm.sweep.document import KEYS, REQUIRED, SweepDocument
from farm.sweep.problems import Problem, from_pydantic, real_loc, show, texts
from farm.sweep.reader import Loc, Located, read_file, read_yaml
from farm.sweep.resolve import find_files, resolve
from farm.sweep.spec import SweepSpec

_HINT = "Mend these places and try again; docs/sweeps.md explains every key."


def load_sweep(path: Path) -> SweepSpec:
    """Load a sweep's file; ONNX paths in it are taken from its directory.

    Raises:
        UsageError: the file cannot be read, or is no valid sweep; `problems` lists every mistake.
    """
    return parse_sweep(read_file(path), str(path), directory=path.parent)


def parse_sweep(text: str, source: str, *, directory: Path | None = None) -> SweepSpec:
    """Parse a sweep from YAML text. `source` names it in errors; `directory` is where relative ONNX paths begin.

    Raises:
        UsageError: it is no valid sweep; `problems` lists every mistake.
    """
    located = read_yaml(text, source)
    if located.value is None:
        raise UsageError(f"{source} is empty", hint="examples/quickstart.yaml is a sweep to start from.")
    if not isinstance(located.value, dict):
        raise UsageError(
            f"{source}: a sweep is a mapping of keys (`name: ...`), got {show(located.value)}",
            hint="examples/quickstart.yaml is a sweep to start from.",
        )
    document, bad, problems = _validate(located)
    problems += cross_problems(document, bad)
    files, missing = find_files(document.models or (), directory or Path())
    problems += missing
    if problems:
        lines = texts(problems, located, source)
        count = "one mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise UsageError(f"{source} is not a valid sweep: {count}", problems=lines, hint=_HINT)
    return resolve(document, files)


def _validate(located: Located) -> tuple[SweepDocument, set[str], list[Problem]]:
    """Check keys, types and ranges. Returns what is sound, the top-level keys that are not, and the mistakes."""
    value: dict[str, Any] = located.value
    faults = [Problem(loc, message) for loc, message in located.faults]
    faults += [Problem(loc, "has no value; leave the key out for its default") for loc in _nulls(value, ())]
    absent = [Problem((), f"the key {key!r} is missing") for key in REQUIRED if key not in value]
    bad = {str(problem.loc[0]) for problem in faults if problem.loc}
    told = {problem.loc for problem in faults}
    errors, known = _errors(value), copy.deepcopy(value)
    unknown = [each for each in errors if each["type"] == "extra_forbidden"]
    if unknown:
        # Pydantic looks no further into a part that has an unknown key; without them it does.
        for each in unknown:
            _drop(known, real_loc(each["loc"], value))
        errors = unknown + _errors(known)
    # That a part lacks what a misspelt key was meant to say is no second mistake.
    told |= {real_loc(each["loc"][:-1], value) for each in unknown} - {()}
    found = [from_pydantic(each, value, KEYS) for each in errors]
    bad |= {str(each["loc"][0]) for each in errors}
    sound = {key: part for key, part in value.items() if key not in bad}
    return SweepDocument.model_validate(sound), bad, faults + absent + [p for p in found if p.loc not in told]


def _errors(value: dict[str, Any]) -> list[ErrorDetails]:
    try:
        SweepDocument.model_validate(value)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _drop(value: Any, loc: Loc) -> None:
    for step in loc[:-1]:
        value = value[step]
    value.pop(loc[-1], None)


def _nulls(value: Any, loc: Loc) -> Iterator[Loc]:
    """The keys of mappings that have no value. `protocol.threads` may: it means the library's own choice."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner is None and (*loc, key) != ("protocol", "threads"):
                yield (*loc, key)
            yield from _nulls(inner, (*loc, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _nulls(inner, (*loc, index))
