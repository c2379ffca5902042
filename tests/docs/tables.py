# SPDX-License-Identifier: Apache-2.0
"""Write the tables of the docs that are made from the code: `python -m tests.docs.tables`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from farm.contract.metrics import METRICS
from farm.thresholds import THRESHOLDS

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- metrics: made from farm/contract/metrics.py by `python -m tests.docs.tables`, held equal by a test -->"
END = "<!-- end of metrics -->"
THRESHOLDS_BEGIN = (
    "<!-- thresholds: made from farm/thresholds.py by `python -m tests.docs.tables`, held equal by a test -->"
)
THRESHOLDS_END = "<!-- end of thresholds -->"


def metric_tables() -> str:
    """The metric table as Markdown: a section for each group."""
    sections = []
    for group, metrics in groupby(METRICS.values(), key=lambda metric: metric.group):
        rows = [f"| `{m.name}` | {m.unit} | {m.better or '-'} | {m.description} |" for m in metrics]
        head = [f"## {group}", "", "| metric | unit | better | meaning |", "| --- | --- | --- | --- |"]
        sections.append("\n".join([*head, *rows]))
    return "\n\n".join(sections)


def threshold_table() -> str:
    """The table of thresholds as Markdown."""
    rows = [f"| `{name}` | {t.limit:g} | {t.unit} | {t.source} |" for name, t in THRESHOLDS.items()]
    return "\n".join(["| threshold | default | unit | source |", "| --- | --- | --- | --- |", *rows])


def with_metric_tables(text: str) -> str:
    """`text` with the tables of metrics between their markers."""
    return _between(text, BEGIN, END, metric_tables())


def with_threshold_table(text: str) -> str:
    """`text` with the table of thresholds between its markers."""
    return _between(text, THRESHOLDS_BEGIN, THRESHOLDS_END, threshold_table())


def _between(text: str, begin: str, end: str, table: str) -> str:
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1] if end in rest else rest
    return f"{head}{begin}\n{table}\n{end}\n{tail.lstrip(chr(10)) and chr(10) + tail.lstrip(chr(10))}"


if __name__ == "__main__":
    page = ROOT / "docs/metrics.md"
    page.write_text(with_metric_tables(page.read_text()))
    page = ROOT / "docs/measuring.md"
    page.write_text(with_threshold_table(page.read_text()))
