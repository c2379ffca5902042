# SPDX-License-Identifier: Apache-2.0
"""The sections of findings and of choices: what they say, that their numbers lead to runs, that figures are valid."""

from __future__ import annotations

import altair

from farm.report import compose, markdown
from farm.report.choice import choice_section, fronts
from farm.report.document import Section
from farm.report.findings import findings_section
from farm.report.render import to_html, to_markdown
from farm.report.select import select
from farm.report.table import Table
from tests.choice.test_choice import fp16, fp32, top1
from tests.findings.made import INT8, timed
from tests.report import demo

STEADY = [0.998, 0.999, 1.0, 1.001, 1.002]


def slow_int8() -> list[object]:
    return [
        timed(STEADY, workflow="onnx_tensorrt", precision="fp16"),
        timed([1.3 * s for s in STEADY], workflow="onnx_tensorrt", precision="int8", calibration=INT8),
    ]


def ways() -> list[object]:
    return [
        fp16(1.0, mb=800),
        fp16(1.5, mb=400, options={"optimization_level": 0}),
        fp32(3.0, mb=900),
        top1(3700, "onnx_tensorrt", "fp16"),
        top1(3700, "onnx_tensorrt", "fp16", options={"optimization_level": 0}),
        top1(3800, "pytorch", "fp32"),
    ]


def section(found: Section | None) -> Section:
    assert found is not None
    return found


def headings(table: Table) -> list[str]:
    return [row.heading for _, row in table.rows]


def test_a_finding_is_told_and_its_numbers_lead_to_its_runs() -> None:
    selection = select(slow_int8())
    made = section(findings_section(selection))
    assert [sentence.kind for sentence in made.sentences] == ["finding"]
    assert "longer than onnx_tensorrt fp16" in made.sentences[0].text
    (row,) = [row for _, row in made.tables[0].rows]
    anchors = {cell.anchor for cell in row.cells if cell.anchor}
    assert anchors == {f"run-{p.record.run_id}" for p in selection.points}
    assert "1 finding among 1 case examined" in made.intro


def test_what_was_examined_without_a_finding_is_said_too() -> None:
    selection = select([timed(1.0, workflow="torch_tensorrt", metrics={"fallback_node_share": 0.0})])
    made = section(findings_section(selection))
    assert made.sentences == () and made.tables == ()
    assert "int8 not faster than fp16" in headings(made.folded[0])
    assert findings_section(select([timed(1.0)])) is None
    assert findings_section(select([])) is None


def test_the_front_is_numbered_in_table_and_figure_alike() -> None:
    made = section(choice_section(select(ways())))
    (table,) = made.tables
    numbered = headings(table)
    assert [heading.split(".")[0] for heading in numbered] == ["1", "2", "3"]
    (figure,) = made.figures
    assert [panel.title for panel in figure.panels] == ["resnet18, batch 1"]
    assert "Top-1" in str(figure.panels[0].spec) and "Latency in ms" in str(figure.panels[0].spec)
    for spec in (figure.sheet, figure.panels[0].spec):
        altair.Chart.from_dict(spec, validate=True)


def test_fewer_than_three_ways_are_no_choice() -> None:
    assert choice_section(select(ways()[:2])) is None
    assert list(fronts(select([]))) == []


def test_both_are_in_the_page_and_in_markdown() -> None:
    document = compose.compose([*slow_int8(), *ways()], title="T")
    keys = [made.key for made in document.sections]
    assert keys.index("findings") < keys.index("choice") < keys.index("on-big")
    page, text = to_html(document), to_markdown(document)
    assert 'id="findings"' in page and 'id="choice"' in page
    assert "## Findings" in text and "![What no other way beats" in text
    assert markdown.escape(section(findings_section(select(slow_int8()))).sentences[0].text) in text


def test_a_report_of_everything_that_can_go_wrong_has_them_without_a_fault() -> None:
    selection = select(demo.rough_sweep())
    for made in (findings_section(selection), choice_section(selection)):
        assert made is None or made.tables or made.folded
