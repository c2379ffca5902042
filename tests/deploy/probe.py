# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can boot a lab's hosts: one is booted."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.deploy.lab import Lab, LabError

_UNIT = """\
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/usr/bin/true
"""


def cannot_boot(directory: Path, limit_s: float = 60) -> str | None:
    """Why this machine boots no such hosts, or None. Takes a second or two.

    It boots one as the lab does, in all but its root: that is this machine's own /usr, and its PID 1 ends at once.

    Raises:
        LabError: a lab is up already.
    """
    if Path("/run/netns/fx-switch").exists():
        raise LabError(
            "a lab is up here, or left by a run that was killed: umount and `ip netns del` what is called fx-*"
        )
    root = directory / "base/root"
    for name in ("etc/systemd/system", "etc/apt", "etc/ssh", "root", "usr"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/os-release").write_text("ID=probe\n")
    (root / "etc/systemd/system/probe.service").write_text(_UNIT)
    lab = Lab(directory / "base", directory / "lab", ("try",))
    try:
        lab.lay_out()
        supervisor = lab.boot("try", "--bind-ro=/usr", "--", "--unit=probe.service")
        if supervisor.wait(limit_s) == 0:
            return None
        said = (lab.hosts["try"].directory / "console.log").read_text(errors="replace").strip()
        return f"systemd-nspawn ended with {supervisor.returncode}: {(said.splitlines() or ['it said nothing'])[-1]}"
    except LabError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"a host that ends at once was not at its end after {limit_s:g} s"
    finally:
        lab.down()
