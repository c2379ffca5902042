# SPDX-License-Identifier: Apache-2.0
"""Compaction: the records of a day in one file, and everything that reads them as before."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from farm import nightly
from farm.api import Farm
from farm.cli.main import main
from farm.contract.record import Record
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.settings import Settings
from farm.store import BadRecord, Store, daily
from farm.store import stubs as stubs_module
from farm.store.columns import COLUMNS
from farm.store.compact import Compacted, before_which
from farm.store.gc import alone
from farm.store.index_writer import KINDS
from farm.store.records import load_record
from tests.factories import make_record, make_ref
from tests.store.test_gc import put

DAY, NEXT = date(2026, 3, 1), date(2026, 3, 2)


def write(store: Store, count: int, start: int = 1, **overrides: Any) -> list[Record]:
    made = [make_record(batch_size=size, **overrides) for size in range(start, start + count)]
    for record in made:
        assert store.records.write(record)
    return made


def compact(store: Store, before: date = NEXT) -> list[Compacted]:
    return list(store.compact(before))


def everything(store: Store) -> list[Record]:
    found = list(store.records.iterate())
    assert all(isinstance(each, Record) for each in found), found
    return sorted((each for each in found if isinstance(each, Record)), key=lambda record: record.run_id)


def json_files(store: Store) -> list[Path]:
    return list(store.records.files())


def sound(store: Store) -> None:
    assert [str(problem) for problem in store.verify()] == []


@pytest.fixture
def compacted(store: Store) -> tuple[Store, list[Record]]:
    records = write(store, 3)
    (done,) = compact(store)
    assert (done.day, done.records, done.left) == ("2026/03/01", 3, [])
    assert done.size_before > 0 < done.size_after
    return store, records


def test_every_way_to_a_record_leads_to_it_after_compaction(compacted: tuple[Store, list[Record]]) -> None:
    store, records = compacted
    assert json_files(store) == []
    assert everything(store) == records
    assert list(store.records.iterate("sweep-1")) == records
    assert list(store.records.iterate("another")) == []
    for record in records:
        assert store.records.exists(record.run_id)
        assert store.records.read(record.run_id) == record
    assert list(store.of_sweeps(["sweep-1"])) == records
    assert len(store.index.query().rows) == 3
    sound(store)


def test_the_bytes_come_back_as_they_were(store: Store) -> None:
    (record,) = write(store, 1, host={"hostname": 'bäx \u2028 \\ " \x07 \udcff', "n": 1e-300})
    data = store.records.path(record.run_id).read_bytes()
    compact(store)
    (row,) = daily.rows(store.records.day_file("2026/03/01"))
    assert row.data == data
    assert row.sha256 == hashlib.sha256(data).hexdigest()


def test_a_run_that_is_compacted_is_not_recorded_again(compacted: tuple[Store, list[Record]]) -> None:
    store, records = compacted
    other = replace(records[0], finished_at="2026-04-01T00:00:00+00:00")
    assert not store.records.write(records[0])
    assert not store.records.write(other)
    assert json_files(store) == []
    assert everything(store) == records


def test_late_records_lie_beside_and_are_folded_in(compacted: tuple[Store, list[Record]]) -> None:
    store, records = compacted
    late = write(store, 2, start=9)
    assert everything(store) == sorted(records + late, key=lambda record: record.run_id)
    assert store.index.refresh() == 5
    sound(store)
    (done,) = compact(store)
    assert (done.records, done.left) == (2, [])
    assert json_files(store) == []
    assert everything(store) == sorted(records + late, key=lambda record: record.run_id)
    assert store.index.refresh() == 0
    sound(store)
    assert compact(store) == []


def test_only_days_before_the_one_named_are_compacted_and_a_dry_run_changes_nothing(store: Store) -> None:
    write(store, 2)
    write(store, 2, start=7, finished_at="2026-03-02T00:00:00+00:00")
    told = list(store.compact(date(2026, 3, 3), dry_run=True))
    assert [(day.day, day.records) for day in told] == [("2026/03/01", 2), ("2026/03/02", 2)]
    assert len(json_files(store)) == 4
    assert [day.day for day in compact(store, DAY)] == []
    assert [day.day for day in compact(store, NEXT)] == ["2026/03/01"]
    assert len(json_files(store)) == 2


def test_what_is_not_sound_is_left_where_it_is_and_told(store: Store) -> None:
    records = write(store, 3)
    cut, misfiled, other = (store.records.day_path(record) for record in records)
    place = cut.parent
    cut.unlink()
    cut.write_bytes(store.records.path(records[0].run_id).read_bytes()[:100])
    (place / "elsewhere.json").write_bytes(
        store.records.path(records[1].run_id).read_bytes().replace(records[1].run_id.encode(), b"elsewhere")
    )
    (place.parent / "03").mkdir()
    misfiled.rename(place.parent / "03" / misfiled.name)
    changed = other.read_bytes().replace(b'"hostname": "box"', b'"hostname": "fox"')
    other.unlink()
    other.write_bytes(changed)
    first, second = compact(store, date(2026, 3, 9))
    told = {bad.path.name: bad.problem for bad in (*first.left, *second.left)}
    assert "not valid JSON" in told[cut.name]
    assert "wrong day" in told[misfiled.name]
    assert "which was first" in told[other.name]
    assert first.records == 1  # the one without a name by run gets one
    assert store.records.read("elsewhere").run_id == "elsewhere"
    assert {path.name for path in json_files(store)} == {cut.name, misfiled.name, other.name}


def test_a_damaged_days_file_is_told_by_all_and_overwritten_by_none(compacted: tuple[Store, list[Record]]) -> None:
    store, records = compacted
    write(store, 1, start=9)
    file = store.records.day_file("2026/03/01")
    damage = file.read_bytes()[:-20]
    file.unlink()
    file.write_bytes(damage)
    with pytest.raises(IntegrityError, match="cannot be read"):
        store.records.read(records[0].run_id)
    assert not store.records.exists("another")
    assert [type(each) for each in store.records.iterate()] == [BadRecord, Record]
    assert any("cannot be read" in str(problem) for problem in store.verify())
    (done,) = compact(store)
    assert done.records == 0
    assert "cannot be read" in done.left[0].problem
    assert file.read_bytes() == damage
    with pytest.raises(IntegrityError):
        store.collect_garbage()
    assert store.index.rebuild() == 1
    assert [bad.path for bad in store.index.problems] == [file]
    assert list(store.of_sweeps(["sweep-1"]))[-1] == store.index.problems[0]


def test_a_changed_row_is_found(compacted: tuple[Store, list[Record]], tmp_path: Path) -> None:
    store, records = compacted
    file = store.records.day_file("2026/03/01")
    with duckdb.connect() as database:
        changed = 'replace(record_json, \'"hostname": "box"\', \'"hostname": "fox"\') AS record_json'
        source = f"SELECT * REPLACE ({changed}) FROM '{file}'"
        database.execute(f"COPY ({source}) TO '{tmp_path / 'forged.parquet'}' (FORMAT parquet)")
    (tmp_path / "forged.parquet").replace(file)
    with pytest.raises(IntegrityError, match="not the bytes that were written"):
        store.records.read(records[0].run_id)
    assert len([problem for problem in store.verify() if "not the bytes" in str(problem)]) == 3
    write(store, 1, start=9)
    (done,) = compact(store)
    assert "not the bytes" in done.left[0].problem
    assert len(json_files(store)) == 1


def test_names_by_run_are_made_again_from_compacted_days(compacted: tuple[Store, list[Record]]) -> None:
    store, records = compacted
    (late,) = write(store, 1, start=9)
    aside = store.root / "by-run-lost"
    store.records.by_run.rename(aside)
    assert store.records.rebuild_by_run() == 4
    assert [store.records.read(record.run_id) for record in (*records, late)] == [*records, late]
    sound(store)


def test_garbage_is_collected_by_what_compacted_records_name(store: Store) -> None:
    kept, garbage = put(store, "samples"), put(store, "garbage")
    write(store, 1, samples=[make_ref(kept, 7)])
    compact(store)
    assert [info.sha256 for info in store.collect_garbage().removed] == [garbage]
    assert store.blobs.exists(kept)
    assert [row.sha256 for row in store.artifacts()] == [kept]


def test_compaction_and_collection_exclude_each_other(store: Store) -> None:
    write(store, 1)
    with alone(store.root):
        for use in (lambda: compact(store), store.collect_garbage, lambda: store.remove_record("x")):
            with pytest.raises(UnavailableError, match="another collection or compaction"):
                use()
    assert len(json_files(store)) == 1


@pytest.mark.parametrize("compacting", [False, True], ids=["a file", "compacted"])
def test_a_record_can_be_removed_in_either_form(store: Store, compacting: bool) -> None:
    records = write(store, 3)
    store.index.refresh()
    if compacting:
        compact(store)
    store.remove_record(records[1].run_id)
    assert not store.records.exists(records[1].run_id)
    assert everything(store) == [records[0], records[2]]
    store.index.refresh()
    assert [row["batch_size"] for row in store.index.query().objects()] == [1, 3]
    sound(store)
    with pytest.raises(UsageError, match="no record of run"):
        store.remove_record(records[1].run_id)
    assert store.records.write(records[1])
    assert len(everything(store)) == 3


def test_an_older_farm_refuses_a_store_with_compacted_days(compacted: tuple[Store, list[Record]]) -> None:
    store, _ = compacted
    assert (store.root / "store.json").read_text() == '{\n "layout": 2\n}\n'
    store.create()
    assert (store.root / "store.json").read_text() == '{\n "layout": 2\n}\n'


def test_a_store_that_was_copied_without_its_links_is_the_same(
    compacted: tuple[Store, list[Record]], tmp_path: Path
) -> None:
    store, records = compacted
    copy = Store(tmp_path / "copy")
    for path in store.root.rglob("*"):
        target = copy.root / path.relative_to(store.root)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    copy.create()
    assert everything(copy) == records
    assert [copy.records.read(record.run_id) for record in records] == records
    sound(copy)


def test_more_names_than_a_file_may_have(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stubs_module, "MOST_NAMES", 3)
    records = write(store, 8)
    compact(store)
    assert [store.records.read(record.run_id) for record in records] == records
    assert max(path.stat().st_nlink for path in store.records.by_run.glob("*/*.json")) <= 3
    assert list(store.records.temp.iterdir()) == []


def test_readers_see_every_record_while_days_are_compacted(store: Store) -> None:
    records = write(store, 4)
    for number in range(2, 8):
        records += write(store, 4, start=10 * number, finished_at=f"2026-03-0{number}T00:00:00+00:00")
    worker = threading.Thread(target=compact, args=(store, date(2026, 3, 9)))
    worker.start()
    seen: list[int] = []
    while worker.is_alive() or not seen:
        seen.append(len(everything(store)))
        assert all(store.records.exists(record.run_id) for record in records)
        assert store.records.read(records[len(seen) % len(records)].run_id)
    worker.join()
    assert set(seen) == {len(records)}
    assert json_files(store) == []


def rows_of(store: Store) -> list[tuple[object, ...]]:
    return sorted(store.index.query(order=["run_id"]).rows, key=str)


def test_the_index_of_compacted_days_is_that_of_their_files(store: Store) -> None:
    write(store, 3)
    write(store, 2, start=7, finished_at="2026-03-02T00:00:00+00:00")
    store.index.refresh()
    before = rows_of(store)
    compact(store)
    assert store.index.refresh() == 0
    assert rows_of(store) == before
    assert store.index.rebuild() == 5
    assert rows_of(store) == before


def older(file: Path, columns: str) -> None:
    """Write a day's file anew as an older farm would have."""
    aside = file.with_suffix(".older")
    with duckdb.connect() as database:
        database.execute(f"COPY (SELECT {columns} FROM '{file}') TO '{aside}' (FORMAT parquet)")
    aside.replace(file)


@pytest.mark.parametrize(
    "columns",
    ["* EXCLUDE (latency_ms, top1)", "* EXCLUDE (validity)", "* REPLACE (0 AS record_columns, 'x' AS model)"],
    ids=["a metric came", "a column came", "columns mean something else"],
)
def test_days_with_older_columns_are_indexed_with_the_new_ones(store: Store, columns: str) -> None:
    write(store, 3)
    write(store, 2, start=7, finished_at="2026-03-02T00:00:00+00:00")
    compact(store, date(2026, 3, 9))
    store.index.rebuild()
    before = rows_of(store)
    assert before[0][list(COLUMNS).index("latency_ms")] == 8.25
    older(store.records.day_file("2026/03/01"), columns)
    assert store.index.rebuild() == 5
    assert rows_of(store) == before


def test_the_index_looks_into_changed_days_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, 3)
    (kept,) = write(store, 1, start=7, finished_at="2026-03-02T00:00:00+00:00")
    store.index.refresh()
    opened: list[str] = []

    def watched(path: Path, data: bytes | None = None) -> Record | BadRecord:
        opened.append(path.name)
        return load_record(path, data)

    monkeypatch.setattr("farm.store.index_writer.load_record", watched)
    (late,) = write(store, 1, start=9)
    assert store.index.refresh() == 1
    assert opened == [f"{late.run_id}.json"]
    store.remove_record(kept.run_id)
    assert store.index.refresh() == 0
    assert opened == [f"{late.run_id}.json"]
    assert [row["batch_size"] for row in store.index.query().objects()] == [1, 2, 3, 9]


def test_a_run_with_two_records_is_indexed_once_and_again_when_one_goes(store: Store) -> None:
    (record,) = write(store, 1)
    store.index.refresh()
    again = store.records.root / "2026/03/05" / f"{record.run_id}.json"
    again.parent.mkdir(parents=True)
    again.write_bytes(store.records.day_path(record).read_bytes())
    store.index.refresh()
    assert len(store.index.query().rows) == 1
    store.records.day_path(record).unlink()
    store.index.refresh()
    assert len(store.index.query().rows) == 1
    again.unlink()
    store.index.refresh()
    assert len(store.index.query().rows) == 0


def test_a_days_file_has_the_index_columns_and_its_own() -> None:
    assert set(daily.OWN).isdisjoint(COLUMNS)
    assert set(KINDS) - set(COLUMNS) <= set(daily.OWN)


@pytest.fixture
def run_cli(store: Store, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`farm store ...` on the store: its exit code, and what it says."""

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--store", str(store.root), "store", *words])
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, told.out + told.err

    return run


def test_the_command_tells_each_day_and_the_whole(store: Store, run_cli: Any) -> None:
    write(store, 3)
    code, told = run_cli("compact", "--before", "2026-03-02", "--dry-run")
    assert code == 0
    assert "2026-03-01: 3 records" in told
    assert len(json_files(store)) == 3
    code, told = run_cli("compact", "--before", "2026-03-02")
    assert code == 0
    assert "3 records of 1 day compacted" in told
    assert json_files(store) == []
    assert run_cli("compact") == (0, "0 records of 0 days compacted\n")


def test_the_command_ends_with_1_where_something_is_left(store: Store, run_cli: Any) -> None:
    (record,) = write(store, 1)
    store.records.day_path(record).with_name("foreign.json").write_text("{}")
    code, told = run_cli("compact", "--before", "2026-03-02")
    assert code == 1
    assert "foreign.json: its schema version" in told
    assert "1 record of 1 day compacted; 1 left" in told


def test_days_are_compacted_once_they_are_as_old_as_the_setting_says(
    store: Store, run_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, 1)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    write(store, 1, start=7, finished_at=yesterday.isoformat())
    monkeypatch.setenv("FARM_COMPACT_AFTER_DAYS", "0")
    code, told = run_cli("compact")
    assert code == 2
    assert "compact_after_days is 0" in told
    monkeypatch.setenv("FARM_COMPACT_AFTER_DAYS", "30")
    assert "1 record of 1 day compacted" in run_cli("compact")[1]
    assert len(json_files(store)) == 1


def test_no_day_that_still_gets_records_is_compacted() -> None:
    today = datetime.now(UTC).date()
    assert before_which(30, today + timedelta(days=9)) == today
    assert before_which(30) == today - timedelta(days=30)
    assert before_which(30, DAY) == DAY


def test_a_record_is_removed_by_name_and_only_when_it_is_meant(store: Store, run_cli: Any) -> None:
    (record,) = write(store, 1)
    compact(store)
    code, told = run_cli("remove", record.run_id)
    assert code == 2
    assert "Add --yes" in told
    assert store.records.exists(record.run_id)
    assert run_cli("remove", record.run_id, "--yes")[0] == 0
    assert not store.records.exists(record.run_id)


def test_files_that_a_stopped_compaction_left_count_once(store: Store) -> None:
    records = write(store, 2)
    saved = {path: path.read_bytes() for path in json_files(store)}
    compact(store)
    for path, data in saved.items():
        path.write_bytes(data)
    assert everything(store) == records
    assert store.index.rebuild() == 2
    sound(store)
    changed = next(iter(saved))
    changed.write_bytes(saved[changed].replace(b'"box"', b'"fox"'))
    assert len([problem for problem in store.verify() if "differs" in str(problem)]) == 1
    (done,) = compact(store)
    assert done.records == 1
    assert "differs" in done.left[0].problem
    assert changed.exists()


def test_the_nightly_compacts_some_old_days_and_no_fault_of_that_is_the_nights(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for day in ("01", "02", "03"):
        write(store, 1, start=int(day), finished_at=f"2026-03-{day}T00:00:00+00:00")
    monkeypatch.setattr(nightly, "MOST_DAYS", 2)
    paused: list[int] = []

    def night(after_days: int = 30) -> int:
        settings = Settings(home=tmp_path / "home", store=store.root, compact_after_days=after_days)
        nightly.compact_old(Farm(settings), lambda: paused.append(len(json_files(store))))
        return len(json_files(store))

    assert night(after_days=0) == 3
    with alone(store.root), caplog.at_level("WARNING"):
        assert night() == 3
    assert "days were not compacted: another collection" in caplog.text
    assert night() == 1
    assert paused == [2, 1]
    assert night() == 0
