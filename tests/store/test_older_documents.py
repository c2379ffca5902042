# SPDX-License-Identifier: Apache-2.0
"""Records and sweeps as older farms wrote them (tests/fixtures/schema) still read, mean the same and are never changed.

A file is named KIND-SCHEMA-NUMBER-WHAT.json and was written by the farm's own code of that time: one for every schema
version and, within a version, one for every time that fields came. Whoever adds fields adds files; none is ever edited.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farm.contract.outcome import Outcome
from farm.contract.record import RECORD_SCHEMA, Record
from farm.store import Store
from farm.store.columns import row_of
from farm.store.records import load_record
from farm.sweep import SweepSpec
from farm.sweep.spec import SWEEP_SCHEMA
from scheduler.expand import expand

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "schema"


def written(kind: str) -> list[Path]:
    return sorted(FIXTURES.glob(f"{kind}-*.json"))


@pytest.mark.parametrize(
    ("kind", "newest"), [("record", RECORD_SCHEMA), ("failure", RECORD_SCHEMA), ("sweep", SWEEP_SCHEMA)]
)
def test_there_is_one_of_every_older_schema_version(kind: str, newest: int) -> None:
    versions = {int(path.name.split("-")[1]) for path in written(kind)}
    # Of the newest there need be none: the rest of the tests writes that.
    assert {1, *range(1, newest)} <= versions <= set(range(1, newest + 1))
    assert all(json.loads(path.read_text())["schema"] == int(path.name.split("-")[1]) for path in written(kind))


@pytest.mark.parametrize("path", written("record"), ids=lambda path: path.stem)
def test_an_older_record_says_what_it_said(path: Path, store: Store) -> None:
    record = load_record(Path("sweep-1-0123456789abcdef-g0-b1.json"), path.read_bytes())
    assert isinstance(record, Record), record
    assert record.schema == RECORD_SCHEMA
    assert (record.outcome, record.batch_size, record.point) == (Outcome.OK, 1, "latency")
    assert record.metrics == {"latency_ms": 8.25, "energy_per_input_j": None}
    assert record.withheld == {"latency_p99_ms": "needs 662 samples, has 50"}
    assert (record.samples[0].count, record.artifacts[0].build_s) == (50, 1.5)
    assert record.job.run_id(1) == record.run_id
    protocol = record.job.protocol
    assert (protocol.name, protocol.warmup_rule, protocol.processes, protocol.scenario) == (
        "paper",
        "fixed",
        1,
        "single",
    )
    assert row_of(record)["latency_ms"] == 8.25


@pytest.mark.parametrize("path", written("failure"), ids=lambda path: path.stem)
def test_an_older_failure_says_what_it_said(path: Path) -> None:
    record = load_record(Path("sweep-1-0123456789abcdef-g0-b2.json"), path.read_bytes())
    assert isinstance(record, Record), record
    assert record.outcome is Outcome.OUT_OF_MEMORY
    assert record.failure is not None
    assert (record.failure.reference, record.ladder_stop) == ("out-of-memory", "out_of_memory")


@pytest.mark.parametrize("path", written("sweep"), ids=lambda path: path.stem)
def test_an_older_sweep_keeps_its_id_and_its_jobs(path: Path) -> None:
    document = json.loads(path.read_text())
    spec = SweepSpec.from_document(document)
    assert spec.sweep_id == document["sweep_id"] == "sweep-0f69de349537"
    fresh = SweepSpec.from_document({key: value for key, value in document.items() if key != "sweep_id"})
    assert fresh.sweep_id == spec.sweep_id  # submitted again, it is known
    assert (spec.name, spec.priority) == ("sweep", 7)
    assert len(list(expand(spec))) == 12


def test_a_store_of_older_documents_is_whole_and_reading_changes_nothing(store: Store) -> None:
    record = written("record")[0].read_bytes()
    found = load_record(Path("sweep-1-0123456789abcdef-g0-b1.json"), record)
    assert isinstance(found, Record)
    for path in (store.records.path(found.run_id), store.records.day_path(found)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record)
    sweep = written("sweep")[0].read_bytes()
    (store.sweeps.root / "sweep-0f69de349537.json").write_bytes(sweep)
    missing = [problem for problem in store.verify() if problem.area != "blobs"]
    assert missing == []
    assert store.index.rebuild() == 1
    assert store.records.path(found.run_id).read_bytes() == record
    assert store.sweeps.read("sweep-0f69de349537") == json.loads(sweep)
