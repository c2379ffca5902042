# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the farm's own fidelity: its loop, its reading of ONNX Runtime's profile, its statistics."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.sweep import parse_sweep
from tests.workflows.onnx_models import save_model


@pytest.fixture
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("fidelity.py")


@pytest.mark.models
def test_onnxruntimes_own_time_of_a_run_lies_within_that_of_the_loop_around_it(script: Any, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.onnx")
    found = script.bare(model, (3, 16, 16), 1, str(tmp_path / "profile"), timed_s=0.1)
    own_ms = script.profiled_ms(json.loads(Path(found["profile"]).read_text()), found["warm"])
    assert len(found["samples"]) >= 10
    assert sum(found["samples"]) <= 2e8
    assert 0 < own_ms <= statistics.median(found["samples"]) / 1e6


@pytest.mark.models
def test_the_bare_loops_session_has_the_farms_options(script: Any, tmp_path: Path) -> None:
    from workers.workflows.onnx_session import open_session

    model = save_model(tmp_path / "model.onnx")
    theirs = open_session(str(model), 1).get_session_options()
    options = script.bare(model, (3, 16, 16), 1, timed_s=0.01)["options"]
    assert len(options) >= 6
    assert options == {name: str(getattr(theirs, name)) for name in options}


def test_runs_before_the_warm_ups_end_do_not_count(script: Any) -> None:
    events = [{"name": "model_run", "dur": us} for us in (9000, 2000, 3000, 4000)]
    assert script.profiled_ms([*events, {"name": "session_initialization", "dur": 1}], 1) == 3.0


def test_every_order_gives_each_role_the_same_mean_place_and_all_together_every_place(script: Any) -> None:
    for order in script.ORDERS:
        places = [*order, "profile", *reversed(order)]
        means = {who: statistics.mean(i for i, w in enumerate(places) if w == who) for who in order}
        assert set(means.values()) == {3.0}
    for place in range(3):
        assert {order[place] for order in script.ORDERS} == {"farm", "loop", "again"}


def test_the_signed_ranks_are_those_of_scipy(script: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 5, 7, 12):
        counts = script.signed_rank_counts(n)
        assert sum(counts) == 2**n
        # With sums of 0 .. w on the negative side, the one-sided p-value is that share of all signs.
        for negative in range(n + 1):
            values = [-(i + 1.0) if i < negative else i + 1.0 for i in range(n)]
            w = sum(i + 1 for i in range(negative))
            expected = stats.wilcoxon(values, alternative="greater", method="exact").pvalue
            assert sum(counts[: w + 1]) / 2**n == pytest.approx(expected)


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_estimate_lies_within_its_interval_and_turns_with_its_ratios(script: Any, ratios: list[float]) -> None:
    found = script.estimate(ratios)
    assert min(ratios) * (1 - 1e-12) <= found.low <= found.value <= found.high <= max(ratios) * (1 + 1e-12)
    turned = script.estimate([1 / ratio for ratio in ratios])
    assert (turned.value, turned.low) == pytest.approx((1 / found.value, 1 / found.high))
    assert (found.coverage >= 0.95) == (len(ratios) >= 6)


def test_an_interval_covers_what_it_says(script: Any) -> None:
    """Five ratios reach 1 - 2/32 at most; seven may leave out the two outermost averages at each end."""
    five = script.estimate([0.9, 0.95, 1.0, 1.1, 1.2])
    assert (five.low, five.high, five.coverage) == (pytest.approx(0.9), pytest.approx(1.2), 1 - 2 / 32)
    seven = [math.exp(x) for x in (-0.3, -0.1, 0.0, 0.05, 0.1, 0.2, 0.4)]
    assert script.estimate(seven).coverage == 1 - 2 * 3 / 128
    assert math.log(script.estimate(seven).low) == pytest.approx(-0.15)
    assert str(script.estimate([1.01] * 6)) == "1.010 [1.010, 1.010]"


def test_the_table_has_a_line_for_each_model(script: Any) -> None:
    rounds = [{"resnet18": {"farm / loop": 1.0 + i / 100, "loop' / loop": 1.0}} for i in range(6)]
    lines = script.table(rounds).splitlines()
    assert lines[1] == "| model | farm / loop | loop' / loop |"
    assert lines[3] == "| resnet18 | 1.025 [1.000, 1.050] | 1.000 [1.000, 1.000] |"
    assert lines[-1] == "6 rounds; the intervals cover 96.9%"


def test_both_sides_are_asked_for_the_same_time_and_threads(script: Any) -> None:
    text = script.SWEEP.format(
        model="resnet18", threads=2, warm=script.WARM_UP_S, timed=script.TIMED_S, most=script.MOST
    )
    protocol = parse_sweep(text, "x").protocol
    assert (protocol.threads, protocol.warmup_min_s, protocol.min_s) == (2, script.WARM_UP_S, script.TIMED_S)
