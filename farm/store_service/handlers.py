# SPDX-License-Identifier: Apache-2.0
"""Answers to requests but those for blobs. What touches the disk runs in a thread."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from tornado.http1connection import HTTP1Connection
from tornado.web import HTTPError, RequestHandler, stream_request_body

import farm
from farm.contract.names import check_name
from farm.contract.record import Record
from farm.errors import FarmError, IntegrityError, UnavailableError, UsageError
from farm.secrets import hide, read_secret
from farm.store import wire
from farm.store.schema import RecordError, decode_record, encode_record
from farm.store_service.access import Grant, Invitation
from farm.store_service.desk import Desk
from farm.store_service.uploads import Part
from farm.versions import too_far_apart

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Characters of a refusal's words in its header: what every server and client takes.
_IN_HEADER = 400
_KINDS = ((UsageError, wire.USAGE), (IntegrityError, wire.INTEGRITY), (UnavailableError, wire.UNAVAILABLE))


class RefusedError(HTTPError):
    """A refusal with the words that the client shows."""

    def __init__(self, status: int, kind: str, message: str, hint: str | None = None) -> None:
        super().__init__(status)
        self.told: dict[str, str | None] = {"kind": kind, "message": hide(message), "hint": hint}


@stream_request_body
class Handler(RequestHandler):
    """What all answers share: no request is heard whose token is nobody's, and no body that is too long is read."""

    max_body_bytes = 0
    grant: Grant

    def initialize(self, desk: Desk) -> None:
        """Take what all requests share."""
        self.desk = desk
        self._body = bytearray()

    def set_default_headers(self) -> None:
        """Say nothing of the program, and let nobody keep answers."""
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        """Refuse a wrong version or token before anything else is read."""
        self._take_body(self.max_body_bytes)
        self._check_version()
        word, _, token = self.request.headers.get("Authorization", "").partition(" ")
        grant = self.desk.access.check(token) if word == "Bearer" else None
        if grant is None:
            hint = "Check FARM_STORE_TOKEN_FILE; `farm worker invite` on the controller makes a new invitation."
            raise RefusedError(401, wire.UNAVAILABLE, "the token is not one of this farm's", hint)
        self.grant = grant

    def data_received(self, chunk: bytes) -> Any:
        """Keep a piece of a small body; the connection refuses what is longer than was announced."""
        self._body += chunk

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with JSON in place of a page."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        fallback: dict[str, str | None] = {
            "kind": wire.UNAVAILABLE,
            "message": f"refused with status {status_code}",
            "hint": None,
        }
        # What follows of a body that was refused is not read.
        self.set_header("Connection", "close")
        told = error.told if isinstance(error, RefusedError) else fallback
        short = {key: value and value[:_IN_HEADER] for key, value in told.items()}
        self.set_header(wire.REFUSAL_HEADER, json.dumps(short))
        self.finish(told)

    def _take_body(self, limit: int) -> None:
        length = self.request.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.request.headers or not (length.isascii() and length.isdigit()):
            raise RefusedError(411, wire.USAGE, "a request must say how long its body is")
        if len(length) > 18 or int(length) > limit:
            raise RefusedError(413, wire.USAGE, f"the body is longer than {limit} bytes")
        self._line.set_max_body_size(limit)

    @property
    def _line(self) -> HTTP1Connection:
        return cast(HTTP1Connection, self.request.connection)

    def _check_version(self) -> None:
        problem = too_far_apart(farm.__version__, self.request.headers.get(wire.VERSION_HEADER, "none"))
        if problem:
            raise RefusedError(426, wire.UNAVAILABLE, problem, "docs/deploy.md says how a farm is upgraded.")

    async def _do(self, function: Callable[..., T], *args: Any) -> T:
        """Run what touches the disk in a thread; what it refuses is the answer."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, function, *args)
        except FarmError as error:
            kind = next((kind for of, kind in _KINDS if isinstance(error, of)), wire.UNAVAILABLE)
            status = {wire.USAGE: 409, wire.INTEGRITY: 422}.get(kind, 503)
            raise RefusedError(status, kind, error.message, error.hint) from error


class UploadHandler(Handler):
    """How much of an upload has arrived."""

    async def head(self, sha256: str) -> None:
        """Say so in a header."""
        arrived = await self._do(self.desk.uploads.arrived, Part(self.grant.name, sha256))
        self.set_header(wire.OFFSET_HEADER, str(arrived))


class RecordHandler(Handler):
    """A record that is there."""

    async def get(self, run_id: str) -> None:
        """The record, as this release writes it."""
        try:
            check_name(run_id, "run id")
        except ValueError as error:
            raise RefusedError(400, wire.USAGE, str(error)) from error
        if not await self._do(self.desk.store.records.exists, run_id):
            raise RefusedError(404, wire.USAGE, "the store has no such record")
        if self.request.method == "GET":
            data = await self._do(lambda: encode_record(self.desk.store.records.read(run_id)))
            self.set_header("Content-Type", "application/json")
            self.write(data)

    async def head(self, run_id: str) -> None:
        """Whether it is there."""
        await self.get(run_id)


class RecordsHandler(Handler):
    """New records."""

    max_body_bytes = wire.MAX_RECORD_BYTES

    async def post(self) -> None:
        """Keep a record if it is the first of its run, and may be this worker's."""
        try:
            record = await self._do(decode_record, bytes(self._body))
        except RecordError as error:
            # No fault of the worker's: its own release has read it. So it keeps it until this one can.
            raise RefusedError(422, wire.INTEGRITY, f"this record cannot be taken: {error}") from error
        self._check_device(record)
        written = await self._do(self.desk.store.records.write, record)
        log.info(
            "%s brought the record of run %s%s", self.grant.name, record.run_id, "" if written else ", a later one"
        )
        self.set_status(201 if written else 200)
        self.write({"written": written})

    def _check_device(self, record: Record) -> None:
        own, device = self.grant.devices, record.device
        if own and (device is None or device.device_id not in own):
            named = device.device_id if device else "no device"
            raise RefusedError(
                403, wire.INTEGRITY, f"{self.grant.name} brings a record of {named}, not of {', '.join(own)}"
            )


class OpenHandler(Handler):
    """What needs no token: it gives nothing that is secret, or asks for an invitation."""

    def prepare(self) -> None:
        """Only the length of the body is looked at."""
        self._take_body(self.max_body_bytes)


class HealthHandler(OpenHandler):
    """For whoever restarts what does not answer."""

    def get(self) -> None:
        """Say that the service works."""
        self.write("ok\n")


class NothingHandler(OpenHandler):
    """Any other path."""

    def initialize(self, desk: Desk | None = None) -> None:
        """There is nothing to share."""
        self._body = bytearray()

    def prepare(self) -> None:
        """There is nothing here."""
        raise RefusedError(404, wire.USAGE, "there is nothing here")


class AuthorityHandler(OpenHandler):
    """The authority's certificate: no secret, and taken only by who knows its fingerprint."""

    async def get(self) -> None:
        """The certificate as PEM."""
        path = self.desk.ca_file
        if path is None:
            raise RefusedError(404, wire.USAGE, "this store has no store_ca_file")
        self.set_header("Content-Type", "application/x-pem-file")
        self.write(await self._do(lambda: path.expanduser().read_bytes()))


class JoinHandler(OpenHandler):
    """An invitation against credentials."""

    max_body_bytes = wire.MAX_JOIN_BYTES

    async def post(self) -> None:
        """Hand out what the invitation is worth: once."""
        self._check_version()
        try:
            asked = json.loads(self._body)
            invitation, secret = str(asked["invitation"]), str(asked["secret"])
        except (ValueError, RecursionError, KeyError, TypeError):
            raise RefusedError(400, wire.USAGE, "this is no request to join") from None
        found = await self._do(self.desk.access.redeem, invitation, secret)
        if found is None:
            hint = "`farm worker invite` on the controller makes a new one."
            raise RefusedError(403, wire.USAGE, "the invitation is used, over, or none of this farm's", hint)
        self.write(await self._do(self._credentials, found))
        log.info("%s has joined", found.name)

    def _credentials(self, found: Invitation) -> dict[str, Any]:
        password = cert = key = ca = None
        if found.password_file:
            password = read_secret(Path(found.password_file), "the broker's password file", "the invitation")
        if found.cert_file and found.key_file:
            cert = read_secret(Path(found.cert_file), "the certificate for the broker", "the invitation")
            key = read_secret(Path(found.key_file), "the key for the broker", "the invitation")
        if self.desk.broker_ca_file is not None:
            ca = self.desk.broker_ca_file.expanduser().read_text()
        return {
            "name": found.name,
            "devices": list(found.devices),
            "device_kind": found.device_kind,
            "store_url": found.store_url,
            "store_token": self.desk.access.grant(found.name, found.devices),
            "broker_url": found.broker_url,
            "broker_user": found.broker_user,
            "broker_password": password,
            "broker_ca": ca,
            "broker_cert": cert,
            "broker_key": key,
        }
