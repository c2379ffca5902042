# SPDX-License-Identifier: Apache-2.0
"""Print the Markdown table of a store's GPU records: `python benchmarks/gpu/table.py STORE`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.store import Store

HEAD = tuple(
    """
    model|workflow|precision|batch|median ms|95 % interval|inputs/s|mismatch 1e-3 %|top-1 agreement|SM MHz|power W
    |memory MiB|build s|flags
    """.replace("\n", "").split("|")
)


def main() -> None:
    """Print provenance, the rows that ran, and those that did not."""
    records = [r for r in Store(Path(sys.argv[1])).records.iterate() if isinstance(r, Record)]
    ok = sorted((r for r in records if r.outcome is Outcome.OK), key=_order)
    print(provenance(records))
    print(f"\n{len(ok)} measured rows.\n")
    print("| " + " | ".join(cell.strip() for cell in HEAD) + " |\n|" + " --- |" * len(HEAD))
    for record in ok:
        print("| " + " | ".join(row(record)) + " |")
    print(not_ok(records))


def _order(record: Record) -> tuple[str, str, str, int, str]:
    job = record.job
    return job.workflow, job.model.name, job.precision, record.batch_size or 0, record.started_at


def row(record: Record) -> list[str]:
    """One record as cells."""
    job, interval = record.job, record.intervals.get("latency_ms")
    bounds = f"{interval.low:.4g} to {interval.high:.4g}" if interval else "-"
    memory = record.metrics.get("gpu_memory_peak_bytes")
    cells = [job.model.name, job.workflow, job.precision, str(record.batch_size), _number(record, "latency_ms"), bounds]
    cells += [_number(record, name) for name in ("throughput_per_s", "mismatch_1e-3_pct", "top1_agreement")]
    cells += [_number(record, name) for name in ("gpu_clock_sm_mhz", "gpu_power_w")]
    cells += ["-" if memory is None else f"{memory / 2**20:.0f}", _number(record, "build_s")]
    return [*cells, ", ".join(flag.name for flag in record.flags)]


def _number(record: Record, name: str) -> str:
    value = record.metrics.get(name)
    return "-" if value is None else f"{value:.4g}"


def provenance(records: list[Record]) -> str:
    """Where and with what, each thing once."""
    devices = {f"{r.device.name}, driver {r.device.facts.get('driver_version')}" for r in records if r.device}
    stacks = {
        f"Python {r.stack.python_version}: " + ", ".join(f"{k} {v}" for k, v in sorted(r.stack.libraries.items()))
        for r in records
        if r.stack
    }
    runners = {str(r.provenance.get("runner_digest"))[:12] for r in records}
    lines = [f"- Device: {text}" for text in sorted(devices)] + [f"- Stack: {text}" for text in sorted(stacks)]
    return "\n".join([*lines, f"- Measuring code (runner digests): {', '.join(sorted(runners))}"])


def not_ok(records: list[Record]) -> str:
    """What did not run, counted by reason."""
    counts = Counter(
        (r.job.workflow, r.job.precision, str(r.outcome), r.failure.message if r.failure else "")
        for r in records
        if r.outcome is not Outcome.OK
    )
    if not counts:
        return "\nEvery run is ok."
    lines = [
        f"- {n} x {workflow} {precision}: {outcome}: {why}" for (workflow, precision, outcome, why), n in counts.items()
    ]
    return "\n".join(["\n## Not ok\n", *lines])


if __name__ == "__main__":
    main()
