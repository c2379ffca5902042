# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the farm's own fidelity: its loop and its reading of ONNX Runtime's profile, on a small model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.onnx_models import save_model

pytestmark = pytest.mark.models


@pytest.fixture
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("fidelity.py")


def test_onnxruntimes_own_time_of_a_run_lies_within_that_of_the_loop_around_it(script: Any, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.onnx")
    found = script.bare(model, (3, 16, 16), 1, 5, 20, str(tmp_path / "profile"))
    own_ms = script.profiled_ms(json.loads(Path(found["profile"]).read_text()), 5)
    assert len(found["samples"]) == 20
    assert 0 < own_ms <= statistics.median(found["samples"]) / 1e6


def test_runs_before_the_warm_ups_end_do_not_count(script: Any) -> None:
    events = [{"name": "model_run", "dur": us} for us in (9000, 2000, 3000, 4000)]
    assert script.profiled_ms([*events, {"name": "session_initialization", "dur": 1}], 1) == 3.0


def test_a_ratio_is_told_with_its_spread(script: Any) -> None:
    assert script.ratio([1.02, 0.99, 1.0]) == "1.000 (0.990 to 1.020)"
