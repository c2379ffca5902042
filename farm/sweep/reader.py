# SPDX-License-Identifier: Apache-2.0
"""YAML text -> plain values and the line each came from. Safe and bounded: no tags, no code, no alias bombs.

Scalars are YAML 1.2's: `no` is text, `1:30` is text, `1e-3` is a number. PyYAML's own resolver is that of YAML 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from farm.errors import UsageError

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000
MAX_DEPTH = 20

Loc = tuple[str | int, ...]

_HINT = "See docs/sweeps.md and examples/quickstart.yaml."
# The C parser says an empty text where the Python one says None.
_PLAIN = (None, "")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {w: True for w in ("true", "True", "TRUE")} | {w: False for w in ("false", "False", "FALSE")}
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass
class Located:
    """A document's value, the line (from 1) of each path in it, and the faults that still let it be read."""

    value: Any
    lines: dict[Loc, int] = field(default_factory=dict)
    faults: list[tuple[Loc, str]] = field(default_factory=list)

    def line(self, loc: Loc) -> int | None:
        """The line of `loc`, or of the nearest thing around it that has one."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc)


def read_file(path: Path) -> str:
    """Read a sweep's file.

    Raises:
        UsageError: it is not there, not a file, not readable, too large, or not UTF-8.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a directory, not a sweep file", hint="Name the YAML file in it.")
        if not path.is_file():
            raise UsageError(f"{path}: no such file", hint="Check the path; examples/quickstart.yaml is a sweep.")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="Check the path and its permissions.") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES} bytes: too large for a sweep", hint=_HINT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line}: not UTF-8 text", hint="Save the file as UTF-8.") from error


def read_yaml(text: str, source: str) -> Located:
    """Parse one YAML document.

    Raises:
        UsageError: not YAML, empty, several documents, or beyond the limits; the message has the line.
    """
    try:
        if len(text.encode("utf-8")) > MAX_BYTES:
            raise UsageError(f"{source} is larger than {MAX_BYTES} bytes: too large for a sweep", hint=_HINT)
        return _Builder(source, yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        raise UsageError(_syntax(error, text, source), hint=_HINT) from error
    except (yaml.YAMLError, UnicodeError) as error:
        what = " ".join(str(error).split())
        raise UsageError(f"{source}: characters that YAML does not allow: {what}", hint=_HINT) from error


def _syntax(error: yaml.MarkedYAMLError, text: str, source: str) -> str:
    line = error.problem_mark.line if error.problem_mark else 0
    lines = text.splitlines()
    written = lines[line] if line < len(lines) else ""
    indent = written[: len(written) - len(written.lstrip())]
    if "\t" in indent:
        return f"{source}: line {line + 1}: a tab in the indentation; YAML allows spaces only"
    told = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{source}: line {line + 1}: not valid YAML: {told or 'cannot be parsed'}"


class _Builder:
    """Builds values from the parser's events, so that nothing is expanded or constructed before it is counted."""

    def __init__(self, source: str, events: Iterator[Any]) -> None:
        self._source = source
        self._events = events
        # What each anchor stands for, how many values that is, and how deep.
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        self._count = 0
        self._deepest = 0
        self._out = Located(None)

    def document(self) -> Located:
        """The one document of the stream."""
        self._next(yaml.StreamStartEvent)
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            raise UsageError(f"{self._source} is empty", hint=_HINT)
        self._out.value = self._node(next(self._events), (), 0)
        self._next(yaml.DocumentEndEvent)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._stop(after, "a second document; a sweep is one document")
        return self._out

    def _next(self, kind: type) -> None:
        event = next(self._events)
        if not isinstance(event, kind):
            raise self._stop(event, "not one YAML document")

    def _node(self, event: Any, loc: Loc, depth: int) -> Any:
        self._out.lines.setdefault(loc, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._grow(event, 1, depth)
        if event.tag not in (None, "!"):
            raise self._stop(event, f"the tag {event.tag[:60]!r}: tags are not allowed")
        before, outside, self._deepest = self._count, self._deepest, depth
        value = self._value(event, loc, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._count - before + 1, self._deepest - depth)
        self._deepest = max(outside, self._deepest)
        return value

    def _value(self, event: Any, loc: Loc, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return resolve_scalar(event.value) if event.implicit[0] and event.style in _PLAIN else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(loc, depth)
        return self._mapping(loc, depth)

    def _sequence(self, loc: Loc, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._node(event, (*loc, len(values)), depth + 1))
        return values

    def _mapping(self, loc: Loc, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            inside = (*loc, key)
            if key in values:
                line = event.start_mark.line + 1
                self._out.faults.append(
                    (inside, f"the key is there twice (lines {self._out.lines[inside]} and {line})")
                )
                # Its values must be read to get past them; what they are is of no interest.
                self._node(next(self._events), (*inside, "#again"), depth + 1)
                continue
            self._out.lines[inside] = event.start_mark.line + 1
            values[key] = self._node(next(self._events), inside, depth + 1)
        return values

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._stop(event, "a key that is not plain text")
        self._grow(event, 1, 0)
        if event.value == "<<" and event.style in _PLAIN:
            raise self._stop(event, "merge keys (<<) are not supported; write the keys out")
        if event.anchor is not None:
            self._anchors[event.anchor] = (event.value, 1, 0)
        return str(event.value)

    def _alias(self, event: Any, depth: int) -> Any:
        if event.anchor not in self._anchors:
            raise self._stop(event, f"*{event.anchor[:60]} refers to nothing before it, or to itself")
        value, size, height = self._anchors[event.anchor]
        self._grow(event, size, depth + height)
        return value

    def _grow(self, event: Any, size: int, depth: int) -> None:
        self._count += size
        self._deepest = max(self._deepest, depth)
        if depth > MAX_DEPTH:
            raise self._stop(event, f"nested more than {MAX_DEPTH} deep")
        if self._count > MAX_VALUES:
            raise self._stop(event, f"more than {MAX_VALUES} values (an alias counts as all that it stands for)")

    def _stop(self, event: Any, what: str) -> UsageError:
        return UsageError(f"{self._source}: line {event.start_mark.line + 1}: {what}", hint=_HINT)


def resolve_scalar(text: str) -> Any:
    """What an unquoted scalar means, by YAML 1.2's core schema without octal and hexadecimal numbers."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL.fullmatch(text)
    if special:
        return float("nan") if special[3] else float(special[1] + "inf")
    return text
