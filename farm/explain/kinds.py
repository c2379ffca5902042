# SPDX-License-Identifier: Apache-2.0
"""What the time goes to, whatever layer it is in: kinds of operator, and the types computed in. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from farm.contract.layers import Layer, LayerTable

#: An operator is one kind, whoever computes it in whatever type and layout: `QLinearConv`, `NhwcConv`, `Conv2d`.
_PREFIX = re.compile(r"^(QLinear|Nhwc|Q)(?=[A-Z])")
_DIMENSIONS = re.compile(r"(?<=[a-z])[123]d$")
#: What ONNX calls the operators that TensorRT, OpenVINO and torch have other names for.
_SYNONYMS = {
    "AvgPool": "AveragePool",
    "BatchNorm": "BatchNormalization",
    "Convolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "Gemm",
    "LayerNorm": "LayerNormalization",
    "Linear": "Gemm",
    "MatrixMultiply": "MatMul",
    "ReLU": "Relu",
    "SoftMax": "Softmax",
    "add": "Add",
    "mul": "Mul",
    "relu": "Relu",
}
#: What only changes the type of values computes in none.
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
CONVERTING = "conversions"


@dataclass(frozen=True)
class Kind:
    """All rows of one kind of operator, in two tables."""

    name: str
    base_rows: int
    new_rows: int
    base_ns: float
    new_ns: float

    @property
    def change_ns(self) -> float:
        """New less base."""
        return self.new_ns - self.base_ns


def kind_of(layer: Layer) -> str:
    """`Conv` for `QLinearConv`, `Conv2d` and `Convolution`; a row without a kind is one of its own."""
    kind = _DIMENSIONS.sub("", _PREFIX.sub("", layer.kind)).rstrip("_")
    return _SYNONYMS.get(kind, kind) or layer.name


def by_kind(base: Sequence[Layer], new: Sequence[Layer]) -> list[Kind]:
    """The kinds of either side, the largest change first."""
    names = dict.fromkeys(kind_of(layer) for layer in (*base, *new))
    kinds = []
    for name in names:
        before, after = ([layer.time_ns for layer in side if kind_of(layer) == name] for side in (base, new))
        kinds.append(Kind(name, len(before), len(after), sum(before), sum(after)))
    return sorted(kinds, key=lambda kind: -abs(kind.change_ns))


def by_precision(table: LayerTable) -> dict[str, float]:
    """The share of the rows' time in each type, the largest first.

    `conversions`: between types; `other`: rows that do not tell theirs.
    """
    times: dict[str, float] = {}
    for layer in table.layers:
        name = CONVERTING if layer.kind in _CONVERSIONS else layer.precision or "other"
        times[name] = times.get(name, 0.0) + layer.time_ns
    total = sum(times.values()) or 1.0
    return {name: time / total for name, time in sorted(times.items(), key=lambda item: -item[1])}
