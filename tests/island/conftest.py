# SPDX-License-Identifier: Apache-2.0
"""The island in the interpreters it must run in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.island.harness import FOREIGN_VERSIONS, Island, require_python, stage_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The island alone, copied to where nothing else is importable."""
    return stage_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(params=FOREIGN_VERSIONS)
def foreign_python(request: pytest.FixtureRequest) -> Path:
    """Each foreign interpreter in turn; none of them has a single package."""
    return require_python(request.param)


@pytest.fixture
def island(bundle: Path, foreign_python: Path, tmp_path: Path) -> Island:
    """The staged island with a cache of its own, in each foreign interpreter."""
    return Island(bundle, tmp_path, foreign_python)
