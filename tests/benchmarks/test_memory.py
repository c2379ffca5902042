# SPDX-License-Identifier: Apache-2.0
"""Peaks of memory as the benchmarks tell them."""

from __future__ import annotations

import math
import os
import subprocess
import sys

from benchmarks.speed.memory import children, is_warm, peak_mib

#: Holds 64 MiB for a moment, then tells its own peak and waits.
_CODE = """
import sys
held = bytearray(64 << 20)
del held
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_peak_of_a_process_is_its_own_and_stays_when_the_memory_is_given_back() -> None:
    mine = bytearray(256 << 20)
    code = [sys.executable, "-c", _CODE, "--warm"]
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert 64 < peak_mib(child.pid) < 128, "nothing of what this process holds"
        assert child.pid in list(children(os.getpid()))
        assert is_warm(child.pid)
    assert len(mine) / 2**20 < peak_mib()
    assert not is_warm(os.getpid())


def test_a_process_that_has_ended_has_no_peak() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert math.isnan(peak_mib(child.pid))
    assert list(children(child.pid)) == []
