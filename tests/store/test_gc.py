# SPDX-License-Identifier: Apache-2.0
"""Collecting garbage: what nothing refers to goes, what anything refers to stays, whoever writes meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from farm.cli.main import cli
from farm.errors import IntegrityError, UnavailableError
from farm.store import Store
from farm.store.gc import Collector, alone
from tests.factories import make_job, make_record, make_ref

DAY = 86_400


def put(store: Store, text: str, age_days: float = 30) -> str:
    """A blob of that age."""
    info = store.blobs.put_bytes(text.encode())
    then = time.time() - age_days * DAY
    os.utime(store.blobs.path(info.sha256), (then, then))
    return info.sha256


def removed(store: Store, **keywords: bool) -> set[str]:
    return {info.sha256 for info in store.collect_garbage(**keywords).removed}


def test_what_nothing_refers_to_goes_once_it_is_old(store: Store) -> None:
    old, young = put(store, "old"), put(store, "young", age_days=1)
    found = store.collect_garbage()
    assert [info.sha256 for info in found.removed] == [old]
    assert (found.size_bytes, found.kept_young, found.referred) == (3, 1, 0)
    assert not store.blobs.exists(old)
    assert store.blobs.exists(young)
    assert list(store.verify()) == []


def test_what_a_record_a_sweep_a_baseline_or_a_report_refers_to_stays(store: Store) -> None:
    of = {name: put(store, name) for name in ("samples", "engine", "onnx", "weights", "report", "baseline", "half")}
    refs = {"samples": [make_ref(of["samples"], 7)], "artifacts": [make_ref(of["engine"], 6, kind="engine")]}
    store.records.write(make_record(**refs))
    document = {"models": [{"onnx_sha256": of["onnx"], "weights": f"sha256:{of['weights']}"}]}
    store.sweeps.write("s", document)
    for place, name in (("reports/nightly/2026-01-01/results.csv", "report"), ("baselines/main.json", "baseline")):
        path = store.root / place
        path.parent.mkdir(parents=True)
        path.write_text(f"a,{of[name]},b\n")
    (store.root / "records/tmp/0123.tmp").write_text(f'{{"sha256": "{of["half"]}"}}')  # a record being written
    garbage = put(store, "garbage")
    assert removed(store) == {garbage}
    assert all(store.blobs.exists(sha256) for sha256 in of.values())


def test_what_a_night_a_decision_or_a_pin_refers_to_stays(store: Store) -> None:
    of = {name: put(store, name) for name in ("engine", "night", "decision", "pin", "replaced")}
    store.nights.write("2026-11-20", {"evidence": [of["replaced"]]})
    store.nights.write("2026-11-20", {"evidence": {"confirmed_by": of["night"]}})
    store.decisions.write("accepted-1", {"engine": f"sha256:{of['decision']}"}, replace=False)
    store.sweeps.write("s", {"name": "s", "pins": {"engine": of["pin"]}})
    record = make_record(job=make_job(options={"pinned": of["engine"]}))
    store.records.write(record)
    assert removed(store) == {of["replaced"]}, "a night that was rewritten says what it says now"
    assert all(store.blobs.exists(of[name]) for name in ("engine", "night", "decision", "pin"))


@pytest.mark.parametrize("area", ["nights", "decisions", "sweeps"])
def test_a_damaged_document_may_refer_to_anything(store: Store, area: str) -> None:
    garbage = put(store, "garbage")
    (store.root / area / "2026-11-20.json").write_bytes(b'{"evidence": "')
    with pytest.raises(IntegrityError, match=f"{area}/2026-11-20.json"):
        store.collect_garbage()
    assert store.blobs.exists(garbage)
    assert [problem.area for problem in store.verify()] == [area]
    assert removed(store, despite_damage=True) == {garbage}


def test_a_report_elsewhere_needs_no_say_its_records_have_it(store: Store, tmp_path: Path) -> None:
    samples = put(store, "samples")
    store.records.write(make_record(samples=[make_ref(samples, 7)]))
    (tmp_path / "report").mkdir()
    (tmp_path / "report/index.html").write_text(f"<a>{samples}</a>")
    assert removed(store) == set()
    assert store.blobs.exists(samples)


def test_a_dry_run_says_the_same_and_touches_nothing(store: Store) -> None:
    garbage = put(store, "garbage")
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in store.root.rglob("*"))
    assert removed(store, dry_run=True) == {garbage}
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in store.root.rglob("*")) == before
    assert removed(store) == {garbage}


def test_putting_a_blob_that_is_there_makes_it_young(store: Store, tmp_path: Path) -> None:
    first, second = put(store, "one"), put(store, "two")
    store.blobs.put_bytes(b"one")
    (tmp_path / "two").write_text("two")
    store.blobs.put_file(tmp_path / "two")
    assert removed(store) == set()
    assert store.blobs.exists(first)
    assert store.blobs.exists(second)


@pytest.mark.parametrize("late", ["put", "record", "sweep"])
def test_a_writer_between_the_look_and_the_removal_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """The worst moment: everything has been read, what is garbage is known and about to go."""
    sha256, garbage = put(store, "needed"), put(store, "garbage")
    real = Collector._remove

    def between(self: Collector, *args: object) -> object:
        if late == "put":
            store.blobs.put_bytes(b"needed")
        if late == "record":
            store.records.write(make_record(artifacts=[make_ref(sha256, 6)]))
        if late == "sweep":
            store.sweeps.write("s", {"onnx_sha256": sha256})
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Collector, "_remove", between)
    assert removed(store) == {garbage}
    assert store.blobs.read(sha256) == b"needed"


def test_a_blob_put_while_it_is_set_aside_is_there_afterwards(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = put(store, "needed")
    real, calls = Collector._referred, []

    def meanwhile(self: Collector) -> set[str]:
        calls.append(1)
        if len(calls) == 2:
            assert not store.blobs.path(sha256).exists()
            store.blobs.put_bytes(b"needed")
            store.records.write(make_record(artifacts=[make_ref(sha256, 6)]))
        return real(self)

    monkeypatch.setattr(Collector, "_referred", meanwhile)
    assert removed(store) == set()
    assert store.blobs.read(sha256) == b"needed"
    assert list(store.verify()) == []


def test_writers_at_once_never_miss_what_they_refer_to(store: Store) -> None:
    """Old blobs are put again and named by records while collections run one after the other."""
    shas = [put(store, f"blob {i}") for i in range(60)]
    stop, faults = threading.Event(), []

    def collect() -> None:
        while not stop.is_set():
            try:
                store.collect_garbage()
            except IntegrityError as error:
                faults.append(error)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for i, sha256 in enumerate(shas):
            store.blobs.put_bytes(f"blob {i}".encode())
            store.records.write(
                make_record(job=make_job(job_id=f"j{i}"), artifacts=[make_ref(sha256, len(f"blob {i}"))])
            )
    finally:
        stop.set()
        collector.join(timeout=120)
    assert faults == []
    assert list(store.verify()) == []


def test_what_a_killed_collection_had_set_aside_comes_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = put(store, "needed")
    store.blobs.path(sha256).rename(store.blobs.temp / f"gc-{sha256}")
    store.records.write(make_record(artifacts=[make_ref(sha256, 6)]))
    assert removed(store) == set()
    assert store.blobs.read(sha256) == b"needed"
    assert list(store.blobs.temp.iterdir()) == []


def test_with_damage_in_the_store_nothing_goes_unless_asked(store: Store) -> None:
    garbage = put(store, "garbage")
    record = make_record(artifacts=[make_ref("ab" * 32, 6)])
    store.records.write(record)
    with pytest.raises(IntegrityError, match="names the missing blob"):
        store.collect_garbage()
    for path in (store.records.path(record.run_id), store.records.day_path(record)):
        path.chmod(0o644)
        path.write_bytes(b"{")
    with pytest.raises(IntegrityError, match="damaged file") as caught:
        store.collect_garbage()
    assert "--despite-damage" in str(caught.value.hint)
    assert store.blobs.exists(garbage)
    assert removed(store, despite_damage=True) == {garbage}


def test_two_collections_at_once_are_refused(store: Store) -> None:
    with alone(store.root):
        with pytest.raises(UnavailableError, match="another collection"):
            store.collect_garbage()
        assert removed(store, dry_run=True) == set()


def test_the_command(store: Store) -> None:
    garbage = put(store, "garbage")
    words = ["--home", str(store.root.parent), "--store", str(store.root), "artifacts", "gc"]
    for extra, told in ((["--dry-run"], "1 would be removed"), ([], "1 removed"), ([], "0 removed")):
        done = CliRunner().invoke(cli, [*words, *extra], standalone_mode=False)
        assert done.exception is None, done.exception
        assert told in done.output
        assert (garbage in done.output) is (told[0] == "1")
    assert CliRunner().invoke(cli, [*words, "--grace-days", "0"]).exit_code == 2


def test_verify_finds_every_flipped_bit(store: Store) -> None:
    """Of a blob every single bit; of records and sweeps, which have no digest, each that changes what they say."""
    data = b"sixteen bytes: 1"
    sha256 = store.blobs.put_bytes(data).sha256
    path = store.blobs.path(sha256)
    path.chmod(0o644)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert [problem.run_id for problem in store.verify()] == [None], bit
    path.write_bytes(data)
    assert list(store.verify()) == []


def test_verify_finds_a_bit_in_a_large_blob_wherever_it_is(store: Store) -> None:
    data = random.Random(1).randbytes(3 << 20)
    path = store.blobs.path(store.blobs.put_bytes(data).sha256)
    path.chmod(0o644)
    for at in (0, 1, (1 << 20) - 1, 1 << 20, len(data) // 2, len(data) - 1):
        with path.open("r+b") as stream:
            stream.seek(at)
            stream.write(bytes([data[at] ^ 1]))
        assert len(list(store.verify())) == 1
        with path.open("r+b") as stream:
            stream.seek(at)
            stream.write(data[at : at + 1])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
