# SPDX-License-Identifier: Apache-2.0
"""Numbers and phrases as people read them."""

from __future__ import annotations

import pytest

from farm.report import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (0.5, "0.500"),
        (3.14159, "3.14"),
        (31.4159, "31.42"),
        (314.159, "314.2"),
        (1234.5, "1\u202f234"),
        (1234567.0, "1\u202f234\u202f567"),
        (-2.5, "\u22122.50"),
        (float("nan"), "\u2013"),
    ],
)
def test_a_number_has_three_or_four_digits(value: float, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0000004, "<0.001"), (0.0104, "0.010"), (1.93, "1.93"), (99.9999, ">99.999"), (100.0, "100")],
)
def test_a_percentage_is_zero_or_a_hundred_only_if_it_is(value: float, shown: str) -> None:
    assert text.percent(value) == shown


def test_lists_read_as_sentences() -> None:
    assert text.listed([]) == ""
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b", "c"]) == "a, b and c"
    assert text.sizes([4, 1]) == "batches 1, 4"
    assert text.sizes([4]) == "batch 4"
    assert (text.plural(1, "point"), text.plural(2, "point")) == ("1 point", "2 points")


def test_a_time_is_shown_to_the_minute() -> None:
    assert text.moment("2026-03-01T10:11:12.5+00:00") == "2026-03-01 10:11 UTC"
    assert text.moment("yesterday") == "yesterday"
