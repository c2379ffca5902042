# SPDX-License-Identifier: Apache-2.0
"""Write the tables of the docs that are made from the code: `python -m tests.docs.tables`."""

from __future__ import annotations

from pathlib import Path

from farm.contract.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- metrics: made from farm/contract/metrics.py by `python -m tests.docs.tables`, held equal by a test -->"
END = "<!-- end of metrics -->"


def metric_table() -> str:
    """The metric table as Markdown."""
    rows = [f"| `{m.name}` | {m.unit} | {m.better or '-'} | {m.description} |" for m in METRICS.values()]
    return "\n".join(["| metric | unit | better | meaning |", "| --- | --- | --- | --- |", *rows])


def with_metric_table(text: str) -> str:
    """`text` with the metric table between its markers."""
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1] if END in rest else rest
    return f"{head}{BEGIN}\n{metric_table()}\n{END}\n{tail.lstrip(chr(10)) and chr(10) + tail.lstrip(chr(10))}"


if __name__ == "__main__":
    page = ROOT / "docs/records.md"
    page.write_text(with_metric_table(page.read_text()))
