# SPDX-License-Identifier: Apache-2.0
"""The page of a series: its drawing, its events, its values."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from farm.history.model import Event, NightPoint, Series, State
from farm.report.render import to_html
from farm.report.trend_drawing import Mark, trend_svg
from farm.report.trends import Trend, trend_document

POINTS = tuple(NightPoint(f"2026-03-{day:02}", 10.0 if day < 8 else 11.2) for day in range(1, 15) if day != 5)
SERIES = Series("ab12", "latency_ms", "box-cpu", "cpu", "lower", {"model": "resnet18", "workflow": "pytorch",
    "precision": "fp32", "batch": "8", "calibration": "minmax"}, POINTS)  # fmt: skip
EVENT = Event(
    event_id="e1", kind="series", metric="latency_ms", device="box-cpu", keys=("ab12:latency_ms",),
    since="2026-03-08", night="2026-03-14", state=State.CONFIRMED, change=0.12, worse=True, cause=("torch 2.7 -> 2.8",),
)  # fmt: skip
FLAGGED = (NightPoint("2026-03-05", 30.0),)


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def labels(svg: str) -> list[str]:
    return [element.text or "" for element in drawn(svg).iter("text")]


def test_flagged_points_are_hollow_and_no_line_leads_to_them() -> None:
    svg = trend_svg("latency, ms", POINTS, FLAGGED, ())
    dots = [element.get("fill") for element in drawn(svg).iter("circle")]
    assert dots == ["var(--fig-s1)"] * len(POINTS) + ["var(--fig-surface)"]
    (line,) = [element.get("d", "") for element in drawn(svg).iter("path") if element.get("fill") == "none"]
    assert line.count(",") == len(POINTS)


def test_axes_have_units_round_values_and_dates() -> None:
    found = labels(trend_svg("latency, ms", POINTS, (), ()))
    assert found[0] == "latency, ms"
    assert {"10.0", "10.5", "11.0", "11.5", "Night (UTC date)", "1 Mar"} <= set(found)


def test_an_event_is_a_dashed_line_with_its_words() -> None:
    svg = trend_svg("latency, ms", POINTS, (), (Mark("2026-03-08", "+12 % <confirmed>", "s2"),))
    assert svg.count("stroke-dasharray") == 1
    assert "+12 % <confirmed>" in labels(svg)


@pytest.mark.parametrize("values", [(0.0,), (5.0, 5.0), (0.0, 0.0), (1e-7, 2e-7), (-1.0, 1.0), (3e11, 3.1e11)])
def test_any_values_can_be_drawn_and_lie_inside(values: tuple[float, ...]) -> None:
    points = [NightPoint(f"2026-03-{n:02}", value) for n, value in enumerate(values, 1)]
    for circle in drawn(trend_svg("x", points, (), ())).iter("circle"):
        assert 40 <= float(circle.get("cy", "nan")) <= 200


def test_no_points_draw_nothing() -> None:
    assert trend_svg("x", (), (), ()) == ""


def test_the_page_names_series_events_and_values() -> None:
    page = to_html(trend_document([Trend(SERIES, FLAGGED, (EVENT,))]), with_tables=False)
    assert "<h1>resnet18/pytorch/fp32 b8 minmax on box-cpu</h1>" in page
    assert "Latency +12.0 % (worse), confirmed, since 2026-03-08, with torch 2.7 -&gt; 2.8." in page
    assert re.search(r"2026-03-05</a></th>\s*<td[^>]*><span class=\"v\">30.00<sup", page)
    assert "report.md" not in page


def test_a_settled_event_is_drawn_quietly() -> None:
    (figure,) = trend_document([Trend(SERIES, (), (replace(EVENT, state=State.FIXED),))]).figures
    assert 'class="event"' in figure.panels[0].svg
    assert 'stroke="var(--fig-muted)" stroke-width="1.6"' in figure.panels[0].svg
