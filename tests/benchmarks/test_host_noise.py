# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a busy host's signs: how it judges a reading, and one short phase for real."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def noise(load_script: Callable[[str], Any]) -> Any:
    return load_script("host_noise.py")


def phase(noise: Any, threads: int, foreign: int, switches: float, wait: float | None) -> Any:
    return noise.Phase(threads, foreign, 2.0, 0.01, switches, wait, 0.02)


def test_readings_that_lie_apart_are_parted_in_the_middle_of_the_gap(noise: Any) -> None:
    found = noise.separation([0.001, 0.003], [0.403, 0.31])
    assert (found.largest_quiet, found.smallest_crowded, found.wrong) == (0.003, 0.31, 0)
    assert found.limit == pytest.approx(0.1565)


def test_readings_that_overlap_are_parted_with_the_fewest_errors(noise: Any) -> None:
    found = noise.separation([10, 20, 90], [80, 100, 120])
    assert (found.limit, found.wrong) == (50.0, 1)
    assert noise.separation([5.0], [5.0]).wrong == 1


def test_only_more_threads_and_processes_than_processors_count_as_crowded(noise: Any) -> None:
    phases = [phase(noise, 2, 0, 130.0, 0.002), phase(noise, 1, 1, 9000.0, 0.9), phase(noise, 2, 1, 120.0, 0.4)]
    switches, waits = noise.judged(phases, 2)
    assert "puts 1 of 2 on the wrong side" in switches
    assert "quiet up to 0.002, crowded from 0.4; a limit of 0.201 puts 0 of 2" in waits
    assert "too few phases" in noise.judged(phases[:1], 2)[0]
    assert "not told" in noise.table([phase(noise, 2, 0, 130.0, None)], 2)


@pytest.fixture
def one_processor() -> Iterator[None]:
    """This process, and all that it starts, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel keeps no account of waits")
def test_a_process_that_shares_its_processor_with_two_others_is_seen_waiting(noise: Any, one_processor: None) -> None:
    found = noise.measure(1, 2, 0.5)
    assert (found.threads, found.foreign) == (1, 2)
    assert found.latency_ms > 0
    assert 0.4 < found.wait_share < 1
