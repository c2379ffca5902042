# SPDX-License-Identifier: Apache-2.0
"""The verdict of a cell: the band, too few processes, clocks, many cells; and how often it errs on noise alone."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.compare import Process, Rules, Side, Verdict, compare, verdict
from tests.compare.test_pairing import side

levels = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=7)
RULES = Rules()


def processes(*values: float, mhz: float | None = None, low: float | None = None, high: float | None = None) -> Side:
    """A side of sound processes."""
    moment = "2026-03-01T10:00:00.000000+00:00"
    return Side(tuple(Process(f"r{i}", v, moment, moment, mhz, (), low, high, 0.95) for i, v in enumerate(values)))


@given(levels, levels)
def test_a_verdict_agrees_with_its_interval(base: list[float], new: list[float]) -> None:
    found = verdict.judge(base, new, RULES)
    low, high = found.ratio.low, found.ratio.high
    assert low is not None
    assert high is not None
    assert low <= found.ratio.value <= high or found.ratio.value == pytest.approx(low)
    if found.direction == 1:
        assert low > 1.02
    elif found.direction == -1:
        assert high < 1 / 1.02
    elif found.direction == 0:
        assert low >= 1 / 1.02 - 1e-12
        assert high <= 1.02 + 1e-12
    else:
        assert found.why


@given(levels, levels)
def test_exchanging_the_sides_mirrors_all(base: list[float], new: list[float]) -> None:
    there, back = verdict.judge(base, new, RULES), verdict.judge(new, base, RULES)
    assert there.direction == (None if back.direction is None else -back.direction)
    assert there.ratio.value == pytest.approx(1 / back.ratio.value)
    assert there.p_value == back.p_value


@given(levels, levels, st.floats(1e-3, 1e3))
def test_the_unit_does_not_matter(base: list[float], new: list[float], factor: float) -> None:
    scaled = verdict.judge([x * factor for x in base], [x * factor for x in new], RULES)
    assert scaled.ratio.value == pytest.approx(verdict.judge(base, new, RULES).ratio.value)


@pytest.mark.parametrize(("base", "new"), [(4, 4), (4, 5), (2, 9), (1, 5)])
def test_fewer_than_five_a_side_are_unclear_whatever_they_show(base: int, new: int) -> None:
    found = verdict.judge([1.0 + i / 1000 for i in range(base)], [9.0 + i / 1000 for i in range(new)], RULES)
    assert found.direction is None
    assert "5 a side are the fewest for 99%" in found.why


def test_one_process_a_side_gets_the_interval_of_its_iterations_and_no_verdict() -> None:
    found = verdict.compare_sides(processes(8.0, low=7.9, high=8.1), processes(16.0, low=15.8, high=16.2), RULES)
    assert found.direction is None
    assert found.ratio.scope == verdict.WITHIN_RUN
    assert (found.ratio.low, found.ratio.high) == (pytest.approx(15.8 / 8.1), pytest.approx(16.2 / 7.9))
    assert found.ratio.confidence == pytest.approx(0.9)
    assert found.why == "one process each: differences between processes are unknown"


def test_one_process_a_side_without_an_interval_is_a_bare_ratio() -> None:
    ratio = verdict.compare_sides(processes(8.0), processes(16.0), RULES).ratio
    assert (ratio.value, ratio.low, ratio.confidence) == (2.0, None, None)


def test_a_small_but_certain_difference_is_said_to_be_one() -> None:
    found = verdict.judge([1.0, 1.001, 1.002, 1.003, 1.004], [1.015, 1.018, 1.02, 1.022, 1.025], RULES)
    assert found.direction is None
    assert found.why == "there is a difference; whether it is over 2 % is open"


def clocked(name: str, ms: float, mhz: float, metric: str = "gpu_clock_sm_mhz") -> list[Any]:
    records = side(name, ms)
    for record in records:
        record.metrics[metric] = mhz
    return records


@pytest.mark.parametrize("metric", ["gpu_clock_sm_mhz", "cpu_frequency_mhz"])
def test_a_change_that_the_clock_explains_is_a_clock_effect(metric: str) -> None:
    cell = compare(clocked("base", 8.0, 1980, metric), clocked("new", 8.8, 1800, metric)).cells[0]
    assert cell.verdict is Verdict.UNCLEAR
    assert cell.notes == ("a clock effect: 1980 -> 1800 MHz, and +0.0% in cycles",)
    assert cell.cycles is not None
    assert cell.cycles.value == pytest.approx(1.0)
    assert cell.ratio.value == pytest.approx(1.1)


def test_a_change_beyond_the_clocks_stays_a_change() -> None:
    assert compare(clocked("base", 8.0, 1980), clocked("new", 12.0, 1800)).cells[0].verdict is Verdict.SLOWER
    assert compare(clocked("base", 8.0, 1980), clocked("new", 8.8, 1980)).cells[0].verdict is Verdict.SLOWER


def test_a_faster_clock_does_not_hide_more_work() -> None:
    cell = compare(clocked("base", 8.0, 1800), clocked("new", 8.0, 1980)).cells[0]
    assert cell.verdict is Verdict.UNCLEAR
    assert "+10.0% in cycles" in cell.notes[0]


def test_an_unknown_clock_on_one_side_checks_nothing() -> None:
    assert compare(side("base"), clocked("new", 8.8, 1800)).cells[0].verdict is Verdict.SLOWER


def test_one_slow_cell_of_many_needs_more_than_five_processes() -> None:
    """Of 40 cells one slow one has p = 0.008 at best with five a side: chance gives as much (0.05 / 40 = 0.001)."""

    def cells(name: str, count: int, slow: float) -> list[Any]:
        return [r for b in range(1, 41) for r in side(name, slow if b == 7 else 8.0, batch=b, count=count)]

    few = compare(cells("base", 5, 8.0), cells("new", 5, 9.0))
    (cell,) = [cell for cell in few.cells if cell.cell["batch"] == "7"]
    assert cell.verdict is Verdict.UNCLEAR
    assert "looks SLOWER, as chance may among 40 cells" in cell.notes[0]
    assert sum(cell.verdict is Verdict.SAME for cell in few.cells) == 39
    enough = compare(cells("base", 8, 8.0), cells("new", 8, 9.0))
    assert [c.cell["batch"] for c in enough.cells if c.verdict is Verdict.SLOWER] == ["7"]


@pytest.mark.parametrize(
    ("direction", "unit", "better", "told"),
    [
        (1, "ms", "lower", Verdict.SLOWER),
        (-1, "ms", "lower", Verdict.FASTER),
        (1, "inputs/s", "higher", Verdict.FASTER),
        (1, "bytes", "lower", Verdict.WORSE),
        (-1, "J", "lower", Verdict.BETTER),
        (0, "bytes", "lower", Verdict.SAME),
    ],
)
def test_words_follow_the_metric(direction: int, unit: str, better: str, told: Verdict) -> None:
    assert verdict.word(direction, unit, better) is told
    assert told.is_alarm == (told in (Verdict.SLOWER, Verdict.WORSE))


def test_noise_alone_is_called_different_as_rarely_as_it_says() -> None:
    """Every split of ten distinct values in two fives, in a noise far wider than the band: 2 of 252 may come out."""
    values = [1.5**i for i in range(10)]
    different = 0
    for chosen in itertools.combinations(range(10), 5):
        base = [values[i] for i in chosen]
        new = [values[i] for i in range(10) if i not in chosen]
        different += verdict.judge(base, new, RULES).direction in (1, -1)
    assert different == 2


def test_processes_count_and_not_iterations() -> None:
    """Processes that differ by 5 % among themselves, the same on both sides: a pooled test of iterations would cry."""
    noise, different = random.Random(4), 0
    for _ in range(400):
        base, new = ([noise.lognormvariate(0, 0.05) for _ in range(5)] for _ in range(2))
        different += verdict.judge(base, new, RULES).direction in (1, -1)
    assert different <= 8
