# SPDX-License-Identifier: Apache-2.0
"""The store as a whole: sweeps, artifacts, verification, layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.contract.outcome import Outcome
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.store import ArtifactRow, Store
from tests.factories import make_job, make_record, make_ref


def test_a_new_store_is_empty_whole_and_writable(store: Store) -> None:
    store.create()
    store.check_writable()
    assert list(store.verify()) == []
    assert store.artifacts() == []
    assert [p for p in store.root.rglob("*") if p.is_file()] == [store.root / "store.json"]


def test_a_newer_farms_store_is_left_alone(store: Store) -> None:
    (store.root / "store.json").chmod(0o644)
    (store.root / "store.json").write_text('{"layout": 3}')
    for use in (store.check_writable, store.create):
        with pytest.raises(UnavailableError, match="newer farm"):
            use()


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(UnavailableError, match=str(tmp_path / "store")):
        Store(tmp_path / "store").create()


def test_a_sweep_is_written_once(store: Store) -> None:
    document = {"name": "ü", "models": ["a"], "deep": {"b": [1, 2.5, None]}}
    assert store.sweeps.write("s-1", document)
    assert not store.sweeps.write("s-1", {"name": "other"})
    assert store.sweeps.read("s-1") == document
    assert store.sweeps.write("s-0", {"name": "zero"})
    assert store.sweeps.list() == [{"name": "zero"}, document]
    assert store.sweeps.ids() == ["s-0", "s-1"]
    assert store.sweeps.exists("s-0")
    with pytest.raises(UsageError, match="no sweep s-2"):
        store.sweeps.read("s-2")
    with pytest.raises(UsageError, match="JSON"):
        store.sweeps.write("s-3", {"x": object()})


def test_a_bad_sweep_is_reported_and_hides_no_other(store: Store) -> None:
    store.sweeps.write("s-1", {"name": "one"})
    (store.root / "sweeps/s-0.json").write_text('{"name": ')
    assert store.sweeps.list() == [{"name": "one"}]
    with pytest.raises(IntegrityError, match=r"s-0\.json"):
        store.sweeps.read("s-0")
    (problem,) = store.verify()
    assert (problem.area, problem.path) == ("sweeps", store.root / "sweeps/s-0.json")
    assert str(problem).startswith(str(problem.path))


def test_artifacts_are_listed_of_a_sweep_of_a_run_or_all(store: Store) -> None:
    blob = store.blobs.put_bytes(b"engine")
    ref = make_ref(blob.sha256, blob.size_bytes, "onnx")
    mine = make_record(artifacts=[ref], samples=[make_ref(blob.sha256, 6)])
    other_job = make_job(job_id="other", sweep_id="sweep-2", model="vgg16")
    other = make_record(job=other_job, artifacts=[ref], outcome=Outcome.FAILED, device=None, batch_size=None)
    for record in (mine, other):
        store.records.write(record)
    assert [row.run_id for row in store.artifacts()] == [other.run_id, mine.run_id, mine.run_id]
    assert [row.kind for row in store.artifacts(sweep_id="sweep-1")] == ["samples:latency", "onnx"]
    assert store.artifacts(run_id=other.run_id) == store.artifacts("sweep-2")
    assert store.artifacts("sweep-2") == [
        ArtifactRow(
            run_id="other-g0-none",
            sweep_id="sweep-2",
            sweep="sweep",
            model="vgg16",
            workflow="onnxruntime_cpu",
            precision="fp32",
            batch_size=None,
            device_id="box-cpu",
            outcome="failed",
            kind="onnx",
            sha256=blob.sha256,
            size_bytes=6,
            cached=False,
        )
    ]
    with pytest.raises(UsageError):
        store.artifacts(run_id="nothing")


def test_verify_finds_blobs_that_records_miss(store: Store) -> None:
    whole, cut, changed = (store.blobs.put_bytes(data) for data in (b"whole", b"truncated", b"changed"))
    missing = "0" * 64
    refs = [make_ref(info.sha256, info.size_bytes) for info in (whole, cut, changed)]
    record = make_record(artifacts=[*refs, make_ref(missing), make_ref("../../etc/passwd")])
    store.records.write(record)
    for info, data in ((cut, b"trunc"), (changed, b"chanGed")):
        store.blobs.path(info.sha256).chmod(0o644)
        store.blobs.path(info.sha256).write_bytes(data)
    found = {p.path.name: p for p in store.verify()}
    assert all(problem.run_id == record.run_id for problem in found.values())
    assert "truncated: has only 5 of 9 bytes" in found.pop(cut.sha256).message
    assert "wrong_digest" in found.pop(changed.sha256).message
    assert "missing" in found.pop(missing).message
    assert "not a SHA-256" in found.pop("blobs").message
    assert found == {}


def test_verify_finds_a_size_that_its_record_gives_otherwise(store: Store) -> None:
    blob = store.blobs.put_bytes(b"engine")
    store.records.write(make_record(artifacts=[make_ref(blob.sha256, 7)]))
    (problem,) = store.verify()
    assert "6 bytes, its record says 7" in problem.message
