# SPDX-License-Identifier: Apache-2.0
"""The plays' own module, `farm_files`, called by Ansible on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLAYS = Path(__file__).resolve().parents[2] / "deploy/ansible"

pytestmark = pytest.mark.skipif(
    shutil.which("ansible") is None, reason="no ansible here; `make test-deploy` installs it"
)


def call(tmp_path: Path, arguments: dict[str, Any], *options: str) -> dict[str, Any]:
    """What the module answers."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(PLAYS / "ansible.cfg"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
    }
    here = ["localhost", "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    words = ["ansible", *here, "-m", "farm_files", "-a", json.dumps(arguments)]
    done = subprocess.run([*words, *options], capture_output=True, text=True, env=environment, check=False, timeout=60)
    before, _, answer = done.stdout.partition("=> ")
    assert answer, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(answer)
    return told | {"failed": "FAILED" in before, "said": done.stdout}


def test_files_and_directories_are_made_once_with_their_mode(tmp_path: Path) -> None:
    above, below = tmp_path / "above", tmp_path / "above/below"
    files = [{"path": str(below / name), "content": f"{name} = 1\n"} for name in ("a", "b")]
    assert call(tmp_path, {"directories": [str(above), str(below)], "mode": "0750"})["changed"]
    done = call(tmp_path, {"files": files, "mode": "0640"})
    assert done["paths"] == [str(below / "a"), str(below / "b")]
    assert [(path.stat().st_mode & 0o777, path.read_text()) for path in sorted(below.iterdir())] == [
        (0o640, "a = 1\n"),
        (0o640, "b = 1\n"),
    ]
    assert (above.stat().st_mode & 0o777, below.stat().st_mode & 0o777) == (0o750, 0o750)
    (below / "b").chmod(0o600)
    done = call(tmp_path, {"files": files, "directories": [str(below)], "mode": "0640"})
    assert done["paths"] == [str(below), str(below / "b")]


def test_check_mode_writes_nothing_and_tells_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old\n")
    files = [{"path": str(path), "content": "new\n"}, {"path": str(tmp_path / "no/file"), "content": ""}]
    done = call(tmp_path, {"files": files, "directories": [str(tmp_path / "no")]}, "--check", "--diff")
    assert done["paths"] == [str(tmp_path / "no"), str(path), str(tmp_path / "no/file")]
    assert "\n-old\n+new\n" in done["said"]
    assert path.read_text() == "old\n" and not (tmp_path / "no").exists()


def test_what_cannot_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    done = call(tmp_path, {"directories": [str(path)]})
    assert done["failed"] and str(path) in done["msg"]
    done = call(tmp_path, {"files": [{"path": str(tmp_path / "no/file"), "content": "text"}]})
    assert done["failed"] and str(tmp_path / "no") in done["msg"]
