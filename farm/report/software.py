# SPDX-License-Identifier: Apache-2.0
"""What differs between device classes besides the device: libraries, driver, kernel, interpreter, governor. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from farm.identity import software
from farm.report import text
from farm.report.select import Point, Selection
from farm.report.table import Cell, Column, Group, Row, Table, absent

#: With more versions of one library than this in a class, the cell says how many.
MOST_VERSIONS = 4


def software_table(selection: Selection) -> Table | None:
    """A row for each library, driver or interpreter whose version is not the same on every class. None if all agree."""
    differing = differing_software(selection)
    if not differing:
        return None
    known = _versions(selection)
    rows = []
    for name in differing:
        cells = (_cell(known[place].get(name, ())) for place in selection.classes)
        rows.append(Row(name, tuple(cells)))
    columns = tuple(Column(place, numeric=False) for place in selection.classes)
    caption = (
        "Versions as the measuring processes saw them, where they are not the same on every device. A difference in"
        " speed between devices is one of hardware and of these together."
    )
    return Table("software-across", "Stacks that differ", caption, "Software", columns, (Group("", tuple(rows)),), "")


def differing_software(selection: Selection) -> tuple[str, ...]:
    """Names of what at least two classes have in versions that differ, sorted."""
    known = _versions(selection)
    names = {name for found in known.values() for name in found}
    return tuple(sorted(name for name in names if len({v[name] for v in known.values() if name in v}) > 1))


def _versions(selection: Selection) -> dict[str, dict[str, tuple[str, ...]]]:
    """The versions of each library on each class, sorted."""
    return {place: _of(p for p in selection.ran if p.series.device_class == place) for place in selection.classes}


def _of(points: Iterable[Point]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for point in points:
        for name, version in software(point.record).items():
            found.setdefault(name, set()).add(version)
    return {name: tuple(sorted(versions)) for name, versions in found.items()}


def _cell(versions: tuple[str, ...]) -> Cell:
    if not versions:
        return absent("no run of this device says it")
    return Cell(text.listed(versions) if len(versions) <= MOST_VERSIONS else f"{len(versions)} versions")
