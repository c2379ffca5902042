# SPDX-License-Identifier: Apache-2.0
"""The power goes between any two file operations of a writer: nothing that was promised is lost, nothing is half there.

Each writer runs once, watched; then every state that the disk could be left in is opened as the farm would open it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from farm.store import Store
from tests.factories import make_job, make_record, make_ref
from tests.store.power_loss import WAYS, Disk, Image
from workers.daemon.spool import BlobFile, Spool
from workers.workflows.cache import Cache

RECORD = make_record()
BEFORE = date(2026, 3, 2)
SAMPLES = b"samples of a run" * 100

Watch = Callable[[Callable[[], object]], list[Image]]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """What the power is cut of: a store that was made before, and a place for a worker."""
    place = tmp_path / "disk"
    Store(place / "store").create()
    (place / "worker").mkdir()
    return place


@pytest.fixture
def watch(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    def run(write: Callable[[], object]) -> list[Image]:
        images = Disk(disk).watch(monkeypatch, write)
        assert len(images) > 4 * len(WAYS)
        return images

    return run


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[Image], Path]:
    """Restore an image to a directory of its own."""
    count = itertools.count()
    return lambda image: image.restore(tmp_path / f"after-{next(count)}")


def different(images: list[Image]) -> list[Image]:
    """One of those that are the same on the disk; the finished ones all."""
    found = {
        (str(sorted(image.entries.items(), key=lambda entry: entry[0])), image.finished): image for image in images
    }
    return list(found.values())


def sound(store: Store) -> None:
    assert [str(problem) for problem in store.verify()] == []


def test_a_record_is_there_whole_or_not_at_all(disk: Path, watch: Watch, opened: Callable[[Image], Path]) -> None:
    written = Store(disk / "store")
    for image in watch(lambda: written.records.write(RECORD)):
        store = Store(opened(image) / "store")
        sound(store)
        there = store.records.exists(RECORD.run_id)
        assert there or not image.finished, image
        assert not there or store.records.read(RECORD.run_id) == RECORD
        # The worker's spool has it still, and sends it again.
        store.create()
        assert store.records.write(RECORD) is not there
        assert list(store.records.iterate()) == [RECORD], image
        sound(store)


def test_a_compaction_loses_and_doubles_nothing_wherever_it_is_stopped(
    disk: Path, watch: Watch, opened: Callable[[Image], Path]
) -> None:
    written = Store(disk / "store")
    records = [make_record(batch_size=size) for size in (1, 2, 4)]
    for record in records[:2]:
        written.records.write(record)
    assert [done.records for done in written.compact(BEFORE)] == [2]
    written.records.write(records[2])

    for image in different(watch(lambda: list(written.compact(BEFORE)))):
        store = Store(opened(image) / "store")
        sound(store)
        assert sorted(store.records.iterate(), key=lambda record: record.run_id) == records, image
        assert [store.records.read(record.run_id) for record in records] == records
        assert not store.records.write(records[2])
        if image.way == "killed":
            assert store.index.refresh() == 3
        if image.finished:
            assert list(store.records.files()) == []
        list(store.compact(BEFORE))
        assert list(store.records.files()) == [], image
        assert [store.records.read(record.run_id) for record in records] == records
        assert not any(store.records.write(record) for record in records)
        sound(store)


def test_a_removal_is_whole_or_can_be_done_again(disk: Path, watch: Watch, opened: Callable[[Image], Path]) -> None:
    written = Store(disk / "store")
    records = [make_record(batch_size=size) for size in (1, 2)]
    for record in records:
        written.records.write(record)
    list(written.compact(BEFORE))
    for image in different(watch(lambda: written.remove_record(records[0].run_id))):
        store = Store(opened(image) / "store")
        assert store.records.read(records[1].run_id) == records[1]
        if store.records.exists(records[0].run_id):
            assert not image.finished
            # As long as the name is there, nobody records the run anew.
            store.remove_record(records[0].run_id)
        assert list(store.records.iterate()) == records[1:], image
        sound(store)


def test_a_new_store_is_on_the_disk_with_what_is_written_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Image], Path]
) -> None:
    (tmp_path / "disk").mkdir()
    new = Store(tmp_path / "disk/home/store")

    def write() -> None:
        new.create()
        new.records.write(RECORD)

    for image in Disk(tmp_path / "disk").watch(monkeypatch, write):
        store = Store(opened(image) / "home/store")
        store.create()
        sound(store)
        assert list(store.records.iterate()) in ([RECORD], [] if not image.finished else [RECORD]), image


def test_a_document_is_the_old_one_or_the_new_one(disk: Path, watch: Watch, opened: Callable[[Image], Path]) -> None:
    written, night = Store(disk / "store"), "2026-11-21"
    written.nights.write(night, {"state": "old"})
    for image in watch(lambda: written.nights.write(night, {"state": "new" * 50})):
        store = Store(opened(image) / "store")
        sound(store)
        state = store.nights.read(night)["state"]
        assert state in ("old", "new" * 50), image
        assert state != "old" or not image.finished


def test_a_decision_that_is_written_once_stays_the_first(
    disk: Path, watch: Watch, opened: Callable[[Image], Path]
) -> None:
    written = Store(disk / "store")
    for image in watch(lambda: written.decisions.write("d", {"by": "ann"}, replace=False)):
        store = Store(opened(image) / "store")
        sound(store)
        there = store.decisions.exists("d")
        assert there or not image.finished
        store.create()
        assert store.decisions.write("d", {"by": "bob"}, replace=False) is not there
        assert store.decisions.read("d") == {"by": "ann" if there else "bob"}


def test_a_blob_is_there_whole_or_not_at_all(disk: Path, watch: Watch, opened: Callable[[Image], Path]) -> None:
    written = Store(disk / "store")
    for image in watch(lambda: written.blobs.put_bytes(SAMPLES)):
        store = Store(opened(image) / "store")
        sound(store)
        kept = list(store.blobs.list())
        assert kept or not image.finished
        assert all(store.blobs.read(info.sha256) == SAMPLES for info in kept)
        assert store.blobs.put_bytes(SAMPLES).size_bytes == len(SAMPLES)
        sound(store)


def test_the_spool_keeps_what_it_took_and_nothing_else(
    disk: Path, watch: Watch, opened: Callable[[Image], Path]
) -> None:
    (disk / "worker/samples").write_bytes(SAMPLES)
    sha256 = hashlib.sha256(SAMPLES).hexdigest()
    record = make_record(samples=[make_ref(sha256, len(SAMPLES))])
    files = [BlobFile(disk / "worker/samples", sha256)]
    spool = Spool(disk / "worker/home/spool")  # its first use: the directories are new as well
    for image in watch(lambda: spool.put(record, files)):
        place = opened(image)
        store = Store(place / "store")
        after = Spool(place / "worker/home/spool")
        assert after.entries() or not image.finished, image
        assert after.flush(store) == 0
        assert not (after.root / "damaged").exists(), image
        assert list(store.records.iterate()) in ([], [record])
        assert store.records.exists(record.run_id) or not image.finished
        sound(store)


def test_what_moves_to_the_store_is_in_the_spool_until_it_is_there(
    disk: Path, watch: Watch, opened: Callable[[Image], Path]
) -> None:
    (disk / "worker/samples").write_bytes(SAMPLES)
    sha256 = hashlib.sha256(SAMPLES).hexdigest()
    record = make_record(job=make_job(), samples=[make_ref(sha256, len(SAMPLES))])
    spool = Spool(disk / "worker/spool")
    spool.put(record, [BlobFile(disk / "worker/samples", sha256)])
    for image in watch(lambda: spool.flush(Store(disk / "store"))):
        place = opened(image)
        store, after = Store(place / "store"), Spool(place / "worker/spool")
        store.create()
        assert after.flush(store) == 0
        assert not (after.root / "damaged").exists(), image
        assert list(store.records.iterate()) == [record], image
        assert store.blobs.read(sha256) == SAMPLES
        sound(store)


def test_a_cached_file_is_right_or_made_again(disk: Path, watch: Watch, opened: Callable[[Image], Path]) -> None:
    def fetch(place: Path) -> bytes:
        def build(path: str) -> dict[str, object]:
            Path(path).write_bytes(SAMPLES)
            return {"nodes": 3}

        cache = Cache(str(place / "worker/prepared"), writable=True, clock=lambda: 0)
        found = cache.fetch("engine", {"model": "resnet18"}, "engine.plan", build)
        assert found.facts == {"nodes": 3}
        return Path(found.path).read_bytes()

    for image in watch(lambda: fetch(disk)):
        assert fetch(opened(image)) == SAMPLES, image
