# SPDX-License-Identifier: Apache-2.0
"""Rows of two tables that are the same part of the model."""

from __future__ import annotations

import itertools

import pytest

from farm.explain import compare_layers
from farm.explain.match import groups, keys, module_path
from tests.explain.tables import layer, table


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/conv1/Conv", "conv1"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/layer2/layer2.0/downsample/downsample.0/Conv", "layer2.0.downsample.0"),
        ("/features/features.0/features.0.0/Conv", "features.0.0"),
        ("/Flatten", ""),
        ("layer1.0.conv1", "layer1.0.conv1"),
    ],
)
def test_an_onnx_name_gives_the_path_of_its_torch_module(node: str, module: str) -> None:
    assert module_path(node) == module


def test_rows_that_share_names_through_others_are_one_group_and_nameless_ones_stand_alone() -> None:
    a = [{"conv", "relu"}, {"pool"}, set(), {"only"}]
    b = [{"conv"}, {"relu", "add"}, {"pool"}, {"add"}, set()]
    for order in itertools.permutations(range(len(b))):
        found = groups(a, [b[i] for i in order])
        back = [(x, [order[i] for i in y]) for x, y in found]
        named = {(frozenset(x), frozenset(y)) for x, y in back if any(a[i] for i in x) or any(b[i] for i in y)}
        assert named == {
            (frozenset({0}), frozenset({0, 1, 3})),
            (frozenset({1}), frozenset({2})),
            (frozenset({3}), frozenset()),
        }
        assert ([2], []) in found
        assert ([], [order.index(4)]) in found


def test_torch_modules_and_onnx_nodes_meet_at_the_module_and_a_second_call_is_the_same_module() -> None:
    torch = [layer("layer1.0.conv1", 5, "layer1.0.conv1"), layer("layer1.0.relu", 2, "layer1.0.relu")]
    onnx = [
        layer("a", 4, "/layer1/layer1.0/conv1/Conv", "/layer1/layer1.0/relu/Relu"),
        layer("b", 1, "/layer1/layer1.0/relu_1/Relu"),
    ]
    a, b = keys(torch, onnx)
    assert a == [{"layer1.0.conv1"}, {"layer1.0.relu"}]
    assert b == [{"layer1.0.conv1", "layer1.0.relu"}, {"layer1.0.relu"}]


def test_nodes_of_both_sides_are_matched_by_their_own_names_but_for_what_quantisers_add() -> None:
    a, b = keys([layer("a", 1, "/a/relu_1/Relu")], [layer("b", 1, "/a/relu/Relu"), layer("c", 1, "/conv/Conv_quant")])
    assert (a, b) == ([{"/a/relu_1/Relu"}], [{"/a/relu/Relu"}, {"/conv/Conv"}])


def test_fusion_precision_and_tactic_are_named_where_they_differ() -> None:
    base = table(
        layer("conv", 80, "/c/Conv", tactic="sgemm", place="cuda"),
        layer("relu", 10, "/r/Relu", place="cuda"),
        layer("fc", 10, "/fc/Gemm", place="cuda"),
    )
    new = table(
        layer("/c/Conv + /r/Relu", 20, "/c/Conv", "/r/Relu", tactic="hmma", precision="fp16", place="tensorrt"),
        layer("fc", 10, "/fc/Gemm", place="tensorrt"),
        layer("copy", 5, kind="Reformat", place="tensorrt"),
    )
    found = compare_layers(base, new)
    assert found.change_ns == -65e3
    conv, copy, fc = found.groups
    assert (conv.name, conv.change_ns) == ("/c/Conv + 1 more", -70e3)
    assert conv.notes == ("2 rows fused into 1 in new", "fp32 -> fp16", "tactic sgemm -> hmma")
    assert (copy.name, copy.notes) == ("copy", ("only in new",))
    assert fc.notes == ()
    assert found.explaining() == [conv]
    assert found.matched == pytest.approx(130 / 135)


def test_a_place_is_told_only_where_a_table_has_several() -> None:
    base = table(layer("a", 1, "a", place="cuda"), layer("b", 1, "b", place="cuda"))
    new = table(layer("a", 2, "a", place="tensorrt"), layer("b", 1, "b", place="cuda"))
    assert compare_layers(base, new).groups[0].notes == ("cuda -> tensorrt",)
    one = table(layer("a", 3, "a", place="tensorrt"))
    assert [group.notes for group in compare_layers(base, one).groups] == [(), ("only in base",)]


def test_equal_tables_have_nothing_to_explain() -> None:
    same = table(layer("a", 1, "a"), layer("b", 2, "b"))
    found = compare_layers(same, same)
    assert (found.change_ns, found.explaining(), found.matched) == (0.0, [], 1.0)
    assert all(not group.notes for group in found.groups)


def test_a_part_is_called_after_what_computes_and_not_after_what_feeds_it() -> None:
    base = table(layer("c", 1, "/c/Conv"))
    new = table(layer("q", 2, "w_DequantizeLinear", "x_DequantizeLinear", "/c/Conv", "y_QuantizeLinear"))
    assert [group.name for group in compare_layers(base, new).groups] == ["/c/Conv + 3 more"]
    alone = table(layer("x_QuantizeLinear", 2, "x_QuantizeLinear"))
    assert [group.name for group in compare_layers(table(), alone).groups] == ["x_QuantizeLinear"]
