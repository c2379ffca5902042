# SPDX-License-Identifier: Apache-2.0
"""The pages of the made-up nights: they name what was put in and nothing else, and every link leads somewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

from farm.demo.world import INJECTED, NIGHTS, Injected, night_name
from farm.report.document import SIMULATED
from farm.reporting import publish_nights
from farm.store import Store

NEWEST = night_name(NIGHTS)
#: What a sentence of the summary says of each kind of change; `change` is what was put in.
SAID = {
    "latency_ms": r"became (?P<size>[\d.]+) % (slower|faster)",
    "host_rss_peak_bytes": r"takes (?P<size>[\d.]+) % more host memory",
    "top1": r"top-1 accuracy (?P<size>[\d.]+) % points lower",
    "outcome": r"refused before, now failed",
}
KINDS = {"series": ("slower", "better"), "device": ("slower",), "coverage": ("broke",)}


@pytest.fixture(scope="module")
def pages(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all pages are, with the newest report."""
    root = tmp_path_factory.mktemp("pages")
    publish_nights(Store(demo_store), root, 1, samples=lambda _record: None)
    return root


class Page(HTMLParser):
    """A page's links and ids, and the items of its summary with their classes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.summary: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.ids.add(found.get("id", ""))
        if tag == "a":
            self.links.append(found["href"])
        if tag == "li" and found.get("class"):
            self._inside = found["class"]
            self.summary.append((self._inside, ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == "li" else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            kind, words = self.summary[-1]
            self.summary[-1] = (kind, words + data)


def expected(each: Injected) -> re.Pattern[str]:
    """A pattern of the sentence that tells a change."""
    subject = rf"{each.device} as a whole" if each.case is None else rf"{'/'.join(each.case)}\b.* on {each.device}\b"
    return re.compile(rf"{subject}.*{SAID[each.metric]}.*since {night_name(each.night)}")


def changes(pages: Path, form: str) -> list[str]:
    """The sentences of the newest night's summary that tell changes: all before the one that counts points."""
    if form == "html":
        told = {"slower", "broke", "missing", "better", "settled"}
        return [words for kind, words in Page(pages / NEWEST / "index.html").summary if kind in told]
    text = (pages / NEWEST / "report.md").read_text()
    summary = [line for line in text.split("## ")[0].splitlines() if line.startswith("- ")]
    last = next(n for n, line in enumerate(summary) if "points ran and are ok" in line)
    return summary[:last]


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_the_report_names_exactly_what_was_put_in(pages: Path, form: str) -> None:
    sentences = changes(pages, form)
    for each in (each for each in INJECTED if each.kind):
        own = [sentence for sentence in sentences if expected(each).search(sentence)]
        assert len(own) == 1, (each.name, sentences)
        sentences.remove(own[0])
    assert sentences == []


def test_a_change_of_a_share_is_told_in_points(pages: Path) -> None:
    (said,) = [words for words in changes(pages, "html") if "top-1" in words]
    found = re.search(SAID["top1"], said)
    accuracy = next(each for each in INJECTED if each.metric == "top1")
    assert found is not None
    assert float(found["size"]) == pytest.approx(100 * 0.7612 * (1 - accuracy.factor), abs=0.1)


def test_every_page_says_that_it_is_simulated(pages: Path) -> None:
    found = sorted(pages.rglob("index.html"))
    assert len(found) > 40
    assert [path for path in found if SIMULATED.split(":")[1].split("'")[0] not in path.read_text()] == []
    assert SIMULATED in (pages / NEWEST / "report.md").read_text()


def test_every_link_resolves(pages: Path) -> None:
    known = {path: Page(path) for path in pages.rglob("index.html")}
    broken = []
    for path, page in known.items():
        for link in page.links:
            address, fragment = urldefrag(link)
            target = (path.parent / unquote(address)).resolve() if address else path
            if not target.is_file() or (fragment and target in known and fragment not in known[target].ids):
                broken.append((path.relative_to(pages), link))
    assert broken == []


def test_what_did_not_change_is_not_written_again(pages: Path, demo_store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (*pages.glob("series/*/*"), *pages.glob("2*/*"))}
    publish_nights(Store(demo_store), pages, 1, samples=lambda _record: None)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_from_the_index_to_a_night_to_a_series_and_back(pages: Path, chromium: Any, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.goto((pages / "index.html").as_uri(), timeout=120_000)
    seen = [page.evaluate("document.documentElement.scrollWidth")]
    for link in (f"#night-{NEWEST} a", "#changes-slower th a", "table th a", f"#night-{NEWEST} a"):
        page.click(link, timeout=120_000)
        page.wait_for_load_state()
        seen.append(page.evaluate("document.documentElement.scrollWidth"))
        if "/series/" in page.url:
            assert page.locator(".panels svg path.event").count() >= 1
    context.close()
    assert page.url.endswith(f"/{NEWEST}/index.html")
    assert seen == [width] * 5
    assert logged == []
