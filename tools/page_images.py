#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of docs/nightly.md: a night's report and a series' page of the made-up history, in Chromium.

python tools/page_images.py [DIR]        DIR: docs/images
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from farm.demo import write_demo  # noqa: E402 - found by the line above
from farm.history.calendar import read_calendar  # noqa: E402
from farm.reporting import publish_nights  # noqa: E402
from farm.store import Store  # noqa: E402

WIDTH, HEIGHTS = 880, {"night": 660, "series": 1180}


def draw(addresses: dict[str, str], out: Path) -> None:
    """Write the upper part of each page as OUT/NAME.png."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--headless", "--no-sandbox"])
        for name, address in addresses.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHTS[name]}, color_scheme="light")
            page.goto(address)
            page.screenshot(path=out / f"{name}.png")
        browser.close()


def main() -> None:
    """Make the history, its pages and the pictures."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images"
    with tempfile.TemporaryDirectory() as scratch:
        store, pages = Store(Path(scratch) / "store"), Path(scratch) / "pages"
        write_demo(store.root)
        publish_nights(store, pages, 1, samples=lambda _record: None)
        night = next(reversed(list(read_calendar(store).nights.values())))
        step = next(event for event in night.events if event.kind == "series" and event.metric == "latency_ms")
        series = pages / "series" / step.keys[0].partition(":")[0] / "index.html"
        draw({"night": (pages / night.night / "index.html").as_uri(), "series": series.as_uri()}, out)


if __name__ == "__main__":
    main()
