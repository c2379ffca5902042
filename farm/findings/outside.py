# SPDX-License-Identifier: Apache-2.0
"""Work that runs outside of the engine that was asked for, though the run is called by the engine's name. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from farm.contract.record import Record
from farm.findings import words
from farm.findings.cells import Cell, side_of
from farm.findings.model import Candidate, Evidence, Finding, Sure
from farm.findings.scene import Scene

SHARE, GROWN = "work-outside-engine", "work-outside-engine-grown"
METRIC = "fallback_node_share"


def work_outside(scene: Scene) -> Iterator[Candidate]:
    """The newest run of every series whose share outside is over the limit; a network in a workflow is told once."""
    limit = scene.limits["fallback_share"]
    together: dict[tuple[str, str, float], list[tuple[Cell, Record]]] = {}
    for cell, of in _series(scene):
        key = (cell.identity["model"], cell.identity["workflow"], round(_share(of[-1]), 9))
        together.setdefault(key, []).append((cell, of[-1]))
    for (model, workflow, share), near in sorted(together.items(), key=lambda item: item[0]):
        sentence = (
            f"{model}, {workflow} ({_spread(near)}): {words.percent(share)} of the graph's operators"
            f"{_counts(near[-1][1])} run outside of {_engine(near[-1][0])}."
        )
        runs = tuple(sorted(record.run_id for _, record in near))
        new = Evidence(workflow, runs, METRIC, "1", share, processes=len(runs))
        of_cell = {"model": model, "workflow": workflow, "share": f"{share:.6g}"}
        found = Finding(SHARE, of_cell, sentence, share, Sure.COUNTED, new=new, numbers={"limit": limit})
        yield Candidate(found, share > limit)


def work_outside_grown(scene: Scene) -> Iterator[Candidate]:
    """Neighbouring runs of a series, between which the share grew; software may differ, and is the likely cause."""
    for cell, of in _series(scene):
        for old, new in itertools.pairwise(of[-6:]):
            before, now = _share(old), _share(new)
            sentence = (
                f"{words.point(cell)}, {cell.way}, on {cell.place}: the share of the graph's operators outside of "
                f"{_engine(cell)} grew from {words.percent(before)} to {words.percent(now)}."
            )
            sides = _evidence(old, "earlier"), _evidence(new, "later")
            found = Finding(GROWN, _named(cell), sentence, now - before, Sure.COUNTED, *sides)
            yield Candidate(found, now - before > scene.limits["history_fallback"])


def _series(scene: Scene) -> Iterator[tuple[Cell, list[Record]]]:
    for is_of, under, of in scene.series:
        known = [record for record in of if _known(record)]
        device = known[-1].device if known else None
        side = side_of(known)
        if device is not None and side is not None:
            yield Cell(is_of, under, device.device_class, device.kind, tuple(known), side), known


def _spread(near: Sequence[tuple[Cell, Record]]) -> str:
    """`fp16, fp32, at batch 1, 32, on nvidia-h200`."""
    precisions = sorted({cell.identity["precision"] for cell, _ in near})
    batches = sorted({int(cell.identity["batch"]) for cell, _ in near})
    classes = sorted({cell.device_class for cell, _ in near})
    return f"{', '.join(precisions)}, at batch {', '.join(map(str, batches))}, on {', '.join(classes)}"


def _known(record: Record) -> bool:
    share = record.metrics.get(METRIC)
    return share is not None and 0 <= share <= 1


def _share(record: Record) -> float:
    return float(record.metrics[METRIC] or 0.0)


def _engine(cell: Cell) -> str:
    provider = {"onnxruntime_cuda": "the CUDA provider"}
    return provider.get(cell.identity["workflow"], "TensorRT")


def _counts(record: Record) -> str:
    """` (5 of 66)`, where the record counts them."""
    told, total = record.effective.get, record.effective.get("operators_total")
    left = told("operators_in_pytorch", told("operators_in_tensorflow"))
    return f" ({left} of {total})" if isinstance(left, int) and isinstance(total, int) else ""


def _evidence(record: Record, label: str) -> Evidence:
    device = record.device.device_id if record.device else ""
    stack = record.stack.name if record.stack else ""
    return Evidence(label, (record.run_id,), METRIC, "1", _share(record), processes=1, device=device, stack=stack)


def _named(cell: Cell) -> dict[str, str]:
    return {name: cell.identity[name] for name in ("model", "batch", "device")} | {"way": cell.way}
