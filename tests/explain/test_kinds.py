# SPDX-License-Identifier: Apache-2.0
"""What the time goes to, by kinds of operator and types."""

from __future__ import annotations

import pytest

from farm.explain import by_kind, by_precision
from farm.explain.kinds import kind_of
from tests.explain.tables import layer, table


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("QLinearConv", "Conv"),
        ("NhwcMaxPool", "MaxPool"),
        ("QGemm", "Gemm"),
        ("Conv2d", "Conv"),
        ("Convolution", "Conv"),
        ("BatchNorm2d", "BatchNormalization"),
        ("ReLU", "Relu"),
        ("Linear", "Gemm"),
        ("add_", "Add"),
        ("QuantizeLinear", "QuantizeLinear"),
        ("ReorderInput", "ReorderInput"),
        ("", "its name"),
    ],
)
def test_a_kind_is_one_whoever_computes_it(kind: str, expected: str) -> None:
    assert kind_of(layer("its name", 1, kind=kind)) == expected


def test_kinds_of_two_tables_are_summed_and_sorted_by_their_change() -> None:
    base = [layer("a", 50, kind="Conv"), layer("b", 30, kind="Conv")]
    new = [
        layer("a", 20, kind="QLinearConv"),
        layer("b", 10, kind="QLinearConv"),
        layer("s", 15, kind="HardSigmoid"),
        layer("m", 40, kind="QLinearMul"),
        layer("n", 40, kind="QLinearMul"),
    ]
    found = by_kind(base, new)
    assert [(kind.name, kind.change_ns, kind.base_rows, kind.new_rows) for kind in found] == [
        ("Mul", 80e3, 0, 2),
        ("Conv", -50e3, 2, 2),
        ("HardSigmoid", 15e3, 0, 1),
    ]
    assert sum(kind.change_ns for kind in found) == 45e3


def test_types_have_their_share_of_the_time_apart_from_what_only_converts() -> None:
    rows = table(layer("a", 60, precision="int8"), layer("b", 30), layer("c", 10, precision=None))
    assert by_precision(rows) == {"int8": 0.6, "fp32": 0.3, "other": 0.1}
    converted = table(layer("a", 75, precision="int8"), layer("q", 25, precision="int8", kind="QuantizeLinear"))
    assert by_precision(converted) == {"int8": 0.75, "conversions": 0.25}
    assert by_precision(table()) == {}
