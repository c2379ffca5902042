# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: no errors, no requests, readable on a phone and in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from farm.report import write_report
from tests.report import demo

pytestmark = pytest.mark.browser

DARK, WHITE = "rgb(20, 24, 28)", "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the rough sweep's page is."""
    out = tmp_path_factory.mktemp("page")
    return write_report(
        demo.rough_sweep(), out, title="Demo sweep (test data)", samples=demo.load_samples
    ).html.as_uri()


class Visit:
    """A page that is open, with what it logged and asked for."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.logged: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.logged.append(message.text))
        page.on("pageerror", lambda error: self.logged.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address, timeout=120_000)


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Any]:
    """Opens the page with a viewport and colour scheme."""
    contexts = []

    def opened(width: int = 1280, scheme: str = "light") -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        return Visit(context.new_page(), address)

    yield opened
    for context in contexts:
        context.close()


def test_the_page_logs_nothing_and_asks_for_nothing(visit: Any, address: str) -> None:
    opened = visit()
    opened.page.wait_for_load_state("networkidle", timeout=120_000)
    assert opened.logged == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [address]


@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_has_a_size_and_drawn_marks(visit: Any, width: int) -> None:
    boxes = visit(width).page.eval_on_selector_all(
        ".panels svg",
        "all => all.map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height,"
        " s.querySelectorAll('path, line').length])",
    )
    assert len(boxes) == 11
    assert all(w > 200 and h > 60 and marks > 5 for w, h, marks in boxes)
    assert all(w <= width for w, _, _ in boxes)


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_but_tables_is_wider_than_the_window(visit: Any, width: int) -> None:
    page = visit(width).page
    page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg, .vh')
             && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert cut == []


def test_a_wide_table_scrolls_in_its_box_and_keeps_its_first_column(visit: Any) -> None:
    page = visit(390).page
    moved = page.evaluate(
        """() => { const box = document.querySelector('#throughput-cpu-test-data-8-core .scroll');
             const head = box.querySelector('tbody th[scope=row]');
             const before = head.getBoundingClientRect().left;
             box.scrollLeft = 120;
             return [box.scrollLeft, head.getBoundingClientRect().left - before]; }"""
    )
    assert moved == [120, 0]


def test_labels_of_a_chart_do_not_overlap(visit: Any) -> None:
    overlaps = visit(390).page.evaluate(
        """() => [...document.querySelectorAll('.panels svg')].flatMap(svg => {
             const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
             return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) => p.width && q.width
               && p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2)
               .map(([b]) => a + ' / ' + b)); })"""
    )
    assert overlaps == []


@pytest.mark.parametrize(("scheme", "background"), [("light", WHITE), ("dark", DARK)])
def test_page_and_drawings_follow_the_colour_scheme(visit: Any, scheme: str, background: str) -> None:
    page = visit(scheme=scheme).page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    shown = page.evaluate(
        """() => { const line = document.querySelector('.panels svg [stroke="var(--fig-s1)"]');
             return getComputedStyle(line).stroke; }"""
    )
    assert shown == {"light": "rgb(0, 114, 178)", "dark": "rgb(74, 163, 220)"}[scheme]


def test_print_is_light_even_in_the_dark(visit: Any) -> None:
    page = visit(scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == WHITE
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_text_stands_out_from_its_ground_in_both_schemes(visit: Any) -> None:
    for scheme in ("light", "dark"):
        ratios = visit(scheme=scheme).page.evaluate(_CONTRAST)
        assert min(ratios.values()) >= 4.5, (scheme, ratios)


_CONTRAST = """() => {
  const light = text => { const v = text.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const ratio = query => { const ink = light(getComputedStyle(document.querySelector(query)).color);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05); };
  return Object.fromEntries(['body', '.caption', 'td .sub', '.off', 'nav a', 'td .mark'].map(q => [q, ratio(q)]));
}"""


def test_a_number_leads_to_its_record(visit: Any) -> None:
    page = visit().page
    link = page.locator("#latency-cpu-test-data-8-core td a").first
    target = link.get_attribute("href")
    link.click()
    assert page.evaluate("location.hash") == target
    assert page.locator(f"[id='{target[1:]}']").is_visible()
