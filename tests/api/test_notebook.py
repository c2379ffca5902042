# SPDX-License-Identifier: Apache-2.0
"""Records as pandas and Arrow tables, the example that shows it, and what is said where the libraries are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farm import Farm
from farm.contract.record import Record
from farm.errors import UnavailableError
from farm.store import Store
from tests.report import demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with made-up records, one of them refused, and a file that is none."""
    root = tmp_path_factory.mktemp("notebook") / "store"
    store = Store(root)
    store.create()
    for record in demo.rough_sweep():
        store.records.write(record)
    (next(store.records.files()).parent / "foreign.json").write_text('{"rows": [1, 2]}')
    return root


def test_records_are_a_list_as_before(place: Path) -> None:
    records = Farm(home=place.parent, store=place).records()
    assert isinstance(records, list) and len(records) == 24
    assert [bad.path.name for bad in records.bad] == ["foreign.json"]
    assert all(isinstance(r, Record) or r in records.bad for r in records)


def test_pandas_has_a_row_per_record_and_types_that_keep_what_is_not_there(place: Path) -> None:
    pandas = pytest.importorskip("pandas")
    farm = Farm(home=place.parent, store=place)
    table = farm.records().to_pandas()
    assert len(table) == 23
    assert (table.batch_size.dtype.name, table.latency_ms.dtype.name) == ("Int64", "float64")
    assert str(table.started_at.dt.tz) == "UTC"
    refused = table[table.outcome == "unsupported"].iloc[0]
    assert refused.batch_size is pandas.NA and refused.failure_message == (
        "this stack's onnxruntime has no static quantizer"
    )
    known = {record.run_id: record for record in farm.records() if isinstance(record, Record)}
    for row in table[table.outcome == "ok"].itertuples():
        assert row.latency_ms == known[row.run_id].metrics["latency_ms"]


def test_a_result_becomes_the_same_tables(place: Path) -> None:
    pytest.importorskip("pyarrow")
    found = Farm(home=place.parent, store=place).results(where="outcome = 'ok'").select(["run_id", "started_at"])
    table = found.to_arrow()
    assert table.num_rows == len(found.rows) and str(table.schema.field("started_at").type) == "timestamp[us, tz=UTC]"


def test_no_records_are_a_table_without_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    Store(tmp_path / "s").create()
    assert Farm(home=tmp_path, store=tmp_path / "s").records().to_arrow().num_rows == 0


@pytest.mark.parametrize("name", ["pandas", "pyarrow"])
def test_without_the_libraries_the_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    if name == "pyarrow":
        pytest.importorskip("pandas")
    with pytest.raises(UnavailableError, match=f"{name} is not installed") as caught:
        Farm(home=place.parent, store=place).records().to_pandas()
    assert "inferfarm[notebook]" in str(caught.value.hint)


def test_the_example_runs(place: Path) -> None:
    pytest.importorskip("pandas")
    environment = {**os.environ, "FARM_STORE": str(place), "FARM_HOME": str(place.parent), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "notebook.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be used:" in done.stdout and "resnet18" in done.stdout and "pyarrow" in done.stdout
