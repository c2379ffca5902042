# SPDX-License-Identifier: Apache-2.0
"""One lab for all tests of a run, deployed once; `FARM_LAB_BASE` names a directory to keep its Debian root in."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.farm import DeployedFarm
from tests.deploy.lab import Lab, booted, missing
from tests.deploy.probe import cannot_boot


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs hosts where there can be none: here and not in a fixture, so that one line says it for all."""
    why = why_not() if item.get_closest_marker("deploy") else None
    if why:
        pytest.skip(why)


@functools.cache
def why_not() -> str | None:
    """Why nothing is deployed here, or None: told by a host that is booted. Where one can be, nothing is skipped."""
    if "FARM_TEST_DEPLOY" not in os.environ:
        return "`make test-deploy` runs this"
    if os.geteuid() != 0:
        return "hosts are not deployed here: that needs root"
    absent = [*missing(), *(name for name in ("ansible-playbook",) if shutil.which(name) is None)]
    if absent:
        pytest.fail(f"no {', '.join(absent)} here; `make test-deploy` installs them")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        why = cannot_boot(Path(directory))
    return f"hosts are not deployed here, since none can be booted: {why}" if why else None


@pytest.fixture(scope="session")
def base() -> Path:
    """The Debian root, packages and wheels that hosts are made of; made here if they are not."""
    directory = Path(os.environ.get("FARM_LAB_BASE", "~/.cache/inferfarm-lab")).expanduser()
    subprocess.run([str(Path(__file__).with_name("base.sh")), str(directory)], check=True, timeout=900)
    return directory


@pytest.fixture(scope="module")
def bare(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedFarm]:
    """Three bare Debian hosts that share nothing but a network."""
    directory = tmp_path_factory.mktemp("lab")
    with booted(Lab(base, directory, ("a", "b", "c"))) as lab:
        yield DeployedFarm(lab)


@pytest.fixture(scope="module")
def farm(bare: DeployedFarm) -> DeployedFarm:
    """A farm of the controller and one worker; a test adds the other."""
    bare.play("site.yml")
    return bare
