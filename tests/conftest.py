# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: a home of its own and a real Redis-compatible server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from farm.broker.connection import connect
from farm.broker.embedded import EmbeddedBroker
from farm.settings import Settings

# No time limits: speed is measured under benchmarks/, and a busy machine must not fail a test. In CI the examples are
# always the same, so that a failure is the change's; elsewhere they are new each time, to find more.
hypothesis_settings.register_profile(
    "farm",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("farm")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own farm out of the tests."""
    for name in [name for name in os.environ if name.startswith("FARM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a farm that lives in this test's directory alone, locks included; a busy machine costs no time."""
    return Settings(home=tmp_path / "home", lock_dir=tmp_path / "locks", idle_wait_s=0, suspect_retries=0)


@pytest.fixture
def broker(settings: Settings) -> Iterator[EmbeddedBroker]:
    """A running embedded broker of `settings`."""
    server = EmbeddedBroker(settings)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(broker: EmbeddedBroker, settings: Settings) -> Iterator[redis.Redis]:
    """A connection to `broker`."""
    connection = connect(settings)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium. Missing: a skip on a person's machine, a failure in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        message = "no chromium: install Debian's chromium package to test pages"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    # The switches keep it off the network and let it run as root, as CI does.
    quiet = ("background-networking", "component-update", "sync", "gpu")
    arguments = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=arguments, timeout=60_000)
        yield running
        running.close()
