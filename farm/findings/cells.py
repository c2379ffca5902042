# SPDX-License-Identifier: Apache-2.0
"""Records by the cell that they measured, so that cells can be held against one another. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from farm import identity
from farm.canary import is_canary
from farm.compare.comparison import gap_s, processes_of, span
from farm.compare.model import Rules, Side
from farm.contract.metrics import METRICS
from farm.contract.outcome import Outcome
from farm.contract.record import LATENCY, Record
from farm.findings.model import Evidence

#: Processes of a side that are looked at, the newest: an exact rank test of more takes long and says no more.
MOST_PROCESSES = 15

Fields = tuple[tuple[str, str], ...]

#: Identity, conditions, and the latency points that have them, by time.
Series = tuple[Mapping[str, str], Mapping[str, str], Sequence[Record]]


@dataclass(frozen=True)
class Cell:
    """What one point took on one device: runs of one identity under the same conditions with the same software."""

    identity: Mapping[str, str]
    conditions: Mapping[str, str]
    device_class: str
    kind: str
    records: tuple[Record, ...]
    side: Side

    @property
    def way(self) -> str:
        """`onnx_tensorrt int8 (optimization_level=1)`."""
        names = ("options", "calibration", "concurrency")
        said = ", ".join(self.identity[name] for name in names if self.identity[name])
        return f"{self.identity['workflow']} {self.identity['precision']}" + (f" ({said})" if said else "")

    @property
    def place(self) -> str:
        """`NVIDIA H200 (lab-gpu1)`."""
        device = self.records[-1].device
        return f"{device.name} ({device.device_id})" if device else self.identity["device"]


def usable(records: Iterable[object]) -> Iterator[Record]:
    """The records of runs that were asked for and ended well; a canary is no result."""
    for record in records:
        if isinstance(record, Record) and record.outcome is Outcome.OK and not is_canary(record.job):
            yield record


def by_series(records: Iterable[Record]) -> Iterator[Series]:
    """The latency points by identity and conditions, each group by time."""
    found: dict[tuple[Fields, Fields, bool], list[Record]] = {}
    for record in records:
        if record.point == LATENCY and record.batch_size is not None and record.device is not None:
            key = (_fields(identity.identity(record)), _fields(identity.conditions(record)), bool(record.job.rebuild))
            found.setdefault(key, []).append(record)
    for (is_of, under, _), of in sorted(found.items(), key=lambda item: item[0]):
        yield dict(is_of), dict(under), sorted(of, key=lambda r: (r.started_at, r.run_id))


def cells_of(series: Iterable[Series], metric: str = "latency_ms") -> list[Cell]:
    """One cell for each point: of several softwares the newest alone. Rebuilds are left to a rule of their own."""
    found = []
    for is_of, under, of in series:
        newest = identity.software(of[-1])
        same = [r for r in of if identity.software(r) == newest]
        side = side_of(same, metric)
        device = of[-1].device
        if side is not None and device is not None and of[-1].job.rebuild is None:
            found.append(Cell(is_of, under, device.device_class, device.kind, tuple(same), side))
    return found


def side_of(records: Sequence[Record], metric: str = "latency_ms") -> Side | None:
    """The newest processes of some records that have the metric; None where none has."""
    made = [process for record in records for process in processes_of(record, METRICS[metric], Rules(metric=metric))]
    ordered = sorted(made, key=lambda p: (p.started_at, p.run_id, p.number))[-MOST_PROCESSES:]
    return Side(tuple(ordered)) if ordered else None


def evidence(cell: Cell, label: str = "", metric: str = "latency_ms") -> Evidence:
    """A cell as one side of a finding. The interval is of the only process, or the range of several."""
    shown = cell.side.shown
    only = shown[0] if len(shown) == 1 else None
    values = [process.value for process in shown]
    low, high = (only.low, only.high) if only else (min(values), max(values))
    bounded = low is not None and high is not None
    confidence = (only.confidence if only else max(0.0, 1 - 2 * 0.5 ** len(values))) if bounded else None
    return Evidence(
        label or cell.way,
        tuple(dict.fromkeys(process.run_id for process in shown)),
        metric,
        METRICS[metric].unit,
        cell.side.median,
        low if bounded else None,
        high if bounded else None,
        confidence,
        len(shown),
        cell.identity["device"],
        cell.identity["stack"],
    )


def differences(base: Cell, new: Cell, expected: Sequence[str]) -> tuple[str, ...]:
    """What differs between two cells beside what is compared: identity, shared libraries, time."""
    told = [
        f"{name} differs: {base.identity[name] or 'none'} against {new.identity[name] or 'none'}"
        for name in identity.IDENTITY
        if name not in expected and base.identity[name] != new.identity[name]
    ]
    old, young = identity.software(base.records[-1]), identity.software(new.records[-1])
    unlike = [f"{n} {old[n]} against {young[n]}" for n in sorted(old.keys() & young.keys()) if old[n] != young[n]]
    told += [f"versions differ: {', '.join(unlike)}"] if unlike else []
    gap = gap_s(base.records, new.records)
    told += [f"not measured alternately: {span(gap)} between the sides"] if gap is not None and gap >= 1 else []
    return tuple(told)


def _fields(of: Mapping[str, str]) -> Fields:
    return tuple(sorted(of.items()))
