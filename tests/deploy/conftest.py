# SPDX-License-Identifier: Apache-2.0
"""One lab for all tests of a run, deployed once; `FARM_LAB_BASE` names a directory to keep its Debian root in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.farm import DeployedFarm
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
    """Three bare Debian hosts that share nothing but a network."""
    directory = tmp_path_factory.mktemp("lab")
    with booted(Lab(base, directory, ("a", "b", "c"))) as lab:
        yield DeployedFarm(lab)


@pytest.fixture(scope="session")
def farm(bare: DeployedFarm) -> DeployedFarm:
    """A farm of the controller and one worker; a test adds the other."""
    bare.play("site.yml")
    return bare
