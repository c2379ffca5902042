# SPDX-License-Identifier: Apache-2.0
"""One served store for the tests of a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.store_service.served import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A controller with `farm store serve` at work."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: install Debian's openssl to test the store's TLS")
    with serving(tmp_path_factory.mktemp("controller")) as made:
        yield made
