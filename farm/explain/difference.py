# SPDX-License-Identifier: Apache-2.0
"""Two runs of one model, part by part: which parts explain the difference, and what is different about them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from farm.contract.layers import BETWEEN, Layer, LayerTable
from farm.explain.match import gathered, groups, keys

#: Words of a tactic that a person can read; the rest is in the table.
_LONGEST = 60
#: Nodes that feed others: a part is not called after them where it has any other.
_FEEDS = ("QuantizeLinear", "DequantizeLinear", "Cast", "Transpose")


@dataclass(frozen=True)
class Group:
    """The rows of either side that are one part of the model; of one side alone where the other has none.

    `notes` say what differs: fusion, precision, place, tactic.
    """

    name: str
    base: tuple[Layer, ...]
    new: tuple[Layer, ...]
    notes: tuple[str, ...]

    @property
    def base_ns(self) -> float:
        """The time of base's rows."""
        return sum(layer.time_ns for layer in self.base)

    @property
    def new_ns(self) -> float:
        """The time of new's rows."""
        return sum(layer.time_ns for layer in self.new)

    @property
    def change_ns(self) -> float:
        """New less base: above zero where new is slower."""
        return self.new_ns - self.base_ns


@dataclass(frozen=True)
class Difference:
    """All parts, those with the largest change first. `matched` is the share of both sides' time in parts of both."""

    base_ns: float
    new_ns: float
    groups: tuple[Group, ...]
    matched: float

    @property
    def change_ns(self) -> float:
        """New less base."""
        return self.new_ns - self.base_ns

    def explaining(self, share: float = 0.8) -> list[Group]:
        """The fewest parts that make up so much of the change: of those that go the same way, the largest first."""
        same = [group for group in self.groups if group.change_ns * self.change_ns > 0]
        found, done = list[Group](), 0.0
        for group in same:
            if done >= share * abs(self.change_ns):
                break
            found.append(group)
            done += abs(group.change_ns)
        return found


def compare_layers(base: LayerTable, new: LayerTable) -> Difference:
    """Match the rows of two tables, and say of each part how it changed."""
    base_keys, new_keys = keys(base.layers, new.layers)
    # Where each side has all of its rows in one place, that is no news of any one row.
    mixed = any(len({layer.place for layer in table.layers} - {BETWEEN}) > 1 for table in (base, new))
    found = [
        _named([base.layers[i] for i in a], [new.layers[i] for i in b], mixed)
        for a, b in groups(base_keys, new_keys)
        if any(base_keys[i] for i in a) or any(new_keys[i] for i in b)
    ]
    nameless = [
        gathered([layer for layer, names in zip(table.layers, own, strict=True) if not names])
        for table, own in ((base, base_keys), (new, new_keys))
    ]
    for kind in dict.fromkeys([*nameless[0], *nameless[1]]):
        found.append(_of_a_kind(kind, nameless[0].get(kind, []), nameless[1].get(kind, []), mixed))
    ordered = sorted(found, key=lambda group: -abs(group.change_ns))
    both = sum(group.base_ns + group.new_ns for group in ordered if group.base and group.new)
    return Difference(base.sum_ns, new.sum_ns, tuple(ordered), both / ((base.sum_ns + new.sum_ns) or 1.0))


def _named(base: Sequence[Layer], new: Sequence[Layer], mixed: bool) -> Group:
    """A part with names in the model: called after the first node that computes, of the row with the most time."""
    named = [layer for layer in (*base, *new) if layer.origins]
    origins = max(named, key=lambda layer: layer.time_ns).origins
    name = next((each for each in origins if not each.endswith(_FEEDS)), origins[0])
    more = max(len({origin for layer in side for origin in layer.origins}) for side in (base, new)) - 1
    return Group(
        f"{name} + {more} more" if more > 0 else name, tuple(base), tuple(new), tuple(_notes(base, new, mixed))
    )


def _of_a_kind(kind: str, base: Sequence[Layer], new: Sequence[Layer], mixed: bool) -> Group:
    """What has no name in the model, all that does the same together."""
    rows = max(len(base), len(new))
    name = f"{kind} x {rows}" if rows > 1 else (*base, *new)[0].name
    return Group(name, tuple(base), tuple(new), tuple(_notes(base, new, mixed)))


def _notes(base: Sequence[Layer], new: Sequence[Layer], mixed: bool) -> Iterator[str]:
    if not base or not new:
        yield "only in new" if not base else "only in base"
        return
    if len(base) != len(new):
        less, more = sorted((len(base), len(new)))
        yield f"{more} rows fused into {less} in {'new' if len(base) > len(new) else 'base'}"
    told = [("", _precisions(base), _precisions(new)), ("tactic ", _tactic(base), _tactic(new))]
    if mixed:
        told.append(("", _places(base), _places(new)))
    for what, one, other in told:
        if one != other and one and other:
            yield f"{what}{one} -> {other}"


def _precisions(layers: Sequence[Layer]) -> str:
    return "+".join(dict.fromkeys(layer.precision for layer in _by_time(layers) if layer.precision))


def _places(layers: Sequence[Layer]) -> str:
    return "+".join(dict.fromkeys(layer.place for layer in _by_time(layers)))


def _tactic(layers: Sequence[Layer]) -> str:
    """That of the row with the most time."""
    tactic = _by_time(layers)[0].tactic or ""
    return tactic if len(tactic) <= _LONGEST else tactic[: _LONGEST - 3] + "..."


def _by_time(layers: Sequence[Layer]) -> list[Layer]:
    return sorted(layers, key=lambda layer: -layer.time_ns)
