# SPDX-License-Identifier: Apache-2.0
"""A comparison as rows for people, and as flat objects for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from farm.compare.model import Cell, Comparison, LeftOut, Ratio, Side

HEADINGS = ("cell", "base", "new", "new / base", "verdict", "note")


def name_of(cell: dict[str, str]) -> str:
    """`resnet18/pytorch/fp32 b1 (channels_last=true)`: what is set, without the device that heads the table."""
    way = "/".join(cell[key] for key in ("model", "workflow", "precision") if cell.get(key))
    batch = f" b{cell['batch']}" if cell.get("batch") else ""
    rest = ", ".join(cell[key] for key in ("options", "calibration", "concurrency") if cell.get(key))
    stack = cell.get("stack", "default")
    rest = ", ".join(filter(None, [rest, "" if stack in ("", "default") else f"stack {stack}"]))
    return f"{way}{batch}{f' ({rest})' if rest else ''}"


def by_device(comparison: Comparison) -> dict[str, list[Cell]]:
    """The cells of each device, both in order."""
    found: dict[str, list[Cell]] = {}
    for cell in comparison.cells:
        found.setdefault(cell.device, []).append(cell)
    return dict(sorted(found.items()))


def row(cell: Cell) -> list[str]:
    """One cell under `HEADINGS`."""
    notes = "; ".join(cell.notes)
    return [name_of(cell.cell), side(cell.base), side(cell.new), ratio(cell.ratio), cell.verdict, notes]


def side(of: Side) -> str:
    """`8.251 (5)`: the median and its number of processes; `*` where all of them are flagged."""
    return f"{number(of.median)}{'' if of.sound else '*'} ({len(of.shown)})"


def ratio(of: Ratio) -> str:
    """`1.012 [0.998, 1.020]`; the confidence is told where it is less than 99 %, and the scope where it is narrower."""
    if of.low is None or of.high is None or of.confidence is None:
        return f"{of.value:.3f}"
    told = "" if of.confidence >= 0.99 else f" {100 * of.confidence:.0f} %"
    within = "" if of.scope == "between processes" else f", {of.scope}"
    return f"{of.value:.3f} [{of.low:.3f}, {of.high:.3f}]{told}{within}"


def number(value: float) -> str:
    """Four significant digits; whole numbers from 10,000 on."""
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"


def header(comparison: Comparison) -> Iterator[str]:
    """What is compared, what differs, and what holds for all of it: a line each."""
    rules = comparison.rules
    treatment = "; ".join(str(d) for d in comparison.treatment) or "none: the same twice"
    yield f"treatment: {treatment}"
    if comparison.software:
        yield "also different: " + "; ".join(str(d) for d in comparison.software)
    else:
        yield "same software on both sides"
    yield (
        f"{rules.metric} in {comparison.unit}, medians of processes (their number); "
        f"SAME within {100 * rules.threshold:g} %, intervals {100 * rules.confidence:g} % unless told"
    )
    if rules.accept:
        yield f"taken as sound in spite of these flags: {', '.join(rules.accept)}"
    yield from comparison.caveats


def left_out_row(left: LeftOut) -> list[str]:
    """One cell that was not compared."""
    return [name_of(left.cell), left.device, left.reason]


def objects(comparison: Comparison) -> list[dict[str, Any]]:
    """One flat object a cell, those that were left out too."""
    found: list[dict[str, Any]] = []
    for cell in comparison.cells:
        found.append(
            dict.fromkeys(("options", "calibration", "concurrency", "stack"), None)
            | cell.cell
            | {"device": cell.device, "metric": comparison.rules.metric, "unit": comparison.unit}
            | _side("base", cell.base)
            | _side("new", cell.new)
            | {
                "ratio": cell.ratio.value,
                "ratio_low": cell.ratio.low,
                "ratio_high": cell.ratio.high,
                "confidence": cell.ratio.confidence,
                "scope": cell.ratio.scope,
                "verdict": str(cell.verdict),
                "p_value": cell.p_value,
                "cycles_ratio": cell.cycles.value if cell.cycles else None,
                "note": "; ".join(cell.notes),
            }
        )
    for left in comparison.left_out:
        verdict = "BROKEN" if left.broke else "NOT COMPARED"
        found.append(left.cell | {"device": left.device, "verdict": verdict, "note": left.reason})
    return found


def document(comparison: Comparison) -> dict[str, Any]:
    """Everything, processes included, as JSON values."""
    return asdict(comparison) | {"regressed": comparison.regressed}


def _side(name: str, of: Side) -> dict[str, Any]:
    return {
        name: of.median,
        f"{name}_processes": len(of.sound),
        f"{name}_flagged": len(of.processes) - len(of.sound),
        f"{name}_runs": " ".join(dict.fromkeys(process.run_id for process in of.processes)),
    }
