# SPDX-License-Identifier: Apache-2.0
"""Every number of a report leads to its record, and the record's line names the run and its file in the store."""

from __future__ import annotations

import re

import pytest

from farm.contract.record import Record
from farm.report.compose import compose
from farm.report.document import Document
from farm.report.select import record_path
from farm.report.table import Table
from tests.report import demo
from tests.report.test_across import both

#: Tables whose numbers are of no run: the records themselves, facts as they were recorded, and what rules looked at.
OF_NO_RUN = ("runs", "provenance", "software-across", "findings-examined")
#: Counts of what has no record.
OF_NO_RECORD = ("Not run", "No record")
SETS = {"rough": demo.rough_sweep, "accuracy": demo.with_accuracy, "two devices": both}


@pytest.fixture(scope="module", params=list(SETS))
def made(request: pytest.FixtureRequest) -> tuple[list[Record], Document]:
    """Records and their report."""
    records = SETS[request.param]()
    return records, compose(records, title="t")


def _tables(document: Document) -> list[Table]:
    return [table for section in document.sections for table in (*section.tables, *section.folded)]


def test_every_number_leads_to_a_line_of_the_appendix(made: tuple[list[Record], Document]) -> None:
    _, document = made
    lines = {row.anchor for table in _tables(document) if table.key == "runs" for _, row in table.rows}
    loose = []
    for table in _tables(document):
        if table.key.startswith(OF_NO_RUN):
            continue
        for _, row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                number = column.numeric and re.search(r"[1-9]", cell.text)
                if number and column.heading not in OF_NO_RECORD and cell.anchor not in lines:
                    loose.append((table.key, row.heading, column.heading, cell.text, cell.anchor))
    assert loose == []


def test_the_line_of_a_record_names_the_run_and_its_path(made: tuple[list[Record], Document]) -> None:
    records, document = made
    appendix = next(table for table in _tables(document) if table.key == "runs")
    said = {(cell.text, cell.sub) for _, row in appendix.rows for cell in row.cells}
    assert {(r.run_id, record_path(r)) for r in records} <= said
