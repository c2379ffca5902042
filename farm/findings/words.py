# SPDX-License-Identifier: Apache-2.0
"""Numbers in the sentences of findings. Pure."""

from __future__ import annotations

from farm.compare.model import Ratio
from farm.compare.table import number
from farm.findings.cells import Cell
from farm.findings.model import Evidence


def point(cell: Cell) -> str:
    """`resnet18 at batch 8`."""
    return f"{cell.identity['model']} at batch {cell.identity['batch']}"


def quantity(of: Evidence) -> str:
    """`0.187 ms`."""
    return "unknown" if of.value is None else f"{number(of.value)} {of.unit}".strip()


def times(ratio: Ratio) -> str:
    """`1.03 times [1.02, 1.04]`."""
    told = f"{ratio.value:.3g} times"
    return f"{told} [{ratio.low:.3g}, {ratio.high:.3g}]" if ratio.low is not None and ratio.high is not None else told


def percent(share: float, digits: int = 1) -> str:
    """`12.3 %`."""
    return f"{100 * share:.{digits}f} %"


def more(ratio: float) -> str:
    """How much longer: `12 % longer than`, or `2.1 times as long as` from twice on."""
    return f"{ratio:.2g} times as long as" if ratio >= 2 else f"{100 * (ratio - 1):.3g} % longer than"
