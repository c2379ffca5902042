# SPDX-License-Identifier: Apache-2.0
"""The island's copy: by content, whole, safe against races, refused by interpreters that are too old."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from tests.island.harness import find_python
from workers.daemon import bundle
from workers.daemon.bundle import EXIT_PYTHON_TOO_OLD, Bundle, Island, make_bundle, read_island


def test_the_copy_holds_the_island_and_nothing_of_the_rest(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert bundle.path == tmp_path / "runner" / bundle.digest
    assert re.fullmatch("[0-9a-f]{64}", bundle.digest)
    names = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*") if path.is_file()}
    assert {"__main__.py", "farm/__init__.py", "farm/contract/run.py", "workers/runner/main.py"} <= names
    assert not {name for name in names if "daemon" in name or "settings" in name or "__pycache__" in name}


def test_the_digest_is_that_of_paths_and_bytes() -> None:
    island = read_island()
    assert island.digest == read_island().digest
    from workers.daemon.bundle import _digest

    reordered = dict(reversed(list(island.files.items())))
    assert _digest(reordered) == island.digest
    assert _digest({**island.files, "farm/__init__.py": b"x"}) != island.digest
    assert _digest({"ab": b"c"}) != _digest({"a": b"bc"})


def test_a_sound_copy_is_left_alone_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    before = bundle.path.stat().st_ino
    assert make_bundle(tmp_path) == bundle
    assert bundle.path.stat().st_ino == before
    (bundle.path / "__pycache__").mkdir()
    assert make_bundle(tmp_path).path.stat().st_ino == before
    (bundle.path / "farm/__init__.py").write_text("raise SystemExit(1)")
    make_bundle(tmp_path)
    assert bundle.path.stat().st_ino != before
    assert "SystemExit" not in (bundle.path / "farm/__init__.py").read_text()
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.digest]


def test_a_copy_is_read_again_only_when_a_file_of_it_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    island, looks = read_island(), list[Path]()
    is_sound = bundle._is_sound
    monkeypatch.setattr(bundle, "_is_sound", lambda *a: looks.append(a[0]) or is_sound(*a))
    path = island.install(tmp_path).path
    island.install(tmp_path)
    looks.clear()
    island.install(tmp_path)
    assert looks == []
    damaged = path / "workers/runner/main.py"
    before = damaged.stat()
    damaged.write_bytes(damaged.read_bytes().replace(b"def main", b"def mine"))
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert damaged.stat().st_size == before.st_size
    island.install(tmp_path)
    assert set(looks) == {path}
    assert b"def main" in damaged.read_bytes()


def test_many_who_install_at_once_all_get_a_sound_copy(tmp_path: Path) -> None:
    island = Island({"__main__.py": b"print('hello')", "farm/x.py": b"1"}, "d" * 64)
    found: list[Bundle] = []
    threads = [threading.Thread(target=lambda: found.append(island.install(tmp_path))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert found == [Bundle(tmp_path / "runner" / ("d" * 64), "d" * 64)] * 12
    assert (found[0].path / "farm/x.py").read_bytes() == b"1"
    assert [path.name for path in found[0].path.parent.iterdir()] == ["d" * 64]


def test_the_gate_parses_on_any_python_3() -> None:
    ast.parse(read_island().files["__main__.py"], feature_version=(3, 4))


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_an_interpreter_that_is_too_old_says_so_in_its_exit_status(tmp_path: Path, version: str) -> None:
    found = find_python(version)
    if found is None:
        pytest.skip(f"no Python {version} here")
    arguments = ["-I"] if version[0] == "3" else []
    done = subprocess.run(
        [found, *arguments, make_bundle(tmp_path).path, "nowhere"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == EXIT_PYTHON_TOO_OLD
    assert f"Python 3.8 or newer, this is {version}" in done.stderr
