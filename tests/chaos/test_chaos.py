# SPDX-License-Identifier: Apache-2.0
"""The short form of the chaos suite: 40 faults against a real farm, and every invariant holds.

`make chaos FAULTS=1000` is the long one. The seed is fixed here, so that a change is judged by the same faults.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.parts import ROOT

pytestmark = pytest.mark.long
SEED = 20
FAULTS = 40


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_forty_faults_lose_nothing_and_run_nothing_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--faults", str(FAULTS), "--seed", str(SEED), "--dir", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=840,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert f"| all | {FAULTS} | {FAULTS} | | | 0 |" in done.stdout
