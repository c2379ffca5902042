# SPDX-License-Identifier: Apache-2.0
"""How far outputs are from the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.contract.codec import from_json, to_json
from farm.contract.protocols import PROTOCOLS
from farm.contract.run import Mismatch
from workers.workflows.errors import WorkflowError
from workers.workflows.reference import in_slices, metrics, mismatch, rtol_text

np = pytest.importorskip("numpy")
PAPER = PROTOCOLS["paper"]
_FLOATS = st.floats(-1e3, 1e3, width=32)


def _array(*values: float) -> Any:
    return np.array([values], dtype=np.float32)


@given(st.lists(st.tuples(_FLOATS, st.floats(-2e-3, 2e-3)), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_the_percentage_is_that_of_numpy_isclose_with_the_reference_second(pairs: list[tuple[float, float]]) -> None:
    reference = np.array([[value for value, _ in pairs]], dtype=np.float32)
    test = (reference.astype(np.float64) * [[1 + error for _, error in pairs]]).astype(np.float32)
    found = mismatch("y", test, reference, PAPER)
    for rtol, text in ((1e-3, "1e-3"), (1e-4, "1e-4")):
        close = np.isclose(test.astype(np.float64), reference.astype(np.float64), rtol=rtol, atol=1e-8)
        assert found.percent[text] == pytest.approx(100 * (1 - close.mean()), abs=1e-9)


def test_the_tolerance_is_relative_to_the_reference_and_not_to_the_test() -> None:
    protocol = replace(PAPER, rtols=(0.1,), atol=0.0)
    assert mismatch("y", _array(1.105), _array(1.0), protocol).percent == {"1e-1": 100.0}
    assert mismatch("y", _array(1.0), _array(1.105), protocol).percent == {"1e-1": 0.0}


def test_equal_outputs_do_not_differ() -> None:
    y = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    found = mismatch("y", y, y.copy(), PAPER)
    assert set(found.percent.values()) == {0.0}
    assert (found.max_abs_error, found.relative_l2_error, found.top1_agreement) == (0.0, 0.0, 1.0)


def test_values_that_are_not_finite_are_never_close_and_are_counted() -> None:
    nan, inf = float("nan"), float("inf")
    found = mismatch("y", _array(nan, inf, 1.0, 2.0), _array(nan, inf, 1.0, 2.5), PAPER)
    assert found.nonfinite_count == 2
    assert found.percent["1e-3"] == 75.0
    assert found.max_abs_error == 0.5
    assert found.top1_agreement == 0.0
    assert "relative_l2_error" not in metrics([found])


def test_errors_have_their_plain_meaning() -> None:
    found = mismatch("y", _array(3.0, 4.5), _array(3.0, 4.0), PAPER)
    assert found.max_abs_error == 0.5
    assert found.relative_l2_error == pytest.approx(0.1)
    assert found.element_count == 2


def test_agreement_is_the_share_of_rows_with_the_same_largest_output() -> None:
    reference = np.eye(4, dtype=np.float32)
    test = reference[[0, 1, 2, 0]]
    assert mismatch("y", test, reference, PAPER).top1_agreement == 0.75
    assert mismatch("y", np.ones((2, 3, 4)), np.ones((2, 3, 4)), PAPER).top1_agreement is None


@given(st.lists(st.tuples(_FLOATS, _FLOATS), min_size=1, max_size=30), st.sampled_from([1e-150, 1.0, 1e150]))
@settings(max_examples=100, deadline=None)
def test_the_cosine_is_that_of_the_angle_whatever_the_size(pairs: list[tuple[float, float]], scale: float) -> None:
    test, reference = (np.array([side], dtype=np.float64) for side in zip(*pairs, strict=True))
    found = mismatch("y", test * scale, reference * scale, PAPER)
    assert found.mean_abs_error == pytest.approx(float(np.abs(test - reference).mean()) * scale)
    if not test.any() or not reference.any():
        assert found.cosine_similarity is None, "a vector of zeros has no direction"
        return
    unit = [side / np.abs(side).max() for side in (test[0], reference[0])]
    expected = unit[0] @ unit[1] / (np.linalg.norm(unit[0]) * np.linalg.norm(unit[1]))
    assert found.cosine_similarity == pytest.approx(float(expected), abs=1e-12)
    assert -1 <= found.cosine_similarity <= 1


def test_the_cosine_is_over_what_is_finite_and_is_then_no_metric() -> None:
    nan, inf = float("nan"), float("inf")
    found = mismatch("y", _array(nan, 1.0, 0.0, 3.0), _array(1.0, 1.0, 1.0, inf), PAPER)
    assert found.cosine_similarity == pytest.approx(2**-0.5)
    assert found.mean_abs_error == 0.5
    assert not {"cosine_similarity", "mean_abs_error", "max_abs_error"} & set(metrics([found]))
    nothing = mismatch("y", _array(nan), _array(1.0), PAPER)
    assert (nothing.cosine_similarity, nothing.mean_abs_error) == (None, None)


def test_a_mismatch_of_an_older_record_still_reads() -> None:
    written = to_json(mismatch("y", _array(1.0), _array(1.0), PAPER))
    older = {key: value for key, value in written.items() if key not in ("mean_abs_error", "cosine_similarity")}
    assert from_json(Mismatch, older).cosine_similarity is None


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(WorkflowError, match="shape"):
        mismatch("y", np.ones((1, 10)), np.ones((1, 11)), PAPER)


def test_metrics_take_the_share_over_all_elements_and_the_worst_error() -> None:
    small = mismatch("a", _array(1.0), _array(2.0), PAPER)
    large = mismatch("b", _array(1.0, 1.0, 1.0), _array(1.0, 1.0, 1.0), PAPER)
    found = metrics([small, large])
    assert found["mismatch_1e-3_pct"] == pytest.approx(25.0)
    assert found["relative_l2_error"] == pytest.approx(0.5)
    assert (found["max_abs_error"], found["mean_abs_error"]) == (1.0, 1.0)
    assert metrics([]) == {}


def test_the_cosine_metric_is_the_worst_outputs() -> None:
    right = mismatch("a", _array(1.0, 0.0), _array(2.0, 0.0), PAPER)
    wrong = mismatch("b", _array(1.0, 0.0), _array(-1.0, 0.0), PAPER)
    assert metrics([right])["cosine_similarity"] == 1.0
    assert metrics([right, wrong])["cosine_similarity"] == -1.0
    assert "cosine_similarity" not in metrics([mismatch("c", _array(0.0), _array(0.0), PAPER)])


def test_a_tolerance_without_a_metric_stays_in_the_mismatch() -> None:
    found = mismatch("a", _array(1.0), _array(2.0), replace(PAPER, rtols=(0.025, 1e-3)))
    assert set(found.percent) == {"2.5e-2", "1e-3"}
    assert {name for name in metrics([found]) if name.startswith("mismatch")} == {"mismatch_1e-3_pct"}


@pytest.mark.parametrize(("rtol", "text"), [(1e-3, "1e-3"), (1e-4, "1e-4"), (0.025, "2.5e-2"), (1.0, "1e0")])
def test_tolerances_are_written_as_in_metric_names(rtol: float, text: str) -> None:
    assert rtol_text(rtol) == text


def test_a_large_batch_is_computed_in_slices_and_joined_in_order() -> None:
    sizes: list[int] = []

    def forward(batch: Any) -> list[tuple[str, Any]]:
        sizes.append(len(batch))
        return [("y", batch * 2), ("z", batch + 1)]

    whole = np.arange(70, dtype=np.float32)[:, None]
    joined = dict(in_slices(forward, whole, most=32))
    assert sizes == [32, 32, 6]
    assert (joined["y"] == whole * 2).all()
    assert (joined["z"] == whole + 1).all()


def test_slices_shrink_while_memory_runs_out() -> None:
    def forward(batch: Any) -> list[tuple[str, Any]]:
        if len(batch) > 3:
            raise RuntimeError("std::bad_alloc")
        return [("y", batch)]

    whole = np.arange(10, dtype=np.float32)[:, None]
    assert (in_slices(forward, whole, most=32)[0][1] == whole).all()


def test_other_errors_and_memory_at_batch_one_are_not_swallowed() -> None:
    def broken(batch: Any) -> list[tuple[str, Any]]:
        raise RuntimeError("shapes differ")

    def hungry(batch: Any) -> list[tuple[str, Any]]:
        raise MemoryError

    with pytest.raises(RuntimeError, match="shapes"):
        in_slices(broken, np.ones((4, 1)))
    with pytest.raises(MemoryError):
        in_slices(hungry, np.ones((4, 1)))
