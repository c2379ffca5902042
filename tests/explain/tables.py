# SPDX-License-Identifier: Apache-2.0
"""Layer tables of a few rows."""

from __future__ import annotations

from typing import Any

from farm.contract.layers import Layer, LayerTable


def layer(name: str, us: float, *origins: str, **more: Any) -> Layer:
    """A row of so many microseconds."""
    fields: dict[str, Any] = {"kind": "Conv", "place": "cpu", "precision": "fp32", "tactic": None, "calls": 1.0}
    return Layer(name, origins, time_ns=us * 1e3, share=0.0, **fields | more)


def table(*layers: Layer, wall_us: float | None = None, clock: str = "host", notes: tuple[str, ...] = ()) -> LayerTable:
    """A table of them; without a wall clock, that of all rows together."""
    total = sum(each.time_ns for each in layers)
    wall_ns = total if wall_us is None else wall_us * 1e3
    return LayerTable("test", clock, "median", 10, wall_ns, total, list(layers), list(notes))
