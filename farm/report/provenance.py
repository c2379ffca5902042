# SPDX-License-Identifier: Apache-2.0
"""Where the numbers come from: devices, hosts, stacks, versions, switches, digests; and where runs differ. Pure.

Facts that change from run to run by nature (a load average, a process id) are told from real differences by their
number of values: a fact with a new value in most runs is shown as its range and not called a difference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farm.contract.codec import to_json
from farm.contract.record import Record
from farm.identity import switches
from farm.report import text
from farm.report.curves import studied
from farm.report.document import SIMULATED
from farm.report.select import Point, Selection
from farm.report.table import Cell, Column, Group, Row, Table, run_anchor

#: Sections whose facts should agree before two numbers of one device class are compared.
COMPARED = ("Device", "Host", "Stack", "Protocol", "Provenance")
SECTIONS = ("Device", "Host", "Stack", "Protocol", "Effective", "Environment", "Provenance")
_LONGEST = 160
_MOST_VALUES = 6
#: Facts of the moment: recorded to judge one run by, and different in the next.
_MOMENTARY = (
    *("uptime_s", "load_1min", "memory_available_bytes", "swap_used_bytes", "pid"),
    *("waited_idle_s", "waited_cool_s", "earlier_tries"),
)


@dataclass(frozen=True)
class Fact:
    """One fact and the points that hold each of its values, most common value first."""

    section: str
    name: str
    values: tuple[tuple[str, tuple[Point, ...]], ...]
    total: int

    @property
    def common(self) -> bool:
        """Whether every run says this, and says the same."""
        return len(self.values) == 1 and len(self.values[0][1]) == self.total

    @property
    def volatile(self) -> bool:
        """Whether it changes by nature: a fact of the moment, or one with a new value in most runs."""
        if self.name.split(".")[-1] in _MOMENTARY:
            return True
        runs = sum(len(points) for _, points in self.values)
        return len(self.values) > _MOST_VALUES or (len(self.values) > 2 and len(self.values) > runs / 2)


def facts(record: Record) -> dict[tuple[str, str], str]:
    """Every fact of a record, as text, by section and name. Free-form parts are flattened with dots."""
    found: dict[tuple[str, str], str] = {}
    parts: dict[str, Any] = {
        "Host": record.host,
        "Protocol": {"name": record.job.protocol.name, **switches(record.job.protocol)},
        "Effective": {name: fact for name, fact in record.effective.items() if name != "pipeline"},
        "Environment": record.environment,
        "Provenance": record.provenance,
    }
    if record.device is not None:
        parts["Device"] = to_json(record.device)
    if record.stack is not None:
        parts["Stack"] = to_json(record.stack)
    for section, part in parts.items():
        for name, value in _flatten(part):
            found[section, name] = value
    return found


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _flatten(value[key], f"{prefix}.{key}" if prefix else str(key))
        return
    if value is None or value == "":
        return
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    shown = " ".join(shown.split())
    yield prefix, shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "\u2026"


def gather(points: Sequence[Point]) -> list[Fact]:
    """Every fact that any of `points` states, by section and name."""
    held: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for point in points:
        for key, value in facts(point.record).items():
            held.setdefault(key, {}).setdefault(value, []).append(point)
    found = []
    for section, name in sorted(held, key=lambda k: (SECTIONS.index(k[0]), k[1])):
        values = sorted(held[section, name].items(), key=lambda item: (-len(item[1]), item[0]))
        total = len(points)
        found.append(Fact(section, name, tuple((v, tuple(p)) for v, p in values), total))
    return found


#: Facts that a study of requests in flight sets.
_STUDIED = tuple(("Protocol", name) for name in ("name", "streams", "contexts", "sessions", "threads", "inter_threads"))


def differences(selection: Selection, device_class: str) -> list[Fact]:
    """Facts that ought to agree inside a device class and don't, each fact that changes by nature left out."""
    points = [p for p in selection.ran if p.series.device_class == device_class]
    inside = studied(selection)
    # What a study varies, it varies on purpose, and its tables say so.
    meant = _STUDIED if all(p.record.run_id in inside for p in points) else ()
    found = [f for f in gather(points) if f.section in COMPARED and len(f.values) > 1 and not f.volatile]
    return [f for f in found if (f.section, f.name) not in meant]


def difference_table(selection: Selection) -> Table | None:
    """Facts that differ between runs of one device class: read this before comparing them. None if there are none."""
    groups = []
    for device_class in selection.classes:
        rows = []
        for fact in differences(selection, device_class):
            for n, (value, points) in enumerate(fact.values):
                heading = f"{fact.section}: {fact.name}" if n == 0 else ""
                count = Cell(str(len(points)), anchor=run_anchor(points[0].record))
                rows.append(Row(heading, (Cell(value), count, Cell(_who(points)))))
        if rows:
            groups.append(Group(device_class, tuple(rows)))
    if not groups:
        return None
    columns = (Column("Value", numeric=False), Column("Runs"), Column("Which", numeric=False))
    caption = "Runs of one device class that did not have this in common. Read this before comparing them."
    return Table("differences", "Differences between runs", caption, "Fact", columns, tuple(groups), "Device class")


def provenance_table(selection: Selection, device_class: str) -> Table:
    """Every recorded fact of a device class: its value where all runs agree, its values or its range elsewhere."""
    points = [p for p in selection.points if p.series.device_class == device_class]
    rows: dict[str, list[Row]] = {}
    for fact in gather(points):
        rows.setdefault(fact.section, []).append(Row(fact.name, (Cell(_shown(fact)), Cell(_how_many(fact)))))
    groups = tuple(Group(section, tuple(found)) for section, found in rows.items())
    columns = (Column("Value", numeric=False), Column("Runs", numeric=False))
    caption = f"Every fact that the records of {device_class} state, gathered in the process that measured."
    key = f"provenance-{device_class}"
    return Table(key, "Provenance", caption, "Fact", columns, groups, "Section")


def _shown(fact: Fact) -> str:
    if len(fact.values) == 1:
        return fact.values[0][0]
    if not fact.volatile:
        return "; ".join(f"{value} ({text.plural(len(points), 'run')})" for value, points in fact.values)
    numbers = [n for value, _ in fact.values if (n := _number(value)) is not None]
    if len(numbers) == len(fact.values):
        return f"{text.number(min(numbers))} to {text.number(max(numbers))}"
    return f"{len(fact.values)} values, such as {fact.values[0][0]}"


def _number(value: str) -> float | None:
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _how_many(fact: Fact) -> str:
    stated = sum(len(points) for _, points in fact.values)
    return f"all {stated}" if stated == fact.total else f"{stated} of {fact.total}"


def _who(points: Sequence[Point]) -> str:
    names = sorted({f"{p.series.workflow} {p.series.precision}" for p in points})
    models = sorted({p.series.model for p in points})
    shown = text.listed(names) if len(names) <= 4 else f"{len(names)} workflows and precisions"
    return f"{shown}; {text.listed(models) if len(models) <= 4 else text.plural(len(models), 'model')}"


def simulated_words(selection: Selection) -> str:
    """What is said above a report with simulated records in it; empty where all were measured."""
    made_up = sum(bool(p.record.provenance.get("simulated")) for p in selection.points)
    if not made_up or made_up == len(selection.points):
        return SIMULATED if made_up else ""
    return f"{made_up} of {len(selection.points)} results here are simulated: nobody measured them."
