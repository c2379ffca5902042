# SPDX-License-Identifier: Apache-2.0
"""The controller's store, as a worker without its directory reaches it: `farm store serve` at the other end.

Uploads and downloads go on where they were cut, within a call as long as they get on, and in a later one: the service
keeps for an hour what arrived. Nothing is held in memory but a block.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import ssl
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from farm.contract.names import check_name, check_sha256
from farm.contract.record import Record
from farm.errors import IntegrityError, UnavailableError, UsageError
from farm.secrets import read_secret
from farm.settings import Settings
from farm.store import files, wire
from farm.store.blobs import BlobInfo
from farm.store.kept import WorkerStore
from farm.store.link import Link, parse_url, trusting
from farm.store.schema import RecordError, decode_record, encode_record
from farm.store.store import Store

_BLOCK = 1 << 20
#: What the service needs to hash and flush a whole upload, at the least: a slow disk's 20 MB/s.
_SETTLE_BYTES_S = 20e6


def worker_store(settings: Settings) -> WorkerStore:
    """The store that a worker of these settings brings its results to: by `store_url`, else the directory.

    Raises:
        UsageError: the URL makes no sense, or has no token.
    """
    return RemoteStore(settings) if settings.store_url else Store(settings.store_dir)


class RemoteStore:
    """A store behind `store_url`. Constructing one asks nobody.

    Raises:
        UsageError: the URL makes no sense, or has no token.
    """

    def __init__(self, settings: Settings) -> None:
        address, token_file = parse_url(settings.store_url or ""), settings.store_token_file
        if token_file is None:
            hint = "`farm worker --join` brings one; `farm store token` on the controller makes one."
            raise UsageError("store_url is set, store_token_file is not", hint=hint)
        self._ca_file = settings.store_ca_file
        link = Link(
            address,
            lambda: self._context,
            lambda: read_secret(token_file, "the store's token", "FARM_STORE_TOKEN_FILE"),
        )
        self._blobs, self._records = RemoteBlobs(link), RemoteRecords(link)
        self.address = address

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return trusting(self._ca_file)

    @property
    def blobs(self) -> RemoteBlobs:
        """Its files."""
        return self._blobs

    @property
    def records(self) -> RemoteRecords:
        """Its records."""
        return self._records

    def check(self) -> None:
        """Ask for a blob that may or may not be there. Raises UnavailableError if the store cannot be used."""
        self._blobs.exists(hashlib.sha256(b"").hexdigest())


class RemoteBlobs:
    """Blobs of the store behind a link; see `BlobStore` for what each method means."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def exists(self, sha256: str) -> bool:
        """Whether the store has the blob. Raises UnavailableError when it cannot be asked."""
        with self._link.ask("HEAD", f"/blobs/{_digest(sha256)}") as answer:
            return answer.status == 200

    def put_bytes(self, data: bytes) -> BlobInfo:
        """Keep `data`; see `put_file`."""
        return self._put(BlobInfo(hashlib.sha256(data).hexdigest(), len(data)), lambda: io.BytesIO(data))

    def put_file(self, path: Path) -> BlobInfo:
        """Keep a copy of a file's bytes. What an earlier call brought there is not sent again.

        Raises:
            UsageError: there is no such file.
            UnavailableError: the store is away, full, or does not take the file.
        """
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                info = BlobInfo(hashlib.file_digest(stream, "sha256").hexdigest(), size)
            return self._put(info, lambda: path.open("rb"))
        except OSError as error:
            hint = "Check the path and its permissions."
            raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error

    def get(self, sha256: str, to: Path) -> None:
        """Copy a blob to the file `to`, replacing it at once and only if the bytes are right.

        Raises:
            UsageError: the store has no such blob.
            IntegrityError: its bytes are not those of its name.
            UnavailableError: the store is away, or `to` cannot be written.
        """
        digest, to = _digest(sha256), files.export_target(to)
        with files.store_errors("write", to), files.temp_file(to.parent) as copy:
            found = self._download(digest, copy)
            if found != sha256:
                hint = "`farm artifacts verify` on the controller tells whether the store's copy is good."
                raise IntegrityError(f"blob {sha256} came with the digest {found}", hint=hint)
            files.seal(copy, 0o644)
            files.publish_over(Path(copy.name), to)

    def _put(self, info: BlobInfo, opened: Callable[[], BinaryIO]) -> BlobInfo:
        if self.exists(info.sha256):
            return info
        arrived = self._arrived(info.sha256)
        while True:
            try:
                self._send(info, opened, arrived)
                return info
            except UnavailableError:
                before, arrived = arrived, self._arrived(info.sha256)
                if arrived <= before:
                    raise

    def _arrived(self, sha256: str) -> int:
        """How much of it an earlier upload brought there, in bytes."""
        with self._link.ask("HEAD", f"/uploads/{sha256}") as answer:
            return int(answer.headers.get(wire.OFFSET_HEADER, "0"))

    def _send(self, info: BlobInfo, opened: Callable[[], BinaryIO], offset: int) -> None:
        headers = {
            wire.OFFSET_HEADER: str(offset),
            wire.LENGTH_HEADER: str(info.size_bytes),
            "Content-Length": str(info.size_bytes - offset),
            "Content-Type": "application/octet-stream",
        }
        with opened() as stream:
            stream.seek(offset)
            settle_s = info.size_bytes / _SETTLE_BYTES_S
            path = f"/blobs/{info.sha256}"
            with self._link.ask("PUT", path, headers=headers, body=stream, answer_s=settle_s) as answer:
                if answer.status not in (200, 201):
                    raise UnavailableError(f"the store did not take blob {info.sha256}: {answer.status}")

    def _download(self, sha256: str, copy: BinaryIO) -> str:
        hasher, done = hashlib.sha256(), 0
        while True:
            before = done
            try:
                headers = {"Range": f"bytes={done}-"} if done else {}
                with self._link.ask("GET", f"/blobs/{sha256}", headers=headers) as answer:
                    end = _end(answer, sha256, done)
                    while done < end:
                        block = answer.read(min(_BLOCK, end - done))
                        if not block:
                            raise http.client.IncompleteRead(b"")
                        with files.store_errors("write", Path(copy.name)):
                            copy.write(block)
                        hasher.update(block)
                        done += len(block)
                return hasher.hexdigest()
            except UnavailableError:
                if done == before:
                    raise


class RemoteRecords:
    """Records of the store behind a link; see `RecordStore` for what each method means."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def exists(self, run_id: str) -> bool:
        """Whether the run has a record. Raises UnavailableError when the store cannot be asked."""
        with self._link.ask("HEAD", f"/records/{_run_id(run_id)}") as answer:
            return answer.status == 200

    def read(self, run_id: str) -> Record:
        """Return one run's record.

        Raises:
            UsageError: the run has none.
            IntegrityError: it has one that cannot be read.
            UnavailableError: the store is away.
        """
        with self._link.ask("GET", f"/records/{_run_id(run_id)}") as answer:
            if answer.status == 404:
                raise UsageError(f"the store has no record of run {run_id}", hint="`farm results` lists run ids.")
            data = answer.read(wire.MAX_RECORD_BYTES + 1)
        try:
            record = decode_record(data)
        except RecordError as error:
            raise IntegrityError(f"the store's record of run {run_id} cannot be used: {error}") from error
        if record.run_id != run_id:
            raise IntegrityError(f"the store answered with the record of run {record.run_id} for {run_id}")
        return record

    def write(self, record: Record) -> bool:
        """Store a record, once and for ever; False if the run has one.

        Raises:
            UsageError: the record does not fit its own schema.
            IntegrityError: the store refuses it, e.g. because it is of an older release: it must not be given up.
            UnavailableError: the store is away, or cannot write.
        """
        try:
            data = encode_record(record)
        except RecordError as error:
            raise UsageError(f"the record of run {record.run_id} cannot be stored: {error}") from error
        with self._link.ask("POST", "/records", body=data, headers={"Content-Type": "application/json"}) as answer:
            try:
                return bool(json.loads(answer.read(1 << 10))["written"])
            except (KeyError, TypeError) as error:
                raise UnavailableError(f"the store answered {answer.status} and nothing that fits") from error


def _end(answer: http.client.HTTPResponse, sha256: str, offset: int) -> int:
    """Where the bytes of this answer end, counted from the blob's beginning."""
    if answer.status == 404:
        raise UsageError(f"the store has no blob {sha256}", hint="`farm artifacts verify` lists what is missing.")
    if offset and answer.status != 206:
        raise ValueError(f"{answer.status} for a range")
    return offset + int(answer.headers["Content-Length"] or 0)


def _digest(sha256: str) -> str:
    try:
        return check_sha256(sha256)
    except ValueError as error:
        raise UsageError(str(error), hint="`farm artifacts ls` lists the digests of a sweep's files.") from error


def _run_id(run_id: str) -> str:
    try:
        return check_name(run_id, "run id")
    except ValueError as error:
        raise UsageError(str(error), hint="`farm results` lists run ids.") from error
