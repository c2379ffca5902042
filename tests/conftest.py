# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: a home of its own and a real Redis-compatible server."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
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
from tests.once import made_once, run_directory

# A thread that waits for the others of its team must not spin on a processor that they need: with more tests at a time
# than processors, training that takes 7 s took 70. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
    """Settings of a farm that lives in this test's directory alone, locks included; a busy machine costs no time.

    It makes no canaries of its own accord: a test has the jobs that it submits.
    """
    return Settings(home=tmp_path / "home", lock_dir=tmp_path / "locks", idle_wait_s=0, suspect_retries=0, canary=False)


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that `farm demo-history` writes, made once. To be read: a test that writes copies it."""
    from farm.demo import write_demo

    made = made_once(run_directory(tmp_path_factory) / "demo-store", lambda path: write_demo(path))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("demo") / "store"))


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
        running = playwright.chromium.launch(executable_path=program, args=arguments, timeout=120_000)
        yield running
        running.close()


@pytest.fixture(scope="session")
def digits_weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner's cache of weights with resnet18 at 32 x 32 trained on the digits, by the runner, half a minute.

    It is kept from one session to the next for as long as the code and the libraries that made it are the same.
    """
    pytest.importorskip("torch")
    from importlib.metadata import version

    from farm.contract.job import ModelSpec
    from tests.island.harness import ROOT, Island, model_job, stage_bundle

    hasher = hashlib.sha256((version("torch") + version("torchvision")).encode())
    for name in ("digits", "digits_recipe", "torch_models", "cache"):
        hasher.update((ROOT / f"workers/workflows/{name}.py").read_bytes())
    assert request.config.cache is not None

    def train(path: Path) -> None:
        made = tmp_path_factory.mktemp("training")
        island = Island(stage_bundle(made / "bundle"), made, Path(sys.executable))
        model = ModelSpec("resnet18", input_shape=(3, 32, 32), weights="digits:0")
        island.finish(island.start(model_job(model, "pytorch", data="digits")), timeout_s=600).ok()
        shutil.copytree(made / "cache" / "weights", path)

    return made_once(request.config.cache.mkdir("digits-weights") / hasher.hexdigest()[:16], train)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that with `-n` no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
