# SPDX-License-Identifier: Apache-2.0
"""One lab for all tests of a run, deployed once; `FARM_LAB_BASE` names a directory to keep its Debian root in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.farm import STORE, DeployedFarm
from tests.deploy.lab import Lab, booted, missing


@pytest.fixture(scope="session")
def base() -> Path:
    """The Debian root, packages and wheels that hosts are made of; made here if they are not."""
    why = missing() if "FARM_TEST_DEPLOY" in os.environ else "`make test-deploy` runs this"
    if why is None and shutil.which("ansible-playbook") is None:
        why = "the plays need ansible-core (`make test-deploy` installs it)"
    if why:
        pytest.skip(why)
    directory = Path(os.environ.get("FARM_LAB_BASE", "~/.cache/inferfarm-lab")).expanduser()
    subprocess.run([str(Path(__file__).with_name("base.sh")), str(directory)], check=True, timeout=1200)
    return directory


@pytest.fixture(scope="session")
def bare(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedFarm]:
    """Three bare Debian hosts. The store is a directory that all of them see."""
    directory = tmp_path_factory.mktemp("lab")
    store = directory / "store"
    store.mkdir()
    with booted(Lab(base, directory, ("a", "b", "c"), (store, STORE))) as lab:
        yield DeployedFarm(lab)


@pytest.fixture(scope="session")
def farm(bare: DeployedFarm) -> DeployedFarm:
    """The hosts as a farm."""
    bare.play("site.yml")
    return bare
