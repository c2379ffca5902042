# SPDX-License-Identifier: Apache-2.0
"""Small sweeps as text, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from farm.errors import UsageError
from farm.sweep import parse_sweep

Faults = Callable[..., list[str]]


def sweep(**keys: Any) -> dict[str, Any]:
    """A valid document, with the keys given in place of its own; None leaves a key out."""
    whole = {"name": "tiny", "models": ["resnet18"], "workflows": ["fake"], "precisions": ["fp32"]} | keys
    return {key: value for key, value in whole.items() if value is not None}


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Return the problems of a sweep given by keywords or as text; an empty list for a valid one."""

    def find(text: str | None = None, /, **keys: Any) -> list[str]:
        try:
            parse_sweep(text or yaml.safe_dump(sweep(**keys), sort_keys=False), "sweep.yaml", directory=tmp_path)
        except UsageError as error:
            assert error.exit_code == 2
            assert error.hint
            return error.problems or [error.message]
        return []

    return find
