# SPDX-License-Identifier: Apache-2.0
"""The index: always what the records say, however it came about."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from farm.contract.metrics import METRICS
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.errors import UnavailableError, UsageError
from farm.identity import series_id
from farm.store import Index, Store
from farm.store.columns import COLUMNS, TEXT_LIMIT, protocol_id
from farm.store.index import LOCK_TIMEOUT_S, MAX_PARTS
from farm.store.parquet import is_whole, write_parquet
from tests.factories import make_flag, make_job, make_record
from tests.store.processes import race


def write_runs(store: Store, count: int, start: int = 1) -> list[Record]:
    made = [make_record(batch_size=size, metrics={"latency_ms": float(size)}) for size in range(start, start + count)]
    for record in made:
        assert store.records.write(record)
    return made


def snapshot(store: Store) -> list[tuple[object, ...]]:
    return sorted(store.index.query(order=["run_id"]).rows, key=str)


def parts(store: Store) -> list[str]:
    names: list[str] = json.loads((store.root / "index/current.json").read_text())["parts"]
    return names


def test_a_row_shows_what_its_record_says(store: Store) -> None:
    job = make_job(generation=2)
    record = make_record(
        job=job,
        outcome=Outcome.FAILED,
        flags=[make_flag("unstable"), make_flag("throttled", "invalid")],
        ladder_stop="failed",
        started_at="2026-03-01T12:00:00.000001+02:00",
    )
    store.records.write(record)
    assert store.index.refresh() == 1
    (row,) = store.index.query().objects()
    expected = {
        "run_id": record.run_id,
        "job_id": job.job_id,
        "sweep_id": "sweep-1",
        "sweep": "sweep",
        "model": "resnet18",
        "workflow": "onnxruntime_cpu",
        "precision": "fp32",
        "point": "latency",
        "series_id": series_id(record),
        "batch_size": 1,
        "device_id": "box-cpu",
        "device_class": "cpu-test",
        "device_kind": "cpu",
        "host": "box",
        "stack": "default",
        "outcome": "failed",
        "failure_stage": "measure",
        "failure_reference": "test-failure",
        "failure_message": "it did not work",
        "flags": "unstable,throttled",
        "validity": "invalid",
        "protocol": "paper",
        "protocol_id": protocol_id(job.protocol),
        "attempt": 1,
        "generation": 2,
        "started_at": "2026-03-01T10:00:00.000001+00:00",
        "finished_at": "2026-03-01T10:00:09.250000+00:00",
        "processes": 1,
        "scenario": "single",
        "ladder_stop": "failed",
        "runner_digest": "ab" * 32,
        "git_revision": "cd" * 20,
        "latency_ms": 8.25,
        "latency_low_ms": 8.125,
        "latency_high_ms": 8.5,
        "latency_confidence": 0.95,
        "latency_scope": "within this run",
        "throughput_per_s": 121.2,
        "sample_count": 50.0,
        "mismatch_1e_3_pct": 0.5,
    }
    assert row == dict.fromkeys(COLUMNS) | expected
    assert list(row) == list(COLUMNS)


def test_options_and_scenario_tell_rows_apart(store: Store) -> None:
    record = make_record()
    switches = {"streams": 4, "contexts": 8, "threads": 1, "inter_threads": 2}
    protocol = replace(record.job.protocol, scenario="streams", **switches)
    options = {"optimization_level": 1, "cuda_graph": True}
    store.records.write(replace(record, job=replace(record.job, options=options, protocol=protocol)))
    (row,) = store.index.query().objects()
    assert row["options"] == "cuda_graph=true, optimization_level=1"
    assert (row["scenario"], row["threads"]) == ("streams 4, contexts 8", "threads 1, inter-op threads 2")


def test_a_refused_job_has_the_device_that_was_asked_for(store: Store) -> None:
    record = make_record(
        outcome=Outcome.UNSUPPORTED, batch_size=None, device=None, stack=None, metrics={}, intervals={}
    )
    store.records.write(record)
    (row,) = store.index.query().objects()
    assert (row["device_id"], row["batch_size"], row["stack"], row["latency_ms"]) == ("box-cpu", None, None, None)


def test_every_metric_has_a_column_that_needs_no_quotes() -> None:
    assert len(COLUMNS) == 45 + len(METRICS)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in COLUMNS)


def test_refreshing_bit_by_bit_equals_a_rebuild(store: Store) -> None:
    for step in range(MAX_PARTS + 3):
        write_runs(store, 2, start=1 + 2 * step)
        assert store.index.refresh() == 2
        assert store.index.refresh() == 0
    assert 1 < len(parts(store)) <= MAX_PARTS
    bit_by_bit = snapshot(store)
    assert len(bit_by_bit) == 2 * (MAX_PARTS + 3)
    assert store.index.rebuild() == len(bit_by_bit)
    assert len(parts(store)) == 1
    assert snapshot(store) == bit_by_bit


def test_a_record_of_an_older_day_that_comes_late_is_found(store: Store) -> None:
    write_runs(store, 1)
    store.index.refresh()
    store.records.write(make_record(batch_size=9, finished_at="2025-01-01T00:00:00+00:00"))
    assert store.index.refresh() == 1
    assert len(store.index.query().rows) == 2


def test_a_record_that_is_gone_leaves_the_index(store: Store) -> None:
    record, _ = write_runs(store, 2)
    store.index.refresh()
    store.records.day_path(record).unlink()
    store.records.path(record.run_id).unlink()
    store.index.refresh()
    assert [row["batch_size"] for row in store.index.query().objects()] == [2]


def test_an_empty_store_gives_an_empty_table_with_all_columns(store: Store) -> None:
    assert store.index.refresh() == 0
    table = store.index.query(where="latency_ms < 1")
    assert table.columns == list(COLUMNS)
    assert table.rows == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda index: shutil.rmtree(index),
        lambda index: (index / "current.json").unlink(),
        lambda index: (index / "current.json").write_text("{"),
        lambda index: (index / "current.json").write_text('{"columns": "other", "parts": []}'),
        lambda index: next(index.glob("*.parquet")).unlink(),
    ],
    ids=["no directory", "no list", "cut list", "other columns", "no part"],
)
def test_a_harmed_index_is_made_again_when_asked(store: Store, harm: object) -> None:
    write_runs(store, 3)
    store.index.refresh()
    before = snapshot(store)
    harm(store.root / "index")  # type: ignore[operator]
    assert snapshot(store) == before


def test_a_cut_part_is_named_by_a_query_and_mended_by_a_refresh(store: Store) -> None:
    write_runs(store, 3)
    store.index.refresh()
    (part,) = (store.root / "index").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UnavailableError, match="index cannot be read"):
        store.index.query()
    assert store.index.refresh() == 3
    assert len(store.index.query().rows) == 3


@pytest.mark.parametrize(
    ("harm", "whole"),
    [
        (lambda data: data, True),
        (lambda data: b"", False),
        (lambda data: data[:7], False),
        (lambda data: data[:-1], False),
        (lambda data: b"xxxx" + data[4:], False),
        (lambda data: data[:-8] + (len(data)).to_bytes(4, "little") + b"PAR1", False),
    ],
    ids=["sound", "empty", "a stump", "cut", "no Parquet", "contents longer than the file"],
)
def test_a_file_that_is_not_whole_is_known_without_a_database(
    tmp_path: Path, harm: Callable[[bytes], bytes], whole: bool
) -> None:
    path = tmp_path / "part.parquet"
    write_parquet([{"a": 1}], {"a": "INTEGER"}, path)
    path.write_bytes(harm(path.read_bytes()))
    assert is_whole(path) is whole
    assert not is_whole(tmp_path / "none.parquet")


REFRESH = """
store = Store(Path(sys.argv[1]))
me = int(sys.argv[2])
for number in range(12):
    store.records.write(make_record(run_id=f"run-{me}-{number}"))
    store.index.refresh()
    mine = store.index.query(where=f"starts_with(run_id, 'run-{me}-')").rows
    if len(mine) != number + 1:
        print("saw", len(mine), "of", number + 1)
print("end")
"""


def test_processes_that_write_and_refresh_at_once_all_see_their_own(store: Store) -> None:
    assert race(REFRESH, [[store.root, number] for number in range(3)]) == ["end"] * 3
    assert len(store.index.query().rows) == 36
    before = snapshot(store)
    store.index.rebuild()
    assert snapshot(store) == before


def test_a_refresh_waits_for_another_no_longer_than_told(store: Store) -> None:
    write_runs(store, 1)
    impatient = Index(store.records, store.root / "index", lock_timeout_s=0.2)
    began = time.monotonic()
    with store.index._locked(), pytest.raises(UnavailableError, match="another process"):
        impatient.refresh()
    assert time.monotonic() - began < LOCK_TIMEOUT_S
    assert impatient.refresh() == 1


def test_files_out_of_force_stay_an_hour_for_readers_and_then_go(store: Store) -> None:
    write_runs(store, 1)
    store.index.refresh()
    (old,) = (store.root / "index").glob("*.parquet")
    long_ago = time.time() - 9999
    os.utime(old, (long_ago, long_ago))
    store.index.rebuild()
    assert old.exists()
    os.utime(old, (long_ago, long_ago))
    store.index.rebuild()
    assert not old.exists()
    assert len(store.index.query().rows) == 1


def test_an_index_may_lie_outside_a_store_and_under_an_awkward_name(store: Store, tmp_path: Path) -> None:
    write_runs(store, 2)
    place = tmp_path / "a 'quoted' [1] *dir?"
    place.mkdir()
    index = Index(store.records, place / "index")
    assert index.refresh() == 2
    assert len(index.query(where="batch_size = 2").rows) == 1
    assert not (store.root / "index").exists()


def test_long_and_broken_text_does_not_stop_a_refresh(store: Store) -> None:
    record = make_record(outcome=Outcome.FAILED)
    assert record.failure is not None
    failure = replace(record.failure, message="\udc80\0\n'\"" + "x" * 20_000_000)
    store.records.write(replace(record, failure=failure))
    assert store.index.refresh() == 1
    (row,) = store.index.query(columns=["failure_message"]).rows
    assert str(row[0]).startswith("?\0\n'\"xxx")
    assert len(str(row[0])) == TEXT_LIMIT


def test_only_the_latest_of_each_point_is_shown_on_request(store: Store) -> None:
    """The job failed as a whole, then gave two points; one of them was measured a third time."""
    runs = [(0, None), (1, 1), (1, 2), (2, 2)]
    for generation, size in runs:
        store.records.write(make_record(job=make_job(generation=generation), batch_size=size))
    other = make_job(job_id="other", generation=0)
    store.records.write(make_record(job=other, batch_size=None, outcome=Outcome.UNSUPPORTED))
    store.index.refresh()
    columns = ["job_id", "generation", "batch_size"]
    job = make_job().job_id
    assert len(store.index.query(columns=columns).rows) == 5
    shown = store.index.query(columns=columns, order=["job_id", "batch_size"], latest=True).rows
    assert shown == [("other", 0, None), (job, 1, 1), (job, 2, 2)]


@pytest.mark.parametrize(
    "condition",
    [
        "outcome = 'failed'",
        "batch_size > 1",
        "records.batch_size = 1 and latency_ms < 9",
        "generation = 0",
        "point = 'accuracy'",
    ],
)
def test_the_latest_that_fit_are_the_fitting_ones_of_the_latest(store: Store, condition: str) -> None:
    for job, sizes in ((make_job(), (1, 2, 4)), (make_job(job_id="sweep-1-other", generation=1), (1, 2))):
        for size in sizes:
            outcome = Outcome.FAILED if size == 2 else Outcome.OK
            store.records.write(make_record(job=job, batch_size=size, outcome=outcome))
    again = make_job(generation=1)
    store.records.write(make_record(job=again, batch_size=2, metrics={"latency_ms": 3.0}))
    store.records.write(make_record(job=again, batch_size=4, outcome=Outcome.FAILED))
    store.index.refresh()
    shown = {str(row["run_id"]) for row in store.index.query(latest=True).objects()}
    fitting = {str(row["run_id"]) for row in store.index.query(where=condition).objects()}
    # A condition that asks about other rows takes another way to the same.
    for where in (condition, f"{condition} and run_id in (select run_id from records)"):
        found = [str(row["run_id"]) for row in store.index.query(where=where, latest=True).objects()]
        assert sorted(found) == sorted(shown & fitting)


def test_a_condition_does_not_bring_back_what_is_no_longer_the_latest(store: Store) -> None:
    store.records.write(make_record(outcome=Outcome.FAILED))
    store.records.write(make_record(job=make_job(generation=1)))
    store.index.refresh()
    assert store.index.query(where="outcome = 'failed'", latest=True).rows == []


def test_a_sweep_is_found_by_id_and_by_name(store: Store) -> None:
    for number, name in enumerate(["one", "two", "it's"]):
        job = make_job(job_id=f"job-{number}", sweep_id=f"{name[:2]}-{number}", sweep_name=name)
        store.records.write(make_record(job=job))
    store.index.refresh()
    for asked in ("on-0", "one"):
        assert store.index.query(asked, columns=["sweep_id"]).rows == [("on-0",)]
    assert store.index.query("it's", columns=["sweep"]).rows == [("it's",)]
    assert store.index.query("' OR true --").rows == []


def test_rows_come_in_the_order_asked_for_and_what_is_missing_last(store: Store) -> None:
    write_runs(store, 3)
    store.records.write(make_record(batch_size=9, metrics={}))
    store.index.refresh()
    for order, expected in (("latency_ms", [1.0, 2.0, 3.0, None]), ("-latency_ms", [3.0, 2.0, 1.0, None])):
        assert [row[0] for row in store.index.query(columns=["latency_ms"], order=[order]).rows] == expected


def test_exports_hold_the_same_numbers(store: Store, tmp_path: Path) -> None:
    latency = 0.1 + 0.2
    store.records.write(make_record(metrics={"latency_ms": latency}, job=make_job(sweep_name='a,"b"\nü')))
    store.index.refresh()
    table = store.index.query()
    (row,) = json.loads(table.to_json())
    assert row == table.objects()[0]
    assert row["latency_ms"] == latency
    (line,) = csv.DictReader(io.StringIO(table.to_csv()))
    assert float(line["latency_ms"]) == latency
    assert (line["sweep"], line["load_ms"], line["batch_size"]) == ('a,"b"\nü', "", "1")
    for form in ("csv", "json", "parquet"):
        table.write(tmp_path / f"out.{form}", form)
    assert (tmp_path / "out.csv").read_bytes().decode() == table.to_csv()
    assert (tmp_path / "out.json").read_text() == table.to_json()
    with duckdb.connect() as database:
        found = database.execute(f"FROM '{tmp_path / 'out.parquet'}'")
        kinds = {column[0]: str(column[1]) for column in found.description}
        (back,) = found.fetchall()
    assert kinds == {column.name: column.kind for column in COLUMNS.values()}
    assert dict(zip(kinds, back, strict=True))["latency_ms"] == latency
    assert {p.name for p in tmp_path.iterdir()} == {"store", "out.csv", "out.json", "out.parquet"}


def test_an_export_to_what_is_no_file_is_refused(store: Store, tmp_path: Path) -> None:
    table = store.index.query()
    for form in ("csv", "json", "parquet"):
        with pytest.raises(UsageError, match="not a file"):
            table.write(tmp_path, form)
        with pytest.raises(UnavailableError, match="No such file"):
            table.write(tmp_path / "nowhere" / "x", form)
    with pytest.raises(UsageError, match="xml"):
        table.write(tmp_path / "x", "xml")


def test_columns_are_chosen_by_name_and_metrics_also_by_their_own(store: Store) -> None:
    write_runs(store, 1)
    table = store.index.query(columns=["mismatch_1e-3_pct", "run_id"])
    assert table.columns == ["mismatch_1e_3_pct", "run_id"]
    assert table.select(["run_id"]).rows == [(table.rows[0][1],)]
    assert table.select(None) is table
    with pytest.raises(UsageError, match="'host'"):
        table.select(["host"])
    for wrong in (["latency"], ["run_id; DROP TABLE records"], ["*"], []):
        with pytest.raises(UsageError) as caught:
            store.index.query(columns=wrong)
        assert "latency_ms" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no column 'nothing'"):
        store.index.query(order=["-nothing"])
