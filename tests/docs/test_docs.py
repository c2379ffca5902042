# SPDX-License-Identifier: Apache-2.0
"""What the docs say is what the code has: metrics, settings, workflows, failure references, commands, links."""

from __future__ import annotations

import ast
import re
import signal
from pathlib import Path

import pytest

from farm.cli.main import COMMANDS
from farm.contract.catalogue import WORKFLOWS
from farm.contract.metrics import METRICS
from farm.contract.record import Record
from farm.settings import Settings
from tests.docs.tables import ROOT, with_metric_tables, with_threshold_table

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
#: Strings of that shape that are no references.
NOT_REFERENCES = {
    "utf-8", "rev-parse", "inferfarm-worker", "task-started", "task-progress", "take-back", "cpu-thermal",
    "auto-generated", "daemon-reload", "tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13", "cuda-python",
    "onnxruntime-gpu", "onnxruntime-training", "onnxruntime-openvino", "pytorch-eager", "tz-seconds",
    "max-autotune", "reduce-overhead", "nvidia-modelopt", "pytorch-quantization", "pillow-simd",
    "gpu-thermal", "tj-thermal", "tj-therm", "jetson-agx", "jetson-agx-xavier", "tensorflow-cpu",
}  # fmt: skip


def test_the_tables_of_metrics_are_the_codes() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert with_metric_tables(page) == page, "run `python -m tests.docs.tables`"


def test_every_metric_is_in_one_group_and_every_group_is_whole() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    groups = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert len(groups) == len(set(groups)) == len({metric.group for metric in METRICS.values()})
    assert [name for name in METRICS if page.count(f"| `{name}` |") != 1] == []


def test_the_table_of_thresholds_is_the_codes() -> None:
    page = (ROOT / "docs/measuring.md").read_text()
    assert with_threshold_table(page) == page, "run `python -m tests.docs.tables`"


def test_every_flag_is_explained() -> None:
    """A flag is the first argument of `Flag(...)` somewhere."""
    named: set[str] = set()
    for package in ("farm", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            named |= set(re.findall(r'\bFlag\(\s*"([a-z_]+)"', path.read_text()))
    rows = [line for line in (ROOT / "docs/measuring.md").read_text().splitlines() if line.startswith("| `")]
    explained = set().union(*(re.findall(r"`([a-z_]+)`", row.split("|")[1]) for row in rows))
    assert len(named) > 10
    assert named - explained == set()


def test_every_key_of_a_record_is_documented() -> None:
    page = (ROOT / "docs/records.md").read_text()
    assert [f for f in Record.__dataclass_fields__ if f"`{f}`" not in page and f != "schema"] == []


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in page and f"`{name}." not in page] == []


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_every_workflow_is_documented_with_its_options_and_precisions(name: str) -> None:
    page = (ROOT / "docs/workflows.md").read_text()
    section = page.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]
    words = [*WORKFLOWS[name].options, *WORKFLOWS[name].precisions]
    assert [word for word in words if f"`{word}" not in section] == []


def test_the_table_of_scenarios_is_the_catalogues() -> None:
    section = (ROOT / "docs/measuring.md").read_text().split("## Scenarios", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    told = {name: cell.strip() for names, cell in rows for name in re.findall(r"`([a-z_]+)`", names)}
    assert told == {name: ", ".join(info.scenarios) for name, info in WORKFLOWS.items()}


def _strings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_failure_reference_is_explained_and_no_other() -> None:
    files = [ROOT / "farm/devices.py", ROOT / "farm/contract/concurrency.py"]
    for package in ("workers", "scheduler"):
        files += (ROOT / package).rglob("*.py")
    strings = set().union(*(_strings(path) for path in files))
    kebab = {text for text in strings if KEBAB.fullmatch(text)} - NOT_REFERENCES
    explained = set()
    for line in (ROOT / "docs/troubleshooting.md").read_text().splitlines():
        if line.startswith("| `"):
            explained |= set(re.findall(r"`([a-z0-9-]+)`", line.split("|")[1]))
    assert kebab - explained == set(), "not in docs/troubleshooting.md"
    signals = {s.name.lower() for s in signal.Signals}
    assert explained - strings - signals == set(), "in docs/troubleshooting.md, not in the code"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`farm ([a-z][a-z-]*)", page.read_text())) | set(
        re.findall(r"^farm ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
    )
    assert named - set(COMMANDS) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_command_is_in_the_readme_or_the_docs() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in COMMANDS if f"farm {name}" not in text] == []
