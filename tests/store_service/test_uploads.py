# SPDX-License-Identifier: Apache-2.0
"""Uploads in parts: who goes on, what is cut, and what is left."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import farm
from farm.errors import IntegrityError, UnavailableError
from farm.settings import Settings
from farm.store import Store
from farm.store_service.desk import Desk
from farm.store_service.server import make_server
from farm.store_service.uploads import MAX_PARTS, Part, Uploads
from tests.e2e.conftest import wait_for

DATA = b"half" * 4
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(settings: Settings) -> Store:
    made = Store(settings.store_dir)
    made.create()
    return made


@pytest.fixture
def uploads(store: Store) -> Uploads:
    return Uploads(store.blobs, 1 << 40)


def bring(uploads: Uploads, part: Part, data: bytes, offset: int, length: int) -> None:
    descriptor = uploads.open(part, offset, length)
    os.pwrite(descriptor, data, offset)
    os.close(descriptor)


def test_two_halves_make_a_blob(uploads: Uploads, store: Store) -> None:
    part = Part("lab", DIGEST)
    bring(uploads, part, DATA[:8], 0, 16)
    assert uploads.arrived(part) == 8 and uploads.arrived(Part("other", DIGEST)) == 0
    bring(uploads, part, DATA[8:], 8, 16)
    uploads.finish(part)
    assert store.blobs.read(DIGEST) == DATA
    assert store.blobs.path(DIGEST).stat().st_mode & 0o777 == 0o444
    assert list(store.blobs.temp.iterdir()) == []


def test_other_bytes_are_no_blob_and_go(uploads: Uploads, store: Store) -> None:
    bring(uploads, Part("lab", DIGEST), b"x" * 16, 0, 16)
    with pytest.raises(UnavailableError, match="have the digest"):
        uploads.finish(Part("lab", DIGEST))
    assert not store.blobs.exists(DIGEST) and list(store.blobs.temp.iterdir()) == []


@pytest.mark.parametrize(("offset", "length"), [(1, 16), (-1, 16), (0, -1), (9, 8)])
def test_it_goes_on_only_where_it_ended(uploads: Uploads, offset: int, length: int) -> None:
    with pytest.raises(UnavailableError, match="have arrived"):
        uploads.open(Part("lab", DIGEST), offset, length)


def test_what_does_not_fit_is_refused(store: Store) -> None:
    with pytest.raises(IntegrityError, match="larger than 10"):
        Uploads(store.blobs, 10).open(Part("lab", DIGEST), 0, 11)
    with pytest.raises(UnavailableError, match="disk is full"):
        Uploads(store.blobs, 1 << 62).open(Part("lab", DIGEST), 0, 1 << 60)


def test_a_link_in_place_of_a_part_is_not_followed(uploads: Uploads, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    uploads.path(Part("lab", DIGEST)).symlink_to(tmp_path / "target")
    with pytest.raises(UnavailableError):
        uploads.open(Part("lab", DIGEST), 0, 16)
    assert (tmp_path / "target").read_bytes() == b""


def test_a_worker_begins_only_so_many(uploads: Uploads) -> None:
    for number in range(MAX_PARTS):
        bring(uploads, Part("lab", f"{number:064x}"), b"x", 0, 2)
    with pytest.raises(UnavailableError, match="has begun"):
        uploads.open(Part("lab", DIGEST), 0, 16)
    bring(uploads, Part("lab", f"{1:064x}"), b"y", 1, 2)
    bring(uploads, Part("other", DIGEST), b"x", 0, 2)


def test_what_nobody_touched_for_an_hour_goes_but_not_what_comes_just_now(uploads: Uploads) -> None:
    old, slow, young = (Part("lab", c * 64) for c in "abc")
    for part in (old, slow, young):
        bring(uploads, part, b"x", 0, 2)
    for part in (old, slow):
        os.utime(uploads.path(part), (time.time() - 3700,) * 2)
    assert uploads.remove_stale(lambda part: part == slow) == 1
    assert [uploads.arrived(part) for part in (old, slow, young)] == [0, 1, 1]


@contextmanager
def listening(settings: Settings, idle_s: float = 60.0) -> Iterator[tuple[Desk, int]]:
    """The service in a thread, in the clear on loopback; it tidies up every 50 ms."""
    begun, stop, found = threading.Event(), asyncio.Event(), {}
    desk = Desk(settings, idle_s=idle_s)

    async def run() -> None:
        server = make_server(settings, desk)
        server.listen(0, "127.0.0.1")
        found["port"] = next(iter(server._sockets.values())).getsockname()[1]
        found["loop"] = asyncio.get_running_loop()
        begun.set()
        while not stop.is_set():
            await desk.tidy()
            await asyncio.sleep(0.05)
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert begun.wait(20)
    try:
        yield desk, found["port"]
    finally:
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join(20)


def put(desk: Desk, port: int, offset: int, data: bytes) -> socket.socket:
    """Send the head of an upload and these bytes of it."""
    head = (
        f"PUT /v1/blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk.access.grant('lab')}\r\n"
        f"Inferfarm-Version: {farm.__version__}\r\nUpload-Offset: {offset}\r\nUpload-Length: {len(DATA)}\r\n"
        f"Content-Length: {len(DATA) - offset}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(head.encode() + data)
    return connection


def test_a_line_that_brings_nothing_is_cut_and_what_it_brought_stays(settings: Settings, store: Store) -> None:
    with listening(settings, idle_s=0.3) as (desk, port), put(desk, port, 0, DATA[:8]) as connection:
        assert connection.recv(100) == b""
        assert desk.uploads.arrived(Part("lab", DIGEST)) == 8
        wait_for(lambda: not desk.is_active(Part("lab", DIGEST)), "the request to end")


def test_who_begins_anew_takes_over_from_a_line_that_is_dead(settings: Settings, store: Store) -> None:
    with listening(settings) as (desk, port), put(desk, port, 0, DATA[:8]) as dead:
        wait_for(lambda: desk.uploads.arrived(Part("lab", DIGEST)) == 8, "the first half")
        with put(desk, port, 8, DATA[8:]) as alive:
            assert b" 201 " in alive.recv(1000)
        dead.sendall(b"x" * 8)
        assert b" 503 " in dead.recv(1000)
        assert store.blobs.read(DIGEST) == DATA
        assert list(store.blobs.temp.iterdir()) == []
