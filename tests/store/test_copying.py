# SPDX-License-Identifier: Apache-2.0
"""Copies of a store: whole whoever writes meanwhile, added to when repeated, and never worse than what they had."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import threading
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from farm.cli.main import cli
from farm.contract.record import Record
from farm.errors import UnavailableError, UsageError
from farm.store import Store
from farm.store.copying import copy_store
from farm.store.usage import store_use
from tests.factories import make_job, make_record, make_ref


def put_run(store: Store, number: int) -> str:
    """One run as a worker stores it: the sweep is there, its blob first, then its record."""
    store.sweeps.write(f"s-{number}", {"name": "s", "submitted_at": 1.0})
    blob = store.blobs.put_bytes(b"samples %d" % number)
    job = make_job(job_id=f"s-{number}-0123456789abcdef", sweep_id=f"s-{number}")
    record = make_record(job=job, samples=[make_ref(blob.sha256, blob.size_bytes)])
    assert store.records.write(record)
    return record.run_id


@pytest.fixture
def full(store: Store) -> Store:
    for number in range(3):
        put_run(store, number)
    store.nights.write("2026-11-20", {"night": "2026-11-20"})
    page = store.root / "reports/nightly/2026-11-20/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>a report</p>")
    store.index.refresh()
    return store


def test_a_copy_is_a_store_with_everything_but_the_index(full: Store, tmp_path: Path) -> None:
    done = copy_store(full, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    assert done.problems == [] and done.present == 0
    assert list(copy.verify()) == []
    runs = {path.stem for path in full.records.files()}
    assert {path.stem for path in copy.records.files()} == runs
    assert all(
        copy.records.path(run).samefile(path) for run in runs for path in copy.records.files() if path.stem == run
    )
    assert copy.nights.names() == ["2026-11-20"]
    assert (copy.root / "reports/nightly/2026-11-20/index.html").read_text() == "<p>a report</p>"
    assert not (copy.root / "index").exists()


def test_again_it_adds_what_is_new_and_what_was_rewritten(full: Store, tmp_path: Path) -> None:
    first = copy_store(full, tmp_path / "copy")
    assert copy_store(full, tmp_path / "copy").files == 0
    put_run(full, 9)
    full.nights.write("2026-11-20", {"night": "2026-11-20", "assessed_at": "now"})
    again = copy_store(full, tmp_path / "copy")
    assert again.files == 4, "record, sweep, blob and night"
    assert again.present == first.files - 1
    copy = Store(tmp_path / "copy")
    assert copy.nights.read("2026-11-20")["assessed_at"] == "now"
    assert list(copy.verify()) == []


def test_back_from_a_copy_it_is_the_same_store(full: Store, tmp_path: Path) -> None:
    copy_store(full, tmp_path / "copy")
    copy_store(Store(tmp_path / "copy"), tmp_path / "back")
    back = Store(tmp_path / "back")
    assert list(back.verify()) == []
    for path in full.records.files():
        assert back.records.path(path.stem).read_bytes() == path.read_bytes()


def test_a_compacted_store_is_copied_as_one_also_over_a_copy_of_its_files(full: Store, tmp_path: Path) -> None:
    runs = {record.run_id for record in full.records.iterate() if isinstance(record, Record)}
    copy_store(full, tmp_path / "early")
    assert [day.records for day in full.compact(date(2100, 1, 1))] == [3]
    for place in ("early", "late"):
        copy_store(full, tmp_path / place)
        copy = Store(tmp_path / place)
        assert copy.layout() == full.layout()
        assert sorted(r.run_id for r in copy.records.iterate() if isinstance(r, Record)) == sorted(runs)
        assert list(copy.verify()) == []


def test_whoever_writes_meanwhile_the_copy_names_nothing_that_it_lacks(store: Store, tmp_path: Path) -> None:
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            written.append(put_run(store, len(written)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            copy_store(store, tmp_path / "copy")
            copy = Store(tmp_path / "copy")
            assert list(copy.verify()) == []
            swept = set(copy.sweeps.names())
            assert {copy.records.read(path.stem).job.sweep_id for path in copy.records.files()} <= swept
    finally:
        stop.set()
        writer.join()
    assert written


def test_damage_is_named_and_does_not_reach_what_was_copied_before(full: Store, tmp_path: Path) -> None:
    copy_store(full, tmp_path / "copy")
    blob, late = next(full.blobs.list()), put_run(full, 7)
    record = next(full.records.files())
    for path, text in ((record, "{}"), (full.blobs.path(blob.sha256), "x")):
        path.chmod(0o644)
        path.write_text(text)
    done = copy_store(full, tmp_path / "copy")
    assert [problem.partition(":")[0] for problem in done.problems] == [
        str(record), str(full.blobs.path(blob.sha256)),
    ]  # fmt: skip
    copy = Store(tmp_path / "copy")
    assert list(copy.verify()) == []
    assert copy.records.exists(late)


def test_a_copy_that_was_cut_short_is_made_whole(full: Store, tmp_path: Path) -> None:
    copy_store(full, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    torn = next(copy.records.files())
    whole = torn.read_bytes()
    torn.chmod(0o644)
    os.truncate(torn, 10)
    assert copy_store(full, copy.root).problems == []
    assert torn.read_bytes() == whole
    assert list(copy.verify()) == []


@pytest.mark.parametrize("place", ["store", "store/inside", "."])
def test_a_place_within_the_store_or_around_it_is_refused(full: Store, tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match="within each other"):
        copy_store(full, tmp_path / place)


def test_what_is_no_store_is_neither_read_nor_written(full: Store, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        copy_store(full, tmp_path / "other")
    with pytest.raises(UsageError, match="is no store"):
        copy_store(Store(tmp_path / "away"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_it_waits_for_no_collection(full: Store, tmp_path: Path) -> None:
    full.collect_garbage()
    with (full.root / "gc.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="being collected"):
            copy_store(full, tmp_path / "copy")


def test_the_commands_say_what_they_did(full: Store, tmp_path: Path) -> None:
    def typed(*words: str) -> str:
        done = CliRunner().invoke(cli, ["--store", str(full.root), "store", *words], standalone_mode=False)
        assert done.exception is None and done.return_value == 0
        return done.output

    assert str(full.root) in typed("create")
    assert "0 were there" in typed("copy", str(tmp_path / "copy"))
    assert "0 files copied" in typed("copy", str(tmp_path / "copy"))
    assert "blobs: samples" in typed("usage")


def test_use_counts_each_file_once(full: Store) -> None:
    full.blobs.put_bytes(b"nobody's")
    manifest, engine = full.blobs.put_bytes(b"manifest"), full.blobs.put_bytes(b"engine")
    made = dataclasses.replace(make_ref(engine.sha256, 6, kind="engine"), manifest=manifest.sha256)
    full.records.write(make_record(job=make_job(job_id="e-0123456789abcdef"), artifacts=[made]))
    found = {use.what: use for use in store_use(full)}
    assert found["records"].files == 4
    assert found["records"].size_bytes == sum(path.stat().st_size for path in full.records.files())
    assert found["blobs: samples"].files == 3
    assert found["blobs: manifest"].files == 1
    assert (found["blobs: (no record)"].files, found["blobs: (no record)"].size_bytes) == (1, 8)
