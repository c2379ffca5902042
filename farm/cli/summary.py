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
    _print_latencies([row for row in rows if row["point"] not in ("accuracy", "pipeline")])
    _print_pipelines([row for row in rows if row["point"] == "pipeline" and row["outcome"] == "ok"])
    _print_accuracies([row for row in rows if row["point"] == "accuracy" and row["outcome"] == "ok"])
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
    if not rows:
        return
    batches = sorted({row["batch_size"] for row in rows if row["batch_size"] is not None})
    lines: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for row in rows:
        key = (row["model"], row["workflow"], _precision(row), row["device_id"])
        lines.setdefault(key, {})[row["batch_size"]] = row
    columns = ["model", "workflow", "precision", "device", *[f"b{b} ms" for b in batches], "best inputs/s"]
    table = [[*key, *[_latency(points.get(b)) for b in batches], _best(points)] for key, points in lines.items()]
    print_table("Median latency (* flagged)", columns, table)


def _print_pipelines(rows: list[dict[str, Any]]) -> None:
    """One line per study of a pipeline."""
    if rows:
        columns = [
            "model",
            "workflow",
            "precision",
            "device",
            "batch",
            "serial/s",
            "overlapped/s",
            "speed-up",
            "infer %",
        ]
        table = [[r["model"], r["workflow"], _precision(r), r["device_id"], *_passes(r)] for r in rows]
        print_table("Pipeline, from JPEG file to top-5, images a second (* flagged)", columns, table)


def _passes(row: dict[str, Any]) -> list[Any]:
    share = row["pipeline_infer_share"]
    rates = [row["pipeline_serial_per_s"], row["pipeline_overlapped_per_s"], row["pipeline_speed_up"]]
    shown = [cell(rate) + ("*" if row["flags"] else "") for rate in rates]
    return [row["batch_size"], *shown, None if share is None else round(100 * share, 1)]


def _print_accuracies(rows: list[dict[str, Any]]) -> None:
    """One line per evaluation, in per cent."""
    if rows:
        columns = ["model", "workflow", "precision", "device", "top-1 %", "95 % interval", "top-5 %", "images"]
        table = [[r["model"], r["workflow"], _precision(r), r["device_id"], *_shares(r)] for r in rows]
        print_table("\nAccuracy (* flagged)", columns, table)


def _shares(row: dict[str, Any]) -> list[Any]:
    span = f"{row['top1_low']:.2%} to {row['top1_high']:.2%}".replace("%", "") if row["top1_low"] is not None else "-"
    top1, top5 = ("-" if row[name] is None else f"{100 * row[name]:.2f}" for name in ("top1", "top5"))
    return [top1 + ("*" if row["flags"] else ""), span, top5, f"{row['accuracy_samples']:.0f}"]


def _precision(row: dict[str, Any]) -> str:
    """With what tells rows apart: the calibration of int8, and what was in flight."""
    scenario = row["scenario"] if row["scenario"] != "single" else None
    # One request at a time goes with the protocol's threads, which all rows of a sweep have.
    beside = ", ".join(filter(None, (row["calibration"], scenario, row["threads"] if scenario else None)))
    return f"{row['precision']} ({beside})" if beside else str(row["precision"])


def _latency(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["outcome"] != "ok":
        return str(row["outcome"])
    return cell(row["latency_ms"]) + ("*" if row["flags"] else "")


def _point(row: dict[str, Any]) -> str:
    if row["point"] == "accuracy":
        return "accuracy"
    return "whole job" if row["batch_size"] is None else f"batch {row['batch_size']}"


def _best(points: dict[int, dict[str, Any]]) -> float | None:
    values = [row["throughput_per_s"] for row in points.values() if row["throughput_per_s"] is not None]
    return max(values, default=None)


def _print_bad(bad: list[dict[str, Any]]) -> None:
    if bad:
        table = [[r["model"], r["workflow"], _precision(r), _point(r), r["outcome"], r["failure_message"]] for r in bad]
        print_table("\nNot ok", ["model", "workflow", "precision", "point", "outcome", "why"], table)
