# SPDX-License-Identifier: Apache-2.0
"""Wilson's interval: published values, its bounds, and what records keep of it."""

from __future__ import annotations

import pytest

from farm.accuracy import accuracy_intervals, accuracy_withheld, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score, no continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


def test_it_turns_round_with_the_share_and_never_leaves_0_to_1() -> None:
    for count in (1, 2, 7, 360, 50_000):
        for right in {0, 1, count // 2, count - 1, count}:
            low, high = wilson(right, count)
            assert 0 <= low <= right / count <= high <= 1
            assert wilson(count - right, count) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("right", "count"), [(1, 0), (-1, 5), (6, 5)])
def test_what_is_no_share_is_refused(right: int, count: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(right, count)


def test_a_record_keeps_an_interval_for_each_share_and_says_why_one_is_missing() -> None:
    both = {"top1": 357 / 360, "top5": 1.0, "accuracy_samples": 360.0}
    found = accuracy_intervals(both)
    assert (found["top1"].low, found["top1"].high) == wilson(357, 360)
    assert (found["top5"].method, found["top5"].scope) == ("wilson", "this test set")
    assert accuracy_withheld(both) == {}
    few = {"top1": 0.5, "accuracy_samples": 8.0}
    assert list(accuracy_intervals(few)) == ["top1"]
    assert "5 classes" in accuracy_withheld(few)["top5"]
    assert (accuracy_intervals({"latency_ms": 1.0}), accuracy_withheld({"latency_ms": 1.0})) == ({}, {})
