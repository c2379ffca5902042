# SPDX-License-Identifier: Apache-2.0
"""The kinds of value that a sweep's keys take: types with their ranges and names with their tables."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from farm.contract.catalogue import KERAS_MODELS, TORCHVISION_MODELS
from farm.contract.encoders import ENCODERS
from farm.contract.names import check_name
from farm.sweep.problems import custom

T = TypeVar("T")

MAX_BATCH = 65_536
#: Models that go by their names.
MODELS = (*TORCHVISION_MODELS, *ENCODERS, *KERAS_MODELS)
#: A sweep's id is its name and 13 characters more, and ids are held to 128.
MAX_NAME = 100


@dataclass(frozen=True)
class OneOf:
    """Text that must be one of the names of a table; the error shows them and the nearest."""

    names: Collection[str]
    what: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check after the type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """List the names for editors."""
        return handler(schema) | {"enum": list(self.names)}

    def _check(self, value: str) -> str:
        if value not in self.names:
            raise custom(f"there is no such {self.what}", tuple(self.names))
        return value


def _safe(value: str) -> str:
    if len(value) > MAX_NAME:
        raise custom(f"must have at most {MAX_NAME} characters")
    try:
        return check_name(value, "the name")
    except ValueError as error:
        raise custom(str(error).partition(" is not allowed: ")[2] or str(error)) from error


def _weights(value: str) -> str:
    if value == "default" or re.fullmatch(r"(random|digits):[0-9]{1,9}|sha256:[0-9a-f]{64}", value):
        return value
    raise custom("must be `default`, `random:SEED`, `digits:SEED` or `sha256:` and 64 digits of 0-9 a-f")


def ascending(sizes: list[int]) -> list[int]:
    """Refuse batch sizes that do not ascend."""
    if any(b <= a for a, b in itertools.pairwise(sizes)):
        raise custom("must ascend, each once: the ladder ends at the first size that does not fit")
    return sizes


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Name = Annotated[str, AfterValidator(_safe)]
Weights = Annotated[str, AfterValidator(_weights)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Lanes = Annotated[int, Field(ge=1, le=64)]
Threads = Annotated[int, Field(ge=1, le=4096)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Positive = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
OneOrMore = Annotated[list[T], BeforeValidator(_as_list, json_schema_input_type=Any), Field(min_length=1)]
