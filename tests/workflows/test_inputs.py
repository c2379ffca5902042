# SPDX-License-Identifier: Apache-2.0
"""Seeded inputs: the same everywhere, distinct where they must be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farm.contract.job import Calibration, ModelSpec
from tests.factories import make_job
from workers.workflows import inputs

np = pytest.importorskip("numpy")
JOB = make_job(model=ModelSpec("m", input_shape=(3, 8, 8)), seed=7)


def test_inputs_are_uniform_float32_with_the_batch_first() -> None:
    (x,) = inputs.measuring_inputs(JOB, 16, 1)
    assert (x.shape, x.dtype) == ((16, 3, 8, 8), np.float32)
    assert 0 <= x.min() < 0.01
    assert 0.99 < x.max() < 1
    assert abs(x.mean() - 0.5) < 0.02


def test_the_first_input_does_not_depend_on_how_many_there_are() -> None:
    one, many = inputs.measuring_inputs(JOB, 2, 1), inputs.measuring_inputs(JOB, 2, 5)
    assert (one[0] == many[0]).all()
    assert len({x.tobytes() for x in many}) == 5


def test_seeds_and_batch_sizes_give_different_inputs() -> None:
    base = inputs.measuring_inputs(JOB, 2, 1)[0]
    other_seed = inputs.measuring_inputs(replace(JOB, seed=8), 2, 1)[0]
    other_batch = inputs.measuring_inputs(JOB, 4, 1)[0][:2]
    negative = inputs.measuring_inputs(replace(JOB, seed=-1), 2, 1)[0]
    assert len({x.tobytes() for x in (base, other_seed, other_batch, negative)}) == 4


def test_calibration_data_is_none_of_the_measuring_inputs() -> None:
    (batch,) = inputs.calibration_batches(JOB, Calibration(samples=2, batch=2))
    measured = [x for size in (1, 2) for x in inputs.measuring_inputs(JOB, size, 4)]
    rows = {row.tobytes() for x in measured for row in x}
    assert not rows & {row.tobytes() for row in batch}


def test_the_calibration_batch_does_not_change_the_samples() -> None:
    by_three = list(inputs.calibration_batches(JOB, Calibration(samples=8, batch=3)))
    at_once = list(inputs.calibration_batches(JOB, Calibration(samples=8, batch=8)))
    assert [len(batch) for batch in by_three] == [3, 3, 2]
    assert (np.concatenate(by_three) == at_once[0]).all()


def test_a_fixed_batch_is_always_full() -> None:
    batches = list(inputs.calibration_batches(JOB, Calibration(samples=7, batch=3), fixed=4))
    assert [len(batch) for batch in batches] == [4, 4]


@pytest.mark.parametrize(
    ("cache_mib", "bytes_each", "count"),
    [
        (32, 602_112, 64),  # one 224 x 224 image: 112 would be needed, 64 are the most
        (32, 8 * 2**20, 8),
        (32, 100 * 2**20, 2),  # at least two
        (32, 200 * 2**20, 1),  # two would be more than 256 MB
        (1, 2**20, 2),
    ],
)
def test_the_rotation_is_twice_the_last_level_cache_within_bounds(
    monkeypatch: pytest.MonkeyPatch, cache_mib: int, bytes_each: int, count: int
) -> None:
    facts = inputs.rotation("rotated", bytes_each, cache_mib * 2**20)
    assert facts["input_count"] == count
    assert facts["llc_bytes"] == cache_mib * 2**20
    assert inputs.rotation("warm", bytes_each, None)["input_count"] == 1


def test_an_unknown_cache_is_told_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = inputs.rotation("rotated", 16 * 2**20, None)
    assert (facts["llc_bytes"], facts["input_count"]) == (None, 4)
