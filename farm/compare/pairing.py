# SPDX-License-Identifier: Apache-2.0
"""Which records of base belong to which of new, what the treatment is, and what cannot be compared. Pure.

The treatment is what a person named, or, unasked, each field of `fields.AUTOMATIC` that has one value on each side, the
two different. Cells are paired by all other identity fields; then the conditions of each pair must agree.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from farm import identity as fields
from farm.compare.model import Difference, LeftOut, Rules
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.errors import UsageError

Key = tuple[str, ...]
_PLACE = ("stack", "device")


@dataclass(frozen=True)
class Pair:
    """The records of one cell that ended well. `cell` is what the sides share."""

    cell: dict[str, str]
    device: str
    base: tuple[Record, ...]
    new: tuple[Record, ...]


def check_treatment(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if each is a field that may be a treatment. Raises UsageError with the nearest one."""
    for name in names:
        if name not in fields.TREATMENTS:
            near = difflib.get_close_matches(name, fields.TREATMENTS, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"{name!r} cannot be the treatment of a comparison",
                hint=f"{hint}Choose of {', '.join(fields.TREATMENTS)}; all else must agree.",
            )
    return tuple(names)


def treatment_of(base: Sequence[Record], new: Sequence[Record], rules: Rules) -> tuple[Difference, ...]:
    """The identity fields that differ by intent, with their values. Weights and devices only when asked for."""
    old, young = (_values(records) for records in (base, new))
    if rules.treatment is not None:
        names = fields.with_what_it_brings(check_treatment(rules.treatment))
    else:
        names = tuple(n for n in fields.AUTOMATIC if len(old.get(n, ())) == len(young.get(n, ())) == 1)
    made = (Difference(name, old.get(name, ()), young.get(name, ())) for name in names)
    given = rules.treatment or ()
    return tuple(difference for difference in made if difference.base != difference.new or difference.name in given)


def pair(
    base: Sequence[Record], new: Sequence[Record], treatment: Sequence[str]
) -> tuple[tuple[Pair, ...], tuple[LeftOut, ...]]:
    """Pair the records by cell; what has no partner, failed, or is not comparable is left out with its reason."""
    free = set(fields.with_what_it_brings(tuple(treatment)))
    kept = [name for name in fields.IDENTITY if name not in free]
    places = _places([*base, *new], kept)
    old, young = _grouped(base, kept, places), _grouped(new, kept, places)
    pairs, left = [], []
    for key in sorted(old.keys() | young.keys(), key=_order):
        cell = dict(zip(kept, key, strict=True))
        made = Pair(cell, _devices(old.get(key, ()), young.get(key, ())), _ok(old.get(key)), _ok(young.get(key)))
        alone = _alone(key, kept, old, young)
        reason = alone or _failed(old.get(key, ()), young.get(key, ()), made) or _unlike(made, free)
        if reason:
            left.append(LeftOut(cell, made.device, reason, broke=key in young and bool(made.base) and not made.new))
        else:
            pairs.append(made)
    return tuple(pairs), tuple(left)


def software_differences(pairs: Sequence[Pair], *, same_thing: bool) -> tuple[Difference, ...]:
    """Versions that differ between the sides, of the libraries first, then the farm's own.

    Other workflows load other libraries: unless the sides are the `same_thing`, only what both have is told.
    """
    base = tuple(record for made in pairs for record in made.base)
    new = tuple(record for made in pairs for record in made.new)
    found = []
    for of in (fields.software, fields.farm_code):
        old, young = fields.per_side(of, base), fields.per_side(of, new)
        for name in sorted(old.keys() | young.keys()):
            if old.get(name) != young.get(name) and (same_thing or (name in old and name in young)):
                found.append(Difference(name, old.get(name, ()), young.get(name, ())))
    return tuple(found)


def _values(records: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """What the records have in each field that may be a treatment; only what ran has a stack and a device."""
    ran = _ok(records) or tuple(records)
    found = fields.per_side(fields.identity, ran) | fields.per_side(fields.conditions, ran)
    return {name: values for name, values in found.items() if name in fields.with_what_it_brings(fields.TREATMENTS)}


def _ok(records: Sequence[Record] | None) -> tuple[Record, ...]:
    return tuple(r for r in records or () if r.outcome is Outcome.OK and r.batch_size is not None)


def _grouped(records: Sequence[Record], kept: Sequence[str], places: dict[Key, set[Key]]) -> dict[Key, list[Record]]:
    """By cell. What never ran names no stack, perhaps no device; where one place ran the cell, it is of that."""
    found: dict[Key, list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.started_at, r.run_id)):
        for entry in _entries(record):
            known = places.get(_where(entry, kept, placed=False), set())
            if record.stack is None and len(known) == 1:
                entry |= dict(zip(_PLACE, *known, strict=True))
            found.setdefault(tuple(entry[name] for name in kept), []).append(record)
    return found


def _places(records: Sequence[Record], kept: Sequence[str]) -> dict[Key, set[Key]]:
    """Stack and device of each cell, of what ran."""
    found: dict[Key, set[Key]] = {}
    for record in records:
        for entry in _entries(record) if record.stack else ():
            found.setdefault(_where(entry, kept, placed=False), set()).add(_where(entry, kept, placed=True))
    return found


def _where(entry: dict[str, str], kept: Sequence[str], *, placed: bool) -> Key:
    return tuple(entry[name] for name in (_PLACE if placed else kept) if placed or name not in _PLACE)


def _entries(record: Record) -> list[dict[str, str]]:
    """The identity of a record; that of each batch size where the whole job ended without a point."""
    is_of = fields.identity(record)
    if record.batch_size is not None:
        return [is_of]
    return [is_of | {"batch": str(size)} for size in record.job.batches.sizes]


def _order(key: Key) -> tuple[tuple[int, int, str], ...]:
    """As people count: batch 2 before batch 16."""
    return tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in key)


def _devices(old: Sequence[Record], young: Sequence[Record]) -> str:
    names = [sorted({fields.device(record) for record in records}) for records in (old, young) if records]
    return " -> ".join(dict.fromkeys(", ".join(of) for of in names))


def _alone(key: Key, kept: Sequence[str], old: dict[Key, list[Record]], young: dict[Key, list[Record]]) -> str:
    """Why a cell has no partner: what the nearest cell of the other side has otherwise."""
    if key in old and key in young:
        return ""
    here, there = ("base", young) if key in old else ("new", old)
    other = "new" if here == "base" else "base"
    ways = [[(kept[i], a, b) for i, (a, b) in enumerate(zip(key, far, strict=True)) if a != b] for far in there]
    near = min(ways, key=len, default=[])
    if not near or len(near) > 2:
        return f"only in {here}"
    shown = ", ".join(f"{name} ({a or 'none'} here, {b or 'none'} there)" for name, a, b in near)
    names = [name for name, _, _ in near]
    how = f"; `--treatment {','.join(names)}` compares them" if set(names) <= set(fields.TREATMENTS) else ""
    return f"only in {here}; the nearest in {other} differs in {shown}{how}"


def _failed(old: Sequence[Record], young: Sequence[Record], made: Pair) -> str:
    told = [_why(side, records) for side, records, ok in (("base", old, made.base), ("new", young, made.new)) if not ok]
    return "; ".join(told)


def _why(side: str, records: Sequence[Record]) -> str:
    last = records[-1]
    message = f": {last.failure.message}" if last.failure else ""
    return f"{side} {str(last.outcome).replace('_', ' ')}{message}"


def _unlike(made: Pair, free: set[str]) -> str:
    """The conditions that do not agree, within a side or between them, with their values."""
    return "; ".join([*_mixed(made), *_differing(made, free)])


def _mixed(made: Pair) -> Iterator[str]:
    """A side that is not one thing has no estimate."""
    for side, records in (("base", made.base), ("new", made.new)):
        of = (fields.identity, fields.conditions, fields.software)
        found = {name: values for each in of for name, values in fields.per_side(each, records).items()}
        for name, values in found.items():
            if len(values) > 1:
                yield f"{side} mixes {name} {', '.join(values)}: narrow it with --where"


def _differing(made: Pair, free: set[str]) -> Iterator[str]:
    old, young = (fields.per_side(fields.conditions, records) for records in (made.base, made.new))
    shown = [
        f"{name} ({old[name][0] or 'none'} against {young[name][0] or 'none'})"
        for name in old
        if name not in free and old[name] != young[name] and len(old[name]) == len(young[name]) == 1
    ]
    if shown:
        allowed = [name for name in old if name in fields.TREATMENTS and old[name] != young[name] and name not in free]
        how = f"; `--treatment {','.join(allowed)}` compares them" if len(allowed) == len(shown) else ""
        yield f"not comparable: other {', '.join(shown)}{how}"
