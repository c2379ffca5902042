# SPDX-License-Identifier: Apache-2.0
"""A stack with TensorFlow apart from this interpreter: `.venv-tensorflow`, made once where everything must be there."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.island.harness import ROOT

_STACK = ROOT / ".venv-tensorflow"
VARIABLE = "FARM_TEST_TENSORFLOW"
#: The interpreter of another stack to test, such as an older TensorFlow's. Tests run without the farm's variables.
NAMED = os.environ.get(VARIABLE)


def require_tensorflow() -> Path:
    """The stack's interpreter. CI makes it; elsewhere tests are skipped until `make setup-tensorflow` was run."""
    if NAMED:
        return Path(NAMED)
    if not (_STACK / ".ready").exists():
        if os.environ.get("CI") != "true":
            pytest.skip("no stack with TensorFlow: make setup-tensorflow")
        _make()
    return _STACK / "bin/python"


def _make() -> None:
    """Install it, one test process at a time; the others find it there."""
    with (Path(tempfile.gettempdir()) / "inferfarm-setup-tensorflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_STACK / ".ready").exists():
            subprocess.run([ROOT / "tools/setup.sh", "tensorflow"], check=True, timeout=540, stdin=subprocess.DEVNULL)
