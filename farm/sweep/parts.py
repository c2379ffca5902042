# SPDX-License-Identifier: Apache-2.0
"""What the mappings of a sweep have in common, in their long form and in a shorter one."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Part(BaseModel):
    """A mapping in a sweep: no unknown keys, no conversions."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Shorthand(Part):
    """A part that may be written shorter. `short_schema` is the JSON schema of the short form."""

    @classmethod
    def short_schema(cls) -> JsonSchemaValue:
        """What the short form may be."""
        return {"type": "string"}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Allow both forms in an editor."""
        return {"anyOf": [cls.short_schema(), handler(core_schema)]}
