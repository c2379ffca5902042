# SPDX-License-Identifier: Apache-2.0
"""The benchmarks are scripts, not a package: each is loaded from its file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.docs.tables import ROOT


@pytest.fixture
def load_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """`load_script("gpu/run.py")`: the module of a benchmark; what it does to the paths is undone."""

    def load(name: str) -> Any:
        monkeypatch.setattr(sys, "path", list(sys.path))
        spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look for their own names
        spec.loader.exec_module(module)
        return module

    return load
