# SPDX-License-Identifier: Apache-2.0
"""results.parquet has the rows of results.csv, with types, and nothing escaped."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import duckdb

from farm.contract.record import Flag
from farm.report import write_report
from tests.report import demo


def test_both_files_have_the_same_rows_and_columns(tmp_path: Path) -> None:
    files = write_report(demo.rough_sweep(), tmp_path, title="t", expected=[demo.job("vgg11")])
    assert files.csv is not None and files.parquet is not None
    with files.csv.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    found = duckdb.sql(f"SELECT * FROM read_parquet('{files.parquet}')")
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert found.columns == list(lines[0])
    assert len(rows) == len(lines) == 25 + 3
    for row, line in zip(rows, lines, strict=True):
        assert line["run_id"] == (row["run_id"] or "")
        assert [line["latency_ms"], line["batch_size"]] == [
            "" if row[name] is None else str(row[name]) for name in ("latency_ms", "batch_size")
        ]
    types = dict(zip(found.columns, map(str, found.types), strict=True))
    assert (types["latency_ms"], types["batch_size"], types["model"]) == ("DOUBLE", "BIGINT", "VARCHAR")


def test_text_is_kept_as_it_is_even_where_a_spreadsheet_would_take_it_for_a_formula(tmp_path: Path) -> None:
    record = demo.ok(demo.job(), 1, flags=[Flag("x", "info", "y")])
    record = replace(record, job=replace(record.job, sweep_name="=cmd()"))
    files = write_report([record], tmp_path, title="t")
    ((name,),) = duckdb.sql(f"SELECT DISTINCT sweep_name FROM read_parquet('{files.parquet}')").fetchall()
    assert name == "=cmd()"


def test_a_report_of_nothing_has_a_file_without_rows(tmp_path: Path) -> None:
    files = write_report([], tmp_path, title="t")
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{files.parquet}')").fetchall() == [(0,)]
