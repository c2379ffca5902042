# SPDX-License-Identifier: Apache-2.0
"""The same network in the same way on two classes of devices, slower on the stronger one. Pure.

Which one is stronger is measured, not looked up: the ratio of PyTorch fp32 throughput at the largest batch size that
both ran, where launches no longer count, over at least three other models. A compute capability says how old a design
is, not how much of it there is; the number of multiprocessors is no common unit either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from farm.compare.model import Side
from farm.contract.catalogue import BASELINES
from farm.findings import cells, judging, words
from farm.findings.cells import Cell
from farm.findings.model import Candidate, Finding
from farm.findings.scene import Scene, candidate
from farm.processes import between

RULE = "slower-on-stronger"

#: Fewer models would make one odd network the measure of a device.
FEWEST_MODELS = 3

_APART = frozenset({"device_class", "threads"})


class _Key(NamedTuple):
    """What two classes can share."""

    model: str
    rest: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Strength:
    """How many times the throughput of one class another one has: geometric mean over `models`, with its interval."""

    ratio: float
    low: float
    high: float
    models: tuple[str, ...]


def slower_on_stronger(scene: Scene) -> Iterator[Candidate]:
    """Every cell that two classes share, where one of them is clearly the stronger."""
    by_class = _by_class(scene.cells)
    for weak, strong in itertools.permutations(sorted(by_class), 2):
        ratios = ratios_of(by_class[weak], by_class[strong])
        known = {model: strength_of(ratios, model) for model in {key.model for key in by_class[strong]}}
        for key in sorted(by_class[weak].keys() & by_class[strong].keys()):
            base, new, strength = by_class[weak][key], by_class[strong][key], known[key.model]
            if strength is not None and strength.low > 1 and strength.ratio >= scene.limits["stronger_ratio"]:
                yield _candidate(scene, base, new, strength)


def ratios_of(weak: Mapping[_Key, Cell], strong: Mapping[_Key, Cell]) -> dict[str, float]:
    """Of each model how many times as fast PyTorch fp32 is on the second class, at the largest shared batch size."""
    largest: dict[str, tuple[int, float]] = {}
    for key in weak.keys() & strong.keys():
        cell = weak[key]
        batch = int(cell.identity["batch"] or 0)
        plain = cell.identity["workflow"] in BASELINES and cell.identity["precision"] == "fp32"
        if plain and not cell.identity["options"]:
            found = (batch, weak[key].side.median / strong[key].side.median)
            largest[key.model] = max(found, largest.get(key.model, found))
    return {model: ratio for model, (_, ratio) in largest.items()}


def strength_of(ratios: Mapping[str, float], without: str) -> Strength | None:
    """How much stronger the second class is; None where fewer than three models can say. `without`: the one judged."""
    others = {model: ratio for model, ratio in ratios.items() if model != without}
    spread = between(list(others.values()), "models") if len(others) >= FEWEST_MODELS else None
    if spread is None:
        return None
    mean = math.exp(sum(math.log(ratio) for ratio in others.values()) / len(others))
    return Strength(mean, spread.low, spread.high, tuple(sorted(others)))


def _by_class(found: Sequence[Cell]) -> dict[str, dict[_Key, Cell]]:
    """Cells by class and by what two classes can share; devices of a class are pooled, each a process or more."""
    made: dict[str, dict[_Key, Cell]] = {}
    for cell in found:
        under = {f"if {name}": value for name, value in cell.conditions.items() if name not in _APART}
        same = {name: value for name, value in cell.identity.items() if name not in ("device", "stack")}
        key = _Key(cell.identity["model"], tuple(sorted((same | under).items())))
        of = made.setdefault(cell.device_class, {})
        of[key] = _pooled(of[key], cell) if key in of else cell
    return made


def _pooled(one: Cell, other: Cell) -> Cell:
    both = sorted((*one.side.processes, *other.side.processes), key=lambda p: (p.started_at, p.run_id, p.number))
    records = tuple(sorted((*one.records, *other.records), key=lambda r: (r.started_at, r.run_id)))
    side = Side(tuple(both[-cells.MOST_PROCESSES :]))
    return Cell(one.identity, one.conditions, one.device_class, one.kind, records, side)


def _candidate(scene: Scene, base: Cell, new: Cell, strength: Strength) -> Candidate:
    floor = 1 + scene.rules.threshold
    answer = judging.above(base.side, new.side, floor, scene.limits["assumed_process_sd"], scene.rules)
    old, young = cells.evidence(base, base.device_class), cells.evidence(new, new.device_class)
    sentence = (
        f"{words.point(new)}, {new.way}, is slower on {new.device_class}, the stronger, than on {base.device_class}: "
        f"{words.quantity(young)} against {words.quantity(old)}, {words.times(answer.ratio)}, "
        f"{answer.sure}; in PyTorch fp32 {new.device_class} is {strength.ratio:.3g} times as fast "
        f"[{strength.low:.3g}, {strength.high:.3g}] over {len(strength.models)} other models."
    )
    finding = Finding(
        RULE,
        {"model": new.identity["model"], "batch": new.identity["batch"], "way": new.way}
        | {"base": base.device_class, "new": new.device_class},
        sentence,
        answer.ratio.value - 1,
        answer.sure,
        old,
        young,
        answer.ratio.value,
        answer.ratio.low,
        answer.ratio.high,
        answer.ratio.confidence,
        notes=(*cells.differences(base, new, ("device",)), *([answer.why] if answer.why else [])),
        numbers={"strength": strength.ratio, "strength_low": strength.low, "strength_models": list(strength.models)},
    )
    return candidate(finding, answer)
