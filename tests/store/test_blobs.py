# SPDX-License-Identifier: Apache-2.0
"""Blobs: what goes in comes out, damage is found, and nothing half-written is ever seen."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.store import BlobInfo, BlobStore, Store
from tests.store.processes import race, run_python

TRICKS = [
    "../../../../etc/passwd",
    "/etc/passwd",
    "a" * 63,
    "A" * 64,
    "a" * 64 + "\n",
    "a" * 60 + "/../",
    "..",
    "",
    "a" * 63 + "\0",
    "\u0430" * 64,
]


def damage(path: Path, data: bytes) -> None:
    """Change a blob's file behind the store's back."""
    path.chmod(0o644)
    path.write_bytes(data)


def everything_below(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=4096))
def test_bytes_come_back_as_they_were(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        store.create()
        info = store.blobs.put_bytes(data)
        assert info == BlobInfo(hashlib.sha256(data).hexdigest(), len(data))
        assert store.blobs.read(info.sha256) == data
        assert list(store.blobs.list()) == [info]
        assert list(store.blobs.verify()) == []


def test_a_file_of_several_blocks_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "engine.bin"
    source.write_bytes(os.urandom(3 * 2**20 + 17))
    info = store.blobs.put_file(source)
    store.blobs.get(info.sha256, tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()


def test_a_blob_lies_at_its_place_and_is_read_only(store: Store) -> None:
    info = store.blobs.put_bytes(b"engine")
    path = store.root / "blobs" / "sha256" / info.sha256[:2] / info.sha256[2:4] / info.sha256
    assert path == store.blobs.path(info.sha256)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert everything_below(store.root / "blobs") == {str(path.relative_to(store.root / "blobs"))}


def test_putting_a_blob_twice_keeps_the_first_file(store: Store, tmp_path: Path) -> None:
    path = store.blobs.path(store.blobs.put_bytes(b"engine").sha256)
    first = path.stat().st_ino
    source = tmp_path / "same"
    source.write_bytes(b"engine")
    assert store.blobs.put_bytes(b"engine") == store.blobs.put_file(source)
    assert path.stat().st_ino == first


def test_putting_a_blob_mends_a_truncated_one(store: Store) -> None:
    info = store.blobs.put_bytes(b"engine")
    damage(store.blobs.path(info.sha256), b"eng")
    store.blobs.put_bytes(b"engine")
    assert store.blobs.read(info.sha256) == b"engine"


def test_a_flipped_bit_is_found_on_read_get_and_verify(store: Store, tmp_path: Path) -> None:
    info = store.blobs.put_bytes(b"engine")
    path = store.blobs.path(info.sha256)
    damage(path, b"engine"[:-1] + b"d")
    actual = hashlib.sha256(b"engind").hexdigest()
    with pytest.raises(IntegrityError) as caught:
        store.blobs.read(info.sha256)
    assert info.sha256 in caught.value.message
    assert actual in caught.value.message
    assert caught.value.hint
    (tmp_path / "out").write_bytes(b"before")
    with pytest.raises(IntegrityError):
        store.blobs.get(info.sha256, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "store"]
    (problem,) = store.blobs.verify()
    assert (problem.kind, problem.path, problem.sha256) == ("wrong_digest", path, info.sha256)
    assert actual in problem.message


@pytest.mark.parametrize(("left", "sizes_known"), [(0, False), (3, True)])
def test_verify_tells_a_truncated_blob(store: Store, left: int, sizes_known: bool) -> None:
    info = store.blobs.put_bytes(b"engine")
    damage(store.blobs.path(info.sha256), b"engine"[:left])
    (problem,) = store.blobs.verify({info.sha256: 6} if sizes_known else None)
    assert problem.kind == "truncated"


def test_verify_finds_names_that_no_blob_has(store: Store) -> None:
    info = store.blobs.put_bytes(b"engine")
    right = store.blobs.path(info.sha256)
    wrong = right.parent.parent / ("00" if right.parent.name != "00" else "01") / right.name
    wrong.parent.mkdir()
    right.rename(wrong)
    (store.root / "blobs/sha256/notes.txt").write_text("hello")
    assert {(p.kind, p.path) for p in store.blobs.verify()} == {
        ("wrong_name", wrong),
        ("wrong_name", store.root / "blobs/sha256/notes.txt"),
    }
    assert list(store.blobs.list()) == []


def test_verify_finds_links_and_none_is_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = store.blobs.path(hashlib.sha256(b"secret").hexdigest())
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    (store.root / "blobs/sha256/zz").symlink_to(tmp_path, target_is_directory=True)
    assert {p.kind for p in store.blobs.verify()} == {"not_a_file", "wrong_name"}
    assert not store.blobs.exists(path.name)
    with pytest.raises(UnavailableError):
        store.blobs.read(path.name)


def test_verify_finds_temporary_files_of_dead_writers_only(store: Store) -> None:
    fresh, old = (store.root / "blobs/tmp" / name for name in ("fresh.tmp", "old.tmp"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    assert [(p.kind, p.path) for p in store.blobs.verify()] == [("stray_temp", old)]


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_that_is_no_digest_never_becomes_a_path(store: Store, tmp_path: Path, name: str) -> None:
    for use in (
        store.blobs.path,
        store.blobs.read,
        store.blobs.exists,
        lambda given: store.blobs.get(given, tmp_path / "out"),
    ):
        with pytest.raises(UsageError, match="not a SHA-256"):
            use(name)
    assert not (tmp_path / "out").exists()


def test_what_the_store_does_not_have_is_said_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no blob"):
        store.blobs.read("0" * 64)
    with pytest.raises(UsageError, match="No such file"):
        store.blobs.put_file(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is not a file"):
        store.blobs.get(store.blobs.put_bytes(b"x").sha256, tmp_path)


def test_a_copy_never_takes_the_place_of_a_device(store: Store) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        store.blobs.get(store.blobs.put_bytes(b"x").sha256, Path("/dev/null"))


def test_a_missing_root_is_not_made_by_a_write(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "mount" / "blobs")
    with pytest.raises(UnavailableError) as caught:
        blobs.put_bytes(b"x")
    assert str(tmp_path / "mount" / "blobs") in caught.value.message
    assert "mount it" in (caught.value.hint or "")
    with pytest.raises(UnavailableError):
        blobs.read("0" * 64)
    with pytest.raises(UnavailableError):
        list(blobs.list())
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
from farm.errors import UnavailableError
from farm.store import Store
store = Store(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
for put in (lambda: store.blobs.put_bytes(bytes(200_000)), lambda: store.blobs.put_file(Path(sys.argv[2]))):
    try:
        put()
    except UnavailableError as error:
        print(error.message, "|", error.hint)
print(store.blobs.put_bytes(b"small").size_bytes)
"""


def test_a_full_disk_leaves_nothing_half_written(store: Store, tmp_path: Path) -> None:
    """The kernel refuses to let files grow: the same path as no space, which needs no mount."""
    (tmp_path / "big").write_bytes(b"\1" * 200_000)
    done = run_python(FULL, store.root, tmp_path / "big")
    assert done.returncode == 0, done.stderr
    *failures, size = done.stdout.splitlines()
    assert len(failures) == 2
    for line in failures:
        assert str(store.root / "blobs") in line
        assert "Free some space" in line
    assert size == "5"
    assert [info.size_bytes for info in store.blobs.list()] == [5]
    assert list((store.root / "blobs/tmp").iterdir()) == []


def test_a_full_file_system_is_named_with_its_remedy(tmp_path: Path, tiny_file_system: Path) -> None:
    store = Store(tiny_file_system / "store")
    store.create()
    store.check_writable()
    with pytest.raises(UnavailableError, match="No space left") as caught:
        store.blobs.put_bytes(os.urandom(4 * 2**20))
    assert "Free some space" in (caught.value.hint or "")
    assert everything_below(store.root / "blobs") == set()
    filler = tiny_file_system / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(b"\0" * 4096)
    with pytest.raises(UnavailableError, match="No space left"):
        store.check_writable()


DENIED = """
import os, sys
from pathlib import Path
from farm.errors import UnavailableError
from farm.store import Store
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
store = Store(Path(sys.argv[1]))
for use in (lambda: store.blobs.put_bytes(b"x"), store.check_writable):
    try:
        use()
    except UnavailableError as error:
        print(error.message, "|", error.hint)
"""


def test_a_store_that_may_not_be_written_says_so() -> None:
    """In a directory of its own: the tests' own one may be closed to other users altogether."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        store = Store(Path(directory) / "store")
        store.create()
        for path in (store.root / "blobs").rglob("*"):
            path.chmod(0o555)
        done = run_python(DENIED, store.root)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 2
        assert all("Permission denied" in line and "permission there" in line for line in lines)
        for path in (store.root / "blobs").rglob("*"):
            path.chmod(0o755)


PUT = """
store = Store(Path(sys.argv[1]))
for number in range(40):
    store.blobs.put_bytes(str(number).encode() * 5000)
print(sum(1 for _ in store.blobs.list()))
"""


def test_writers_at_once_agree_on_every_blob(store: Store) -> None:
    assert "40" in race(PUT, [[store.root]] * 3)
    assert sum(1 for _ in store.blobs.list()) == 40
    assert list(store.blobs.verify()) == []


def test_a_writer_killed_in_the_middle_leaves_no_blob(store: Store) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from farm.store import Store
store = Store(Path(sys.argv[1]))
def blocks():
    yield b"x" * 100_000
    os.kill(os.getpid(), signal.SIGKILL)
store.blobs._put(blocks())
"""
    assert run_python(code, store.root).returncode == -9
    assert list(store.blobs.list()) == []
    assert len(list((store.root / "blobs/tmp").iterdir())) == 1
