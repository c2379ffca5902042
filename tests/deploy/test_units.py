# SPDX-License-Identifier: Apache-2.0
"""The units as systemd reads them, without a systemd that runs: their words, and how much each leaves open."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from farm.settings import Settings
from scheduler.nightly.units import unit as unit_of_nightly

UNITS = sorted((Path(__file__).resolve().parents[2] / "deploy/systemd").glob("*.service"))
#: What a service may leave open, by systemd's own measure from 0 to 10; a worker needs devices and compilers.
EXPOSURE = {"farm-worker@.service": 2.5}
#: They set up hardware as root, once at each start.
ROOTS = ("farm-nvidia-nodes.service", "farm-jetson-clocks.service")

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


@needs_analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_knows_every_word_of_a_unit(unit: Path, tmp_path: Path) -> None:
    system = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/usr/lib/systemd/system", system, symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    etc = tmp_path / "etc/systemd/system"
    etc.mkdir(parents=True)
    for path in UNITS:
        shutil.copy(path, etc)
        for program in re.findall(r"^Exec\w+=(/\S+)", path.read_text(), re.MULTILINE):
            at = tmp_path / program.lstrip("/")
            at.parent.mkdir(parents=True, exist_ok=True)
            at.touch(mode=0o755)
    name = unit.name.replace("@.", "@lab-cpu.")
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={tmp_path}", "--man=no", name],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "farm-" in line]
    assert ours == [] and done.returncode == 0, done.stderr


@needs_analyze
@pytest.mark.parametrize("unit", [u for u in UNITS if u.name not in ROOTS], ids=lambda path: path.name)
def test_a_unit_leaves_little_open(unit: Path) -> None:
    limit = EXPOSURE.get(unit.name, 3.1)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={int(limit * 10)}", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_a_stop_lets_the_running_job_end() -> None:
    worker = next(unit for unit in UNITS if unit.name == "farm-worker@.service").read_text()
    assert "KillMode=mixed\n" in worker
    assert "SendSIGKILL" not in worker


@needs_analyze
def test_the_nightlys_unit_leaves_little_open(tmp_path: Path) -> None:
    path = tmp_path / "farm-nightly.service"
    path.write_text(unit_of_nightly(Settings(home=Path("/var/lib/inferfarm")), user_unit=False, user="farm"))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=31", "--no-pager", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.splitlines()[-1:]
