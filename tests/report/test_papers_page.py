# SPDX-License-Identifier: Apache-2.0
"""A paper's page as written: the files, the command that writes them, and the page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.cli.main import main
from farm.report.papers import papers, write_paper
from farm.store import Store
from tests.report import paper_demo
from tests.report.paper_demo import whole

EXPLORING = papers()["exploring-tensorrt"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the page of every cell of the quantization paper but W3's, which is not asked for."""
    of, out = papers()["quantization-soc"], tmp_path_factory.mktemp("paper")
    records = [r for r in whole(of) if r.job.workflow != "onnxruntime_trt"]
    write_paper(of.key, records, out, samples=lambda record: [10**6, 2 * 10**6] if record.samples else None)
    return out


def test_html_markdown_csv_and_figures_are_written_and_hold_together(written: Path) -> None:
    markdown, html = (written / "report.md").read_text(), (written / "index.html").read_text()
    drawn = {path.stem for path in (written / "figures").glob("*.png")}
    assert drawn == {f"fig-{n}" for n in range(2, 14)}
    assert set(re.findall(r"figures/([a-z0-9-]+)\.png", markdown)) == drawn
    assert (written / "results.csv").read_text().startswith("device_class,")
    for exhibit in papers()["quantization-soc"].exhibits:
        assert f"## {exhibit.label}" in markdown
        assert exhibit.label in html
    assert "| W3 ONNX Runtime | not asked | not asked | not asked |" in markdown
    assert "14.87" in markdown and "14.87" in html


def test_the_command_writes_the_page_and_lists_the_papers_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store")
    store.create()
    of = paper_demo.job(EXPLORING, "resnet18", EXPLORING.ways[0])
    for batch in (1, 2):
        made = paper_demo.timed(EXPLORING, of, "W0", batch)
        store.records.write(replace(made, samples=[]))

    def ended(paper: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as caught:
            main(["--store", str(store.root), "report", "--paper", paper, "-o", str(tmp_path / "out")])
        return caught.value.code, capsys.readouterr().err

    assert ended("exploring-tensorrt") == (0, "")
    assert "resnet18" in (tmp_path / "out" / "index.html").read_text()
    code, said = ended("explore")
    assert code == 2
    assert all(name in said for name in ("no paper 'explore'", *papers()))
    assert ended("quantization-soc")[0] == 3, "resnet18 is not in that paper"


@pytest.fixture
def page(chromium: Any, written: Path) -> Iterator[Any]:
    """The page at a phone's width, with what it logs and asks for."""
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    opened = context.new_page()
    opened.logged, opened.asked = [], []
    opened.on("console", lambda message: opened.logged.append(message.text))
    opened.on("pageerror", lambda error: opened.logged.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto((written / "index.html").as_uri(), timeout=120_000)
    yield opened
    context.close()


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_the_page_is_quiet_every_figure_is_drawn_and_every_link_leads_somewhere(page: Any) -> None:
    page.wait_for_load_state("networkidle", timeout=120_000)
    assert page.logged == []
    assert len([url for url in page.asked if not url.startswith("data:")]) == 1
    boxes = page.eval_on_selector_all(
        ".panels svg",
        "all => all.map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height,"
        " s.querySelectorAll('path, line').length])",
    )
    assert len(boxes) == 12
    assert all(200 < w <= 390 and h > 60 and marks > 5 for w, h, marks in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    broken = page.evaluate(
        "() => [...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    assert broken == []
