# SPDX-License-Identifier: Apache-2.0
"""Nothing that was measured is lost: records and blobs wait on this host's disk until the store has them."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from farm.contract.record import Record
from farm.store import Store
from farm.store.schema import RecordError
from tests.factories import make_job, make_record, make_ref
from workers.daemon.spool import BlobFile, Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "mount" / "store")
    store.create()
    return store


def entry(tmp_path: Path, content: bytes = b"samples!", **overrides: object) -> tuple[Record, list[BlobFile]]:
    path = tmp_path / f"file-{len(content)}"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return make_record(samples=[make_ref(sha256, len(content))], **overrides), [BlobFile(path, sha256)]


def test_an_entry_moves_to_the_store_whole(spool: Spool, store: Store, tmp_path: Path) -> None:
    record, files = entry(tmp_path)
    spool.put(record, files)
    files[0].path.unlink()
    assert spool.waiting(record.run_id) == record
    assert spool.flush(store) == 0
    assert store.records.read(record.run_id) == record
    assert store.blobs.read(files[0].sha256) == b"samples!"
    assert spool.entries() == []
    assert spool.waiting(record.run_id) is None


def test_a_store_that_is_away_costs_nothing_but_time(spool: Spool, store: Store, tmp_path: Path) -> None:
    away = store.root.rename(store.root.with_name("away"))
    for size in (1, 2, 4):
        spool.put(*entry(tmp_path, b"x" * size, batch_size=size))
    assert spool.flush(store) == 3
    assert not store.root.exists()
    away.rename(store.root)
    assert spool.flush(store) == 0
    assert sum(1 for _ in store.records.iterate()) == 3
    assert list(store.verify()) == []


def test_a_flush_that_was_cut_short_is_taken_up_again(spool: Spool, store: Store, tmp_path: Path) -> None:
    record, files = entry(tmp_path)
    spool.put(record, files)
    store.blobs.put_file(files[0].path)
    store.records.write(record)
    assert spool.flush(store) == 0
    assert sum(1 for _ in store.records.iterate()) == 1
    assert sum(1 for _ in store.blobs.list()) == 1


def test_a_second_record_of_a_run_is_kept_as_a_blob_and_is_not_the_record(
    spool: Spool, store: Store, tmp_path: Path
) -> None:
    first = make_record(attempt=1)
    store.records.write(first)
    second, files = entry(tmp_path, attempt=2)
    spool.put(second, files)
    assert spool.flush(store) == 0
    assert store.records.read(first.run_id) == first
    assert any(b'"attempt": 2' in store.blobs.read(info.sha256) for info in store.blobs.list())


def test_a_late_result_is_never_the_record(spool: Spool, store: Store, tmp_path: Path) -> None:
    record, files = entry(tmp_path)
    spool.put(record, files, late=True)
    assert spool.waiting(record.run_id) is None
    assert spool.flush(store) == 0
    assert not store.records.exists(record.run_id)
    assert sum(1 for _ in store.blobs.list()) == 2


@pytest.mark.parametrize("damage", ["record", "blob"])
def test_a_damaged_entry_is_set_aside_and_stops_no_other(
    spool: Spool, store: Store, tmp_path: Path, damage: str
) -> None:
    bad, good = entry(tmp_path, batch_size=1), entry(tmp_path, b"good", batch_size=2)
    spool.put(*bad)
    spool.put(*good)
    path = spool.root / bad[0].run_id
    target = path / "record.json" if damage == "record" else path / "blobs" / bad[1][0].sha256
    target.unlink()
    target.write_bytes(b"{")
    assert spool.flush(store) == 0
    assert [record.run_id for record in store.records.iterate() if isinstance(record, Record)] == [good[0].run_id]
    assert (spool.root / "damaged" / bad[0].run_id).is_dir()


def test_a_record_that_does_not_fit_its_schema_is_refused_at_the_door(spool: Spool) -> None:
    with pytest.raises(RecordError):
        spool.put(dataclasses.replace(make_record(), finished_at="yesterday"), [])
    assert spool.entries() == []


def test_an_empty_or_missing_spool_is_no_trouble(spool: Spool, store: Store) -> None:
    assert spool.flush(store) == 0
    assert spool.entries() == []


def test_many_flushes_at_once_store_each_entry_once(spool: Spool, store: Store, tmp_path: Path) -> None:
    for size in range(1, 21):
        spool.put(*entry(tmp_path, b"x" * size, batch_size=size, job=make_job()))
    left: list[int] = []
    threads = [threading.Thread(target=lambda: left.append(spool.flush(store, wait_s=30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert left == [0, 0, 0, 0]
    assert sum(1 for _ in store.records.iterate()) == 20
    assert not (spool.root / "damaged").exists()


PUT_FOR_EVER = """
import sys
from pathlib import Path
from tests.factories import make_record
from workers.daemon.spool import BlobFile, Spool
for n in range(10**6):
    Spool(Path(sys.argv[1])).put(make_record(batch_size=n), [BlobFile(Path(sys.argv[2]), sys.argv[3])])
    print(n, flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_entries_only(spool: Spool, store: Store, tmp_path: Path) -> None:
    _, (file,) = entry(tmp_path, os.urandom(1 << 20))
    arguments = [str(spool.root), str(file.path), file.sha256]
    writer = subprocess.Popen([sys.executable, "-c", PUT_FOR_EVER, *arguments], stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(5)]
        writer.kill()
        written = len(lines) + len(writer.stdout.readlines())
    assert spool.flush(store) == 0
    assert written <= sum(1 for _ in store.records.iterate()) <= written + 1
    assert list(store.verify()) == []
    assert not (spool.root / "damaged").exists()


def test_a_mover_that_is_killed_while_it_deletes_leaves_no_half_entry(
    spool: Spool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, files = entry(tmp_path)
    spool.put(record, files)

    def die(path: Path, **_: object) -> None:
        next(Path(path).rglob("record.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("workers.daemon.spool.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            spool.flush(store)
    assert spool.entries() == []
    assert spool.flush(store) == 0
    assert store.records.read(record.run_id) == record
    assert {path.name for path in spool.root.iterdir()} <= {".lock", ".putting"}


def test_what_is_being_put_is_left_alone_whatever_the_clock_says(spool: Spool, store: Store) -> None:
    spool.root.mkdir()
    unfinished = spool.root / ".new-entry"
    unfinished.mkdir()
    os.utime(unfinished, (0, 0))
    with (spool.root / ".putting").open("w") as putting:
        fcntl.flock(putting, fcntl.LOCK_SH)
        spool.flush(store)
        assert unfinished.is_dir()
    spool.flush(store)
    assert not unfinished.exists()
