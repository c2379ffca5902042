# SPDX-License-Identifier: Apache-2.0
"""The plays' own module, `farm_files`, called as Ansible calls it on a host."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).resolve().parents[2] / "deploy/ansible/library/farm_files.py"
ANSIBLE = shutil.which("ansible")

pytestmark = pytest.mark.skipif(ANSIBLE is None, reason="no ansible here; `make test-deploy` installs it")


def call(tmp_path: Path, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """What the module answers, with what `--diff` shows."""
    path = tmp_path / "arguments"
    more = {"_ansible_check_mode": check, "_ansible_diff": True}
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments | more}))
    python = Path(str(ANSIBLE)).with_name("python")
    done = subprocess.run([python, MODULE, path], capture_output=True, text=True, check=False, timeout=60)
    path.unlink()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_files_and_directories_are_made_once_with_their_mode(tmp_path: Path) -> None:
    above, below = tmp_path / "above", tmp_path / "above/below"
    files = [{"path": str(below / name), "content": f"{name} = 1\n"} for name in ("a", "b")]
    assert call(tmp_path, directories=[str(above), str(below)], mode="0750")["changed"]
    done = call(tmp_path, files=files, mode="0640")
    assert done["paths"] == [str(below / "a"), str(below / "b")]
    assert [(path.stat().st_mode & 0o777, path.read_text()) for path in sorted(below.iterdir())] == [
        (0o640, "a = 1\n"),
        (0o640, "b = 1\n"),
    ]
    assert (above.stat().st_mode & 0o777, below.stat().st_mode & 0o777) == (0o750, 0o750)
    (below / "b").chmod(0o600)
    done = call(tmp_path, files=files, directories=[str(below)], mode="0640")
    assert done["paths"] == [str(below), str(below / "b")]


def test_check_mode_writes_nothing_and_tells_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old\n")
    files = [{"path": str(path), "content": "new\n"}, {"path": str(tmp_path / "no/file"), "content": ""}]
    done = call(tmp_path, check=True, files=files, directories=[str(tmp_path / "no")])
    assert done["paths"] == [str(tmp_path / "no"), str(path), str(tmp_path / "no/file")]
    assert [(row["before"], row["after"]) for row in done["diff"]] == [("old\n", "new\n"), ("", "")]
    assert path.read_text() == "old\n" and not (tmp_path / "no").exists()


def test_what_is_to_be_no_more_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    paths = [str(tmp_path / name) for name in ("tree", "link", "lost", "never")]
    assert call(tmp_path, check=True, absent=paths)["paths"] == paths[:3]
    assert call(tmp_path, absent=paths)["paths"] == paths[:3]
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}


def test_what_cannot_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    done = call(tmp_path, directories=[str(path)])
    assert done["failed"] and str(path) in done["msg"]
    done = call(tmp_path, files=[{"path": str(tmp_path / "no/file"), "content": "text"}])
    assert done["failed"] and str(tmp_path / "no") in done["msg"]
