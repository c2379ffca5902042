# SPDX-License-Identifier: Apache-2.0
"""Real processes for tests: each runs a piece of Python against a store and prints what came out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LIMIT_S = 180
_ROOT = Path(__file__).parents[2]


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own and wait for it. `sys.argv[1:]` are the arguments."""
    return subprocess.run(_argv(code, arguments), cwd=_ROOT, capture_output=True, text=True, timeout=LIMIT_S)


def race(code: str, arguments: Sequence[Sequence[object]]) -> list[str]:
    """Start a process per list of arguments, let all go at once, and return what each printed.

    `code` follows a line that waits for the start: everything slow before it (imports) goes into `_READY`.
    """
    started = [
        subprocess.Popen(
            _argv(_READY + code, each), cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for each in arguments
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=LIMIT_S)[0].strip() for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _argv(code: str, arguments: Sequence[object]) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


_READY = """
import sys
from pathlib import Path
from farm.store import Store
from tests.factories import make_record
print("ready", flush=True)
sys.stdin.readline()
"""
