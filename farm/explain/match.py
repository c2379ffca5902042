# SPDX-License-Identifier: Apache-2.0
"""Which rows of two tables are the same part of the model: by the names of what they were made from. Pure.

A library may fuse nodes that another runs apart, so rows are matched in groups: the smallest sets of rows of either
side that share no origin with any other row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from farm.contract.layers import Layer

#: What quantisers and converters add to the name of a node.
_ADDED = re.compile(r"(_quant|_quantized|_fp16)$")
#: The exporter's mark of a module's further calls: `relu_1`.
_AGAIN = re.compile(r"_\d+$")


def module_path(name: str) -> str:
    """The torch module behind the name that its exporter gave an ONNX node.

    `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`: each part is the module's own name, a child in a Sequential has
    its parent's before it. A name without a slash is a module's already.
    """
    if "/" not in name:
        return name
    parts = [part for part in name.split("/") if part][:-1]
    path: list[str] = []
    for part in parts:
        # `layer1` and then `layer1.0`: the second has the first in it.
        if path and part.startswith(path[-1] + "."):
            path.pop()
        path.append(part)
    return ".".join(path)


def keys(a: Sequence[Layer], b: Sequence[Layer]) -> tuple[list[set[str]], list[set[str]]]:
    """The names that rows of two tables are matched by: of nodes where both have them, else of modules."""
    plain = [[{_ADDED.sub("", name) for name in layer.origins} for layer in side] for side in (a, b)]
    nodes = [any("/" in name for found in side for name in found) for side in plain]
    if all(nodes) or not any(nodes):
        return plain[0], plain[1]
    modules = {name for side, has in zip(plain, nodes, strict=True) if not has for found in side for name in found}
    folded = [
        [{_module(name, modules) for name in found} - {""} if has else found for found in side]
        for side, has in zip(plain, nodes, strict=True)
    ]
    return folded[0], folded[1]


def _module(name: str, modules: set[str]) -> str:
    path = module_path(name)
    first = _AGAIN.sub("", path)
    return first if path not in modules and first in modules else path


def groups(a: Sequence[Iterable[str]], b: Sequence[Iterable[str]]) -> list[tuple[list[int], list[int]]]:
    """Rows of either side, by index, that share names, directly or through others. A row without names stands alone."""
    parent: dict[tuple[int, int] | str, tuple[int, int] | str] = {}

    def find(x: tuple[int, int] | str) -> tuple[int, int] | str:
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    rows = [(side, index) for side, each in enumerate((a, b)) for index in range(len(each))]
    for side, index in rows:
        for name in (a, b)[side][index]:
            parent[find(name)] = find((side, index))
    found: dict[tuple[int, int] | str, tuple[list[int], list[int]]] = {}
    for side, index in rows:
        found.setdefault(find((side, index)), ([], []))[side].append(index)
    return list(found.values())


def gathered(layers: Sequence[Layer]) -> Mapping[str, list[Layer]]:
    """Rows without origins by what they do: what a library adds by itself, such as changes of format."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.kind or layer.name, []).append(layer)
    return found
