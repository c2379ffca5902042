# SPDX-License-Identifier: Apache-2.0
"""The benchmark of false alarms: what it measures is a sweep, and too many alarms fail it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest

from farm.compare import Cell, compare
from tests.compare.test_pairing import side


@pytest.fixture
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("aa.py")


def cells(same: int, slower: int) -> list[Cell]:
    (equal,) = compare(side("base"), side("new")).cells
    (worse,) = compare(side("base"), side("new", 9.0)).cells
    return [equal] * same + [worse] * slower


@pytest.mark.parametrize(("same", "slower", "passes"), [(38, 2, True), (37, 3, False), (5, 1, True), (4, 2, False)])
def test_two_of_forty_may_be_called_different(
    script: Any, same: int, slower: int, passes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.report(cells(same, slower)) is passes
    assert f"different: {slower} of {same + slower}" in capsys.readouterr().out


def test_each_comparison_is_a_sweep_of_its_own(script: Any) -> None:
    given = Namespace(model="squeezenet1_1", size=64, workflow="onnxruntime_cpu")
    first, second = script.sweep(given, 0, None), script.sweep(given, 1, None)
    assert first.sweep_id != second.sweep_id
    assert first.models == second.models
    assert first.models[0].input_shape == (3, 64, 64)
    assert script.sweep(given, 0, "forked").stack == "forked"
