# SPDX-License-Identifier: Apache-2.0
"""A mistake in a sweep, with its place, the value, what is allowed and the nearest known name; as one line of text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, ValidationError

from farm.sweep.reader import Loc, Located

NOT_GIVEN = object()

#: Longer lists of allowed names are counted, not shown.
_SHOWN = 16
_CUSTOM = "sweep"

_PLAIN = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must hold at least {min_length} of them",
    "too_long": "must hold at most {max_length} of them",
    "extra_forbidden": "unknown key",
}


_NAMED = {"ModelEntry", "WorkflowEntry", "DeviceEntry", "ProtocolEntry"}


@dataclass(frozen=True)
class Problem:
    """One mistake. `loc` is its path in the document; `got` is what is there, unless there is nothing."""

    loc: Loc
    message: str
    got: Any = NOT_GIVEN
    allowed: tuple[str, ...] = ()

    def text(self, source: str, line: int | None) -> str:
        """`sweep.yaml: $.batch.stop (line 7): must be ... (got 0; allowed: ...; did you mean 'x'?)`."""
        where = path_text(self.loc) + (f" (line {line})" if line else "")
        notes = [] if self.got is NOT_GIVEN else [f"got {show(self.got)}"]
        if self.allowed:
            few = len(self.allowed) <= _SHOWN
            notes.append("allowed: " + (", ".join(self.allowed) if few else f"{len(self.allowed)} names"))
        near = nearest(self.got, self.allowed)
        if near:
            notes.append(f"did you mean {near!r}?")
        return f"{source}: {where}: {self.message}" + (f" ({'; '.join(notes)})" if notes else "")


def path_text(loc: Loc) -> str:
    """`("models", 0, "name")` as `$.models[0].name`."""
    parts = []
    for step in loc:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(f".{step}" if re.fullmatch(r"\w{1,60}", step) else f"[{show(step)}]")
    return "$" + "".join(parts)


def show(value: Any, limit: int = 60) -> str:
    """A value as it may be printed on one line: shortened, nothing unprintable."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest(value: Any, names: Sequence[str]) -> str | None:
    """The known name that `value` is most likely a misspelling of."""
    if not isinstance(value, str) or len(value) > 100:
        return None
    found = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.6)
    return found[0] if found else None


def custom(message: str, allowed: Sequence[str] = ()) -> PydanticCustomError:
    """An error to raise inside a pydantic validator."""
    return PydanticCustomError(_CUSTOM, "{message}", {"message": message, "allowed": tuple(allowed)})


def several(problems: Sequence[Problem]) -> ValidationError:
    """Errors to raise together inside a pydantic validator; their paths start at the validated value."""
    lines = [InitErrorDetails(type=custom(p.message, p.allowed), loc=p.loc, input=p.got) for p in problems]
    return ValidationError.from_exception_data("sweep", lines)


def from_pydantic(error: ErrorDetails, document: Any, keys: Mapping[Loc, Sequence[str]]) -> Problem:
    """Turn pydantic's words into ours. `keys` gives the keys allowed at a path (list indices as 0)."""
    kind, context = error["type"], error.get("ctx") or {}
    loc = real_loc(error["loc"], document)
    if kind == _CUSTOM:
        return Problem(loc, context["message"], error["input"], context["allowed"])
    if kind == "missing":
        return Problem(loc, f"the key {show(error['loc'][-1])} is missing")
    if kind == "extra_forbidden":
        place = tuple(0 if isinstance(step, int) else step for step in error["loc"][:-1])
        return Problem((*loc[:-1], str(error["loc"][-1])), "unknown key", str(error["loc"][-1]), tuple(keys[place]))
    words = "must be a name or a mapping" if context.get("class_name") in _NAMED else _PLAIN.get(kind)
    message = words.format(**context) if words else error["msg"][:1].lower() + error["msg"][1:]
    return Problem(loc, message, error["input"])


def real_loc(loc: Sequence[str | int], document: Any) -> Loc:
    """Drop the steps that are not in the document: a shorthand (`models: [resnet18]`) has fewer than its long form."""
    here, out = document, []
    for step in loc:
        if isinstance(here, dict) and step in here:
            here = here[str(step)]
        elif isinstance(here, list) and isinstance(step, int) and 0 <= step < len(here):
            here = here[step]
        else:
            continue
        out.append(step)
    return tuple(out)


def texts(problems: Sequence[Problem], located: Located, source: str) -> list[str]:
    """All problems as text, each once, in the order of the file."""
    lined = [(located.line(problem.loc), problem) for problem in problems]
    ordered = sorted(lined, key=lambda pair: (pair[0] or 0, path_text(pair[1].loc), pair[1].message))
    return list(dict.fromkeys(problem.text(source, line) for line, problem in ordered))
