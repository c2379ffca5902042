# SPDX-License-Identifier: Apache-2.0
"""A probe that somebody killed says nothing of its stack."""

from __future__ import annotations

import stat
from pathlib import Path

from farm.settings import StackSettings
from workers.daemon.bundle import read_island
from workers.daemon.probe import probe_stack


def interpreter(path: Path, count: Path, until: int) -> str:
    """A program that counts its starts and is killed at each of the first `until`, then answers with nothing."""
    path.write_text(
        f'#!/bin/sh\necho x >> "{count}"\n[ $(wc -l < "{count}") -le {until} ] && kill -9 $$\necho none; exit 7\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_killed_probe_is_tried_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    stack = StackSettings(python=interpreter(tmp_path / "python", count, 2))
    found = probe_stack("odd", stack, read_island().install(tmp_path))
    assert len(count.read_text().split()) == 3
    assert found.problems["python"].startswith("the probe ended with exit code 7")


def test_a_probe_that_is_always_killed_is_given_up(tmp_path: Path) -> None:
    count = tmp_path / "count"
    stack = StackSettings(python=interpreter(tmp_path / "python", count, 99))
    found = probe_stack("odd", stack, read_island().install(tmp_path))
    assert len(count.read_text().split()) == 3
    assert found.problems["python"].startswith("the probe was killed by signal 9")
