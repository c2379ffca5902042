# SPDX-License-Identifier: Apache-2.0
"""Print where the time of profiled runs goes, as Markdown: `python benchmarks/gpu/layers.py STORE...`.

One line for each run: its layers' sum against the unprofiled median, what ran outside of TensorRT, the longest layers.
Then, for each model and batch, what makes each run differ from `pytorch` fp32, as `farm explain A B` has it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from farm.contract.layers import LAYERS_ARTIFACT
from farm.contract.record import Record
from farm.explain import Profiled, compare_layers, outside_tensorrt, top, total_of
from farm.explaining import profiled
from farm.store import Store


def found(store: Store) -> Iterator[Profiled | Record]:
    """Every run with a table, and the records whose profile came to nothing."""
    for record in store.records.iterate():
        if isinstance(record, Record) and "layers" in record.provenance.get("profiles", {}):
            has = any(ref.kind == LAYERS_ARTIFACT for ref in record.artifacts)
            yield profiled(record.run_id, store, lambda name: name) if has else record


def line(run: Profiled) -> str:
    """One row of the table."""
    total, outside = total_of(run), outside_tensorrt(run.table)
    rows = top(run.table, 2)
    longest = "; ".join(f"{row.name[:50]} {row.precision or '?'} {100 * row.share:.0f} %" for row in rows)
    ratio = "-" if total.ratio is None else f"{total.ratio:.3f}"
    share = "-" if outside is None else f"{100 * outside:.1f} %"
    device = "-" if total.device_ms is None else f"{total.device_ms:.4g}"
    why = "within 10 %" if total.close else "; ".join(total.why)
    cells = [run.name, f"{total.sum_ms:.4g}", f"{total.median_ms or 0:.4g}", device, ratio, share, longest, why]
    return "| " + " | ".join(cells) + " |"


def pairs(runs: list[Profiled]) -> Iterator[str]:
    """What makes each run differ from pytorch in fp32 at the same batch."""
    for base in runs:
        if (base.record.job.workflow, base.record.job.precision) != ("pytorch", "fp32"):
            continue
        for new in runs:
            same = (new.record.job.model, new.record.batch_size) == (base.record.job.model, base.record.batch_size)
            if same and new is not base:
                change = compare_layers(base.table, new.table)
                matched = f"{100 * change.matched:.0f} % of the time in matched parts"
                yield f"\n{base.name} -> {new.record.job.name}: {change.change_ns / 1e6:+.4g} ms; {matched}\n"
                for group in change.groups[:5]:
                    notes = "; ".join(group.notes) or "nothing that the tables tell"
                    yield f"- {group.change_ns / 1e3:+.4g} us {group.name}: {notes}"


def main() -> None:
    """Read all stores, print."""
    every = [run for path in sys.argv[1:] for run in found(Store(Path(path)))]
    runs = sorted((run for run in every if isinstance(run, Profiled)), key=lambda run: run.name)
    print("| run | layers ms | median ms | device ms | ratio | outside TensorRT | longest | within 10 %, or why not |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for run in runs:
        print(line(run))
    for record in every:
        if isinstance(record, Record):
            print(f"\n{record.job.name}, batch {record.batch_size}: {record.provenance['profiles']['layers']}")
    print("\n".join(pairs(runs)))


if __name__ == "__main__":
    main()
