# SPDX-License-Identifier: Apache-2.0
"""Dashboard, alerts and docs name only metrics and labels that are served."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from farm.monitoring.families import FAMILIES
from tests.docs.tables import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/inferfarm.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy/prometheus/inferfarm-rules.yml").read_text())["groups"][0]["rules"]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
EXPRESSIONS = [*QUERIES, *(rule["expr"] for rule in RULES)]


def served() -> dict[str, set[str]]:
    """Every series by name with its labels."""
    found: dict[str, set[str]] = {}
    for name, family in FAMILIES.items():
        labels = set(family.labels)
        if family.kind == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


@pytest.mark.parametrize("expression", sorted(set(EXPRESSIONS)))
def test_a_query_names_what_is_served(expression: str) -> None:
    names = re.findall(r"\binferfarm_\w+", expression)
    assert names
    known = set().union(*(served()[name] for name in names))
    used = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression))
    for listed in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        used |= {word.strip() for word in listed.split(",")}
    assert used <= known


def test_every_metric_but_a_histograms_parts_is_on_the_dashboard() -> None:
    text = " ".join(QUERIES)
    assert [name for name in FAMILIES if name not in text] == []


def test_panels_have_places_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_docs_have_the_table() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    for name, family in FAMILIES.items():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        assert f"| `{name}` | {family.kind} | {labels} | {family.meaning} |" in page
    assert len(re.findall(r"^\| `inferfarm_", page, re.MULTILINE)) == len(FAMILIES)


def test_the_scrape_example_fits_what_is_served() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["basic_auth"]["username"] == "farm"
    assert job["static_configs"][0]["targets"] == ["controller:9464"]
