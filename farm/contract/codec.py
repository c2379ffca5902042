# SPDX-License-Identifier: Apache-2.0
"""Strict dataclass <-> JSON. Decoding collects every error with its path, like `missing key @ $.model.name`."""

import dataclasses
import enum
import functools
import types
import typing
from typing import Any, Dict, List, Type, TypeVar

T = TypeVar("T")

#: The type of `float | None`, from Python 3.10 on.
_UNION = getattr(types, "UnionType", ())


class DecodeError(ValueError):
    """A document does not fit its type. `errors` lists every fault as `message @ path`."""

    def __init__(self, errors: List[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


def to_json(value: Any) -> Any:
    """Turn dataclasses, enums and tuples into what `json.dumps` takes. `None` fields are kept: null is information."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


def from_json(cls: Type[T], data: Any, path: str = "$") -> T:
    """Build a `cls` from decoded JSON, refusing unknown keys, missing keys and wrong types.

    Raises:
        DecodeError: with every fault found, each with its path.
    """
    errors: List[str] = []
    value = _decode(cls, data, path, errors)
    if errors:
        raise DecodeError(errors)
    return typing.cast(T, value)


def _decode(kind: Any, data: Any, path: str, errors: List[str]) -> Any:
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, path, errors)
    origin = getattr(kind, "__origin__", None)
    if origin is typing.Union or isinstance(kind, _UNION):
        return _decode_union(kind, data, path, errors)
    if origin in (list, tuple):
        return _decode_sequence(kind, origin, data, path, errors)
    if origin is dict:
        return _decode_dict(kind, data, path, errors)
    return _decode_scalar(kind, data, path, errors)


def _decode_dataclass(kind: Any, data: Any, path: str, errors: List[str]) -> Any:
    if not isinstance(data, dict):
        errors.append("expected an object, got {} @ {}".format(_name(data), path))
        return None
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in sorted(set(data) - set(fields), key=str):
        errors.append("unknown key {!r} @ {}".format(key, path))
    before = len(errors)
    values: Dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], path + "." + name, errors)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            errors.append("missing key {!r} @ {}".format(name, path))
    return _construct(kind, values, path, errors) if len(errors) == before else None


@functools.lru_cache(maxsize=None)
def _hints(kind: Any) -> Dict[str, Any]:
    # Resolving annotations is most of the cost of decoding a record, and they never change.
    return typing.get_type_hints(kind)


def _construct(kind: Any, values: Dict[str, Any], path: str, errors: List[str]) -> Any:
    try:
        return kind(**values)
    except ValueError as error:
        errors.append("{} @ {}".format(error, path))
        return None


def _decode_union(kind: Any, data: Any, path: str, errors: List[str]) -> Any:
    options = [a for a in kind.__args__ if a is not type(None)]
    if data is None and len(options) < len(kind.__args__):
        return None
    if len(options) == 1:
        return _decode(options[0], data, path, errors)
    for option in options:
        trial: List[str] = []
        value = _decode(option, data, path, trial)
        if not trial:
            return value
    errors.append("no allowed type fits {} @ {}".format(_name(data), path))
    return None


def _decode_sequence(kind: Any, origin: Any, data: Any, path: str, errors: List[str]) -> Any:
    if not isinstance(data, (list, tuple)):
        errors.append("expected a list, got {} @ {}".format(_name(data), path))
        return None
    item = kind.__args__[0]
    values = [_decode(item, v, "{}[{}]".format(path, i), errors) for i, v in enumerate(data)]
    return tuple(values) if origin is tuple else values


def _decode_dict(kind: Any, data: Any, path: str, errors: List[str]) -> Any:
    if not isinstance(data, dict):
        errors.append("expected an object, got {} @ {}".format(_name(data), path))
        return None
    return {str(k): _decode(kind.__args__[1], v, "{}.{}".format(path, k), errors) for k, v in data.items()}


def _decode_scalar(kind: Any, data: Any, path: str, errors: List[str]) -> Any:
    if issubclass(kind, enum.Enum):
        try:
            return kind(data)
        except ValueError:
            allowed = ", ".join(str(m.value) for m in kind)
            errors.append("{!r} is not one of {} @ {}".format(data, allowed, path))
            return None
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            errors.append("{}... is too large for a float @ {}".format(str(data)[:20], path))
            return None
    if type(data) is not kind:
        errors.append("expected {}, got {} @ {}".format(kind.__name__, _name(data), path))
        return None
    return data


def _name(data: Any) -> str:
    return "null" if data is None else "{} {!r}".format(type(data).__name__, data)[:80]
