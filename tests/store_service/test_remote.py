# SPDX-License-Identifier: Apache-2.0
"""A worker's store over TLS: the same answers as the directory's, refusals, and nothing lost on a bad line."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import farm
from farm.contract.record import Record
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.settings import Settings
from farm.store import Store
from farm.store.link import parse_url
from farm.store.remote import RemoteBlobs, RemoteStore, worker_store
from farm.store_service.access import Access
from tests.e2e.conftest import wait_for
from tests.factories import make_record
from tests.security.tls_server import make_authority
from tests.store_service.served import ROOT, Served, peak_bytes
from workers.daemon.spool import BlobFile, Spool

#: Uploads a file; where one is named as the second, it stops after 16 MiB until that is there.
UPLOAD = """
import io, sys, time
from pathlib import Path
from farm.settings import load_settings
from farm.store.remote import RemoteBlobs, RemoteStore
class Stops(io.FileIO):
    def read(self, size=-1):
        while self.tell() >= 16 << 20 and not Path(sys.argv[2]).exists():
            time.sleep(0.02)
        return super().read(size)
if len(sys.argv) > 2:
    send = RemoteBlobs._send
    RemoteBlobs._send = lambda self, info, opened, at: send(self, info, lambda: Stops(sys.argv[1]), at)
print(RemoteStore(load_settings()).blobs.put_file(Path(sys.argv[1])).sha256)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def big_file(path: Path, megabytes: int) -> str:
    """A file that does not repeat itself, and its digest."""
    hasher = hashlib.sha256()
    with path.open("wb") as stream:
        for _ in range(megabytes):
            block = os.urandom(1 << 20)
            hasher.update(block)
            stream.write(block)
    return hasher.hexdigest()


def uploading(served: Served, path: Path, name: str, *until: Path) -> subprocess.Popen[str]:
    settings = served.worker(name)
    environment = os.environ | settings.environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", UPLOAD, str(path), *map(str, until)], env=environment, stdout=subprocess.PIPE, text=True
    )


def part_bytes(served: Served) -> int:
    return max(
        (path.stat().st_size for path in (served.settings.store_dir / "blobs/tmp").glob("*.upload.tmp")), default=0
    )


def request(served: Served, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    """A request by hand."""
    context = ssl.create_default_context(cafile=str(served.directory / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", served.port, context=context, timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def headers(served: Served, name: str = "by-hand", **more: object) -> dict[str, str]:
    token = Access(served.settings.access_dir).grant(name)
    own = {key.replace("_", "-"): str(value) for key, value in more.items()}
    return {"Authorization": f"Bearer {token}", "Inferfarm-Version": farm.__version__, **own}


@pytest.mark.parametrize("data", [b"", b"engine", os.urandom(3 << 20)], ids=["empty", "small", "3 MB"])
def test_a_blob_goes_there_and_comes_back(served: Served, tmp_path: Path, data: bytes) -> None:
    remote = served.remote()
    (tmp_path / "file").write_bytes(data)
    assert not remote.blobs.exists(sha256(data))
    assert remote.blobs.put_file(tmp_path / "file").sha256 == sha256(data)
    assert remote.blobs.put_bytes(data).size_bytes == len(data)
    assert remote.blobs.exists(sha256(data))
    assert served.store.blobs.read(sha256(data)) == data
    remote.blobs.get(sha256(data), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_record_is_kept_once_and_the_first_one_stays(served: Served) -> None:
    remote, record = served.remote(), make_record()
    assert not remote.records.exists(record.run_id)
    assert remote.records.write(record)
    assert not remote.records.write(dataclasses.replace(record, finished_at="2026-03-02T10:00:00+00:00"))
    assert remote.records.exists(record.run_id)
    assert remote.records.read(record.run_id) == served.store.records.read(record.run_id) == record


def test_what_is_not_there_is_the_same_error_as_of_a_directory(served: Served, tmp_path: Path) -> None:
    missing = sha256(b"missing")
    for store in (served.remote(), served.store):
        with pytest.raises(UsageError, match=missing):
            store.blobs.get(missing, tmp_path / "x")
        with pytest.raises(UsageError, match="no record of run none"):
            store.records.read("none")
        with pytest.raises(UsageError, match="not a SHA-256"):
            store.blobs.exists("../../etc/passwd")
        with pytest.raises(UsageError, match="not allowed"):
            store.records.exists("../passwd")


def test_other_bytes_than_the_names_are_refused_and_leave_nothing(served: Served) -> None:
    wanted = sha256(b"right")
    told = headers(served, Upload_Offset=0, Upload_Length=5)
    status, answer = request(served, "PUT", f"/v1/blobs/{wanted}", told, b"wrong")
    assert status == 503 and b"have the digest" in answer
    assert not served.store.blobs.exists(wanted)
    assert list((served.settings.store_dir / "blobs/tmp").iterdir()) == []


def test_damaged_bytes_in_the_store_are_not_handed_on(served: Served, tmp_path: Path) -> None:
    remote = served.remote()
    kept = remote.blobs.put_bytes(b"sound").sha256
    path = served.store.blobs.path(kept)
    path.chmod(0o644)
    path.write_bytes(b"sourd")
    with pytest.raises(IntegrityError, match="came with the digest"):
        remote.blobs.get(kept, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    path.unlink()


@pytest.mark.parametrize(
    ("method", "path", "more", "body", "status"),
    [
        ("GET", "/v1/blobs/../../store.json", {}, b"", 404),
        ("GET", "/v1/blobs/" + "g" * 64, {}, b"", 404),
        ("GET", "/v1/records/..%2f..%2fstore.json", {}, b"", 404),
        ("PUT", "/v1/blobs/" + "a" * 64, {}, b"x", 400),
        ("PUT", "/v1/blobs/" + "a" * 64, {"Upload_Offset": 7, "Upload_Length": 8}, b"x", 503),
        ("PUT", "/v1/blobs/" + "a" * 64, {"Upload_Offset": -1, "Upload_Length": 0}, b"x", 400),
        ("PUT", "/v1/blobs/" + "a" * 64, {"Upload_Offset": 0, "Upload_Length": 9}, b"x", 400),
        ("PUT", "/v1/blobs/" + "a" * 64, {"Upload_Offset": 0, "Upload_Length": 1 << 50}, b"x", 400),
        ("POST", "/v1/records", {}, b"{}", 422),
        ("POST", "/v1/records", {}, b"[" * 100_000, 422),
        ("POST", "/v1/records", {}, b" " * (9 << 20), 413),
        ("DELETE", "/v1/blobs/" + "a" * 64, {}, b"", 405),
        ("GET", "/", {}, b"", 404),
        ("GET", "/healthz", {}, b"", 200),
    ],
)
def test_odd_requests_are_refused(
    served: Served, method: str, path: str, more: dict[str, Any], body: bytes, status: int
) -> None:
    try:
        assert request(served, method, path, headers(served, **more), body)[0] == status
    except OSError:
        assert status == 413  # refused before all of it was sent
    assert not [path for path in (served.settings.store_dir / "blobs/tmp").iterdir() if path.stat().st_size]


def test_too_large_a_blob_is_refused_before_its_bytes(tmp_path: Path, served: Served) -> None:
    big = served.settings.store_max_blob_bytes + 1
    told = headers(served, Upload_Offset=0, Upload_Length=big, Content_Length=big)
    status, answer = request(served, "PUT", "/v1/blobs/" + "a" * 64, told)
    assert status == 413 and b"longer than" in answer


def test_nobody_without_a_token_gets_anything(served: Served, tmp_path: Path) -> None:
    blob = served.remote().blobs.put_bytes(b"secret engine").sha256
    good = headers(served)["Authorization"]
    wrong = ["", "Bearer", "Bearer x", "Bearer lab:" + "x" * 43, good[:-1], good + "x", "Basic " + good[7:]]
    for word in wrong:
        told = {"Authorization": word, "Inferfarm-Version": farm.__version__}
        assert request(served, "GET", f"/v1/blobs/{blob}", told)[0] == 401, word
    worker = served.worker("gone")
    Access(served.settings.access_dir).revoke("gone")
    with pytest.raises(UnavailableError, match="token is not one of this farm's"):
        RemoteStore(worker).records.exists("run")
    kept = "".join(path.read_text() for path in served.settings.access_dir.rglob("*.json"))
    assert good.partition(":")[2] not in kept
    assert {path.stat().st_mode & 0o077 for path in served.settings.access_dir.rglob("*")} == {0}


def test_a_token_of_one_device_brings_no_records_of_others(served: Served) -> None:
    record = dataclasses.replace(make_record(), run_id="of-one-device")
    assert record.device is not None
    with pytest.raises(IntegrityError, match="not of another-gpu"):
        served.remote("bound", "another-gpu").records.write(record)
    assert not served.store.records.exists(record.run_id)
    assert served.remote("bound", record.device.device_id).records.write(record)


def test_a_foreign_authority_is_not_trusted(served: Served, tmp_path: Path) -> None:
    make_authority(tmp_path)
    settings = served.worker().model_copy(update={"store_ca_file": tmp_path / "ca.crt"})
    with pytest.raises(UnavailableError, match="certificate"):
        RemoteStore(settings).blobs.exists(sha256(b""))


@pytest.mark.parametrize("version", ["0.3.0", "1.0.0", "none"])
def test_a_release_too_far_away_is_refused(served: Served, version: str) -> None:
    told = headers(served) | {"Inferfarm-Version": version}
    status, _ = request(served, "HEAD", "/v1/records/run", told)
    assert status == 426
    assert b"inferfarm" in request(served, "GET", "/v1/records/run", told)[1]


@pytest.mark.parametrize("url", ["http://lab:8470", "ftp://lab", "https://", "https://a@lab", "https://lab:x", "lab"])
def test_a_url_that_makes_no_sense_or_gives_the_token_away_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        parse_url(url)


def test_a_worker_takes_the_directory_unless_there_is_a_url(settings: Settings, served: Served) -> None:
    assert isinstance(worker_store(settings), Store)
    assert isinstance(worker_store(served.worker()), RemoteStore)
    with pytest.raises(UsageError, match="store_token_file"):
        worker_store(settings.model_copy(update={"store_url": served.url}))


def test_an_upload_whose_worker_is_killed_goes_on_where_it_was_cut(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = big_file(tmp_path / "engine", 24)
    worker = uploading(served, tmp_path / "engine", "cut", tmp_path / "never")
    wait_for(lambda: part_bytes(served) > 8 << 20, "some of the upload")
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert not served.store.blobs.exists(digest)
    began: list[int] = []
    send = RemoteBlobs._send

    def noted(self: RemoteBlobs, info: Any, opened: Any, offset: int) -> None:
        began.append(offset)
        send(self, info, opened, offset)

    monkeypatch.setattr(RemoteBlobs, "_send", noted)
    assert served.remote("cut").blobs.put_file(tmp_path / "engine").sha256 == digest
    assert began[0] >= 8 << 20
    assert served.store.blobs.read(digest) == (tmp_path / "engine").read_bytes()
    assert part_bytes(served) == 0


def test_300_mb_take_a_few_mb_of_memory_at_both_ends(served: Served, tmp_path: Path) -> None:
    assert served.process is not None
    digest = big_file(tmp_path / "engine", 300)
    before = peak_bytes(served.process.pid)
    worker = uploading(served, tmp_path / "engine", "big")
    told, client_peak = worker.communicate(timeout=120)[0].split()
    assert told == digest
    served.remote("big").blobs.get(digest, tmp_path / "back")
    assert peak_bytes(served.process.pid) - before < 40 << 20
    assert int(client_peak) < 150 << 10
    assert served.store.blobs.exists(digest)
    served.store.blobs.path(digest).unlink()


def spooled(directory: Path, record: Record, data: bytes) -> Spool:
    spool = Spool(directory / "spool")
    path = directory / record.run_id
    path.write_bytes(data)
    spool.put(record, [BlobFile(path, sha256(data))])
    return spool


def test_what_ends_while_the_controller_is_away_waits_and_comes_there(served: Served, tmp_path: Path) -> None:
    record = dataclasses.replace(make_record(), run_id="while-away")
    spool, remote = spooled(tmp_path, record, b"made while away"), served.remote()
    served.stop()
    assert spool.flush(remote) == 1
    with pytest.raises(UnavailableError, match="is away"):
        remote.records.exists(record.run_id)
    served.start()
    assert spool.flush(remote) == 0
    assert served.store.records.read(record.run_id) == record
    assert served.store.blobs.read(sha256(b"made while away")) == b"made while away"


def test_a_service_that_dies_in_an_upload_loses_nothing(served: Served, tmp_path: Path) -> None:
    digest = big_file(tmp_path / "file", 24)
    worker = uploading(served, tmp_path / "file", "dies", tmp_path / "on")
    wait_for(lambda: part_bytes(served) > 8 << 20, "some of the upload")
    assert served.process is not None
    served.process.kill()
    served.process.wait()
    (tmp_path / "on").touch()
    worker.communicate(timeout=120)
    assert worker.returncode != 0
    kept = part_bytes(served)
    assert kept > 8 << 20
    served.start()
    assert served.remote("dies")._blobs._arrived(digest) == kept
    assert served.remote("dies").blobs.put_file(tmp_path / "file").sha256 == digest
    assert served.store.blobs.read(digest) == (tmp_path / "file").read_bytes()


def test_one_record_that_is_refused_holds_up_no_other(served: Served, tmp_path: Path) -> None:
    first = dataclasses.replace(make_record(), run_id="a-of-another-device")
    second = dataclasses.replace(make_record(), run_id="b-of-another-device")
    spool = spooled(tmp_path, first, b"1")
    spooled(tmp_path, second, b"2")
    assert spool.flush(served.remote("bound", "another-gpu")) == 2
    assert spool.flush(served.remote("bound")) == 0
