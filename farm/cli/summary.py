# SPDX-License-Identifier: Apache-2.0
"""What `farm run` prints at its end: the result table, what is not ok and why, and where the report is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.common import EXIT_NOT_OK, cell, print_table

if TYPE_CHECKING:
    from farm.api import Farm


def finish(farm: Farm, submission: Any, report_dir: Path | None) -> int:
    """Print, write the report, and return the exit code: 1 when any run of the sweep is not ok."""
    sweep_id = submission.sweep_id
    table = farm.results(sweep_id)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    _print_latencies(rows)
    bad = [row for row in rows if row["outcome"] != "ok"]
    _print_bad(bad)
    ok = len(rows) - len(bad)
    click.echo(f"{ok} of {len(rows)} runs ok; records in {farm.store.root}")
    if submission.recorded == submission.total:
        click.echo("Nothing was measured anew: this sweep is recorded already. `--again` measures it once more.")
    files = farm.report(sweep_id, out_dir=report_dir or farm.settings.home / "reports" / sweep_id)
    click.echo(f"report: {files.html}")
    return EXIT_NOT_OK if bad or not rows else 0


def _print_latencies(rows: list[dict[str, Any]]) -> None:
    """One line per model, workflow and precision on a device; one column per batch size."""
    batches = sorted({row["batch_size"] for row in rows if row["batch_size"] is not None})
    lines: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for row in rows:
        key = (row["model"], row["workflow"], row["precision"], row["device_id"])
        lines.setdefault(key, {})[row["batch_size"]] = row
    columns = ["model", "workflow", "precision", "device", *[f"b{b} ms" for b in batches], "best inputs/s"]
    table = [[*key, *[_latency(points.get(b)) for b in batches], _best(points)] for key, points in lines.items()]
    print_table("Median latency (* flagged)", columns, table)


def _latency(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["outcome"] != "ok":
        return str(row["outcome"])
    return cell(row["latency_ms"]) + ("*" if row["flags"] else "")


def _best(points: dict[int, dict[str, Any]]) -> float | None:
    values = [row["throughput_per_s"] for row in points.values() if row["throughput_per_s"] is not None]
    return max(values, default=None)


def _print_bad(bad: list[dict[str, Any]]) -> None:
    if bad:
        table = [
            [r["model"], r["workflow"], r["precision"], r["batch_size"], r["outcome"], r["failure_message"]]
            for r in bad
        ]
        print_table("\nNot ok", ["model", "workflow", "precision", "batch", "outcome", "why"], table)
