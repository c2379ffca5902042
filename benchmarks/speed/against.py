# SPDX-License-Identifier: Apache-2.0
"""Did a ratio get worse? Two runs of the benchmarks, judged as `farm compare` judges two sides. Pure.

A round is to a line what a process is to a cell: the rounds' ratios are compared by exact rank statistics, with an
interval of 99 %, a band of what does not matter, and control of false alarms over all lines. Five rounds a side are the
fewest that can be judged.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.line import Line
from benchmarks.speed.table import number
from farm.compare.comparison import controlled
from farm.compare.model import Cell, Process, Rules, Side, Verdict
from farm.compare.verdict import compare_sides, word

#: The ratio of two times of one round still moves by some percent on a machine that does other work.
THRESHOLD = 0.05


def judged(before: Sequence[Line], after: Sequence[Line], threshold: float = THRESHOLD) -> list[Cell]:
    """A cell for each line that both runs have; their own words tell the rest."""
    rules = Rules(threshold=threshold)
    old = {_key(line): line for line in before}
    cells = [_cell(old[_key(line)], line, rules) for line in after if _key(line) in old]
    return controlled(cells, rules)


def alone(before: Sequence[Line], after: Sequence[Line]) -> list[str]:
    """What only one of the runs has, or what was held against something else there."""
    old, new = {_key(line) for line in before}, {_key(line) for line in after}
    return [f"only before: {_name(key)}" for key in sorted(old - new)] + [
        f"only now: {_name(key)}" for key in sorted(new - old)
    ]


def table(cells: Sequence[Cell]) -> str:
    """The verdicts as Markdown."""
    rows = ["| topic | what | before | now | now / before | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for cell in cells:
        ratio = cell.ratio
        within = f" ({number(ratio.low)} to {number(ratio.high)})" if ratio.low and ratio.high else ""
        told = "; ".join((str(cell.verdict), *cell.notes))
        rows.append(
            f"| {cell.cell['topic']} | {cell.cell['what']} | {number(cell.base.median)} | {number(cell.new.median)} "
            f"| {number(ratio.value)}{within} | {told} |"
        )
    return "\n".join(rows) + "\n"


def _cell(before: Line, after: Line, rules: Rules) -> Cell:
    base, new = _side(before), _side(after)
    name = {"topic": after.topic, "what": after.what}
    found = compare_sides(base, new, rules)
    # Every line is better the lower it is: its limit is the most that it may be.
    said = Verdict.UNCLEAR if found.direction is None else word(found.direction, after.unit, "lower")
    return Cell(name, "", base, new, found.ratio, said, (found.why,) if found.why else (), found.p_value)


def _side(line: Line) -> Side:
    return Side(tuple(Process(str(i), ratio, "", "") for i, ratio in enumerate(line.ratios)))


def _key(line: Line) -> tuple[str, str, str, str]:
    return line.topic, line.what, line.unit, line.against


def _name(key: tuple[str, ...]) -> str:
    return f"{key[0]}: {key[1]}"
