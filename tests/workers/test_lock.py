# SPDX-License-Identifier: Apache-2.0
"""Device locks: one holder, known by name, for as long as a process of its lives."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from farm.errors import UnavailableError
from tests.workers.support import run_python, wait_until
from workers.daemon.lock import DeviceBusyError, Holder, WaitAbandonedError, device_lock_path, hold, read_holder

ME = Holder(4711, "job a, resnet18/fake/fp32", "/home/x/farm", 1000.0)

HOLD = """
import sys, time
from pathlib import Path
from workers.daemon.lock import Holder, hold
with hold(Path(sys.argv[1]), Holder(__import__("os").getpid(), "job b", "/other", time.time()), wait_s=5):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return device_lock_path(tmp_path / "locks", "box-cpu")


def test_another_process_is_refused_and_told_who_holds_it(path: Path) -> None:
    with hold(path, ME, wait_s=0):
        done = subprocess.run(
            run_python(HOLD.replace("wait_s=5", "wait_s=0.2"), str(path)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert "DeviceBusyError" in done.stderr
    assert "process 4711 (job a, resnet18/fake/fp32, farm home /home/x/farm)" in done.stderr
    with hold(path, ME, wait_s=0):
        assert read_holder(path) == ME


def test_who_waits_is_told_of_the_holder_and_gets_in_once_it_is_killed(path: Path) -> None:
    other = subprocess.Popen(run_python(HOLD, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        seen: list[Holder | None] = []

        def on_wait(holder: Holder | None, waited_s: float) -> None:
            seen.append(holder)
            if len(seen) == 2:
                other.kill()

        with hold(path, ME, wait_s=120, on_wait=on_wait):
            assert read_holder(path) == ME
    assert [h.pid for h in seen if h] == [other.pid] * len(seen)
    assert len(seen) >= 2


def test_a_wait_ends_with_its_limit_or_when_it_is_called_off(path: Path) -> None:
    with hold(path, ME, wait_s=0):
        start = time.monotonic()
        with pytest.raises(DeviceBusyError), hold(path, ME, wait_s=0.3):
            pass
        assert 0.25 < time.monotonic() - start < 30
        stop = threading.Event()
        stop.set()
        with pytest.raises(WaitAbandonedError), hold(path, ME, wait_s=60, stop=stop):
            pass


def test_a_child_that_inherited_the_descriptor_keeps_the_lock(path: Path) -> None:
    with hold(path, ME, wait_s=0) as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(descriptor,)
        )
    with child:
        with pytest.raises(DeviceBusyError), hold(path, ME, wait_s=0.1):
            pass
        child.kill()
        child.wait(timeout=120)
        with hold(path, ME, wait_s=10):
            pass


def test_the_directory_is_open_to_all_users_and_sticky(path: Path) -> None:
    with hold(path, ME, wait_s=0):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o1777
        assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_directory_that_cannot_be_used_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError) as caught, hold(tmp_path / "file" / "x.lock", ME, wait_s=0):
        pass
    assert "FARM_LOCK_DIR" in (caught.value.hint or "")


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnavailableError), hold(path, ME, wait_s=0):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_holder_is_no_obstacle(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff{")
    assert read_holder(path) is None
    with hold(path, ME, wait_s=0):
        pass


def test_a_device_id_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device id"):
        device_lock_path(tmp_path, "../x")


def test_a_holder_that_was_killed_leaves_a_free_lock(path: Path) -> None:
    other = subprocess.Popen(run_python(HOLD, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        os.kill(other.pid, 9)
        other.wait(timeout=120)
        wait_until(lambda: read_holder(path), "holder")
        with hold(path, ME, wait_s=5):
            pass
