# SPDX-License-Identifier: Apache-2.0
"""Blobs over HTTP: Tornado's own file answers for reading, uploads that can be cut and go on for writing."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from tornado.web import StaticFileHandler

from farm.errors import FarmError, UnavailableError
from farm.store import files, wire
from farm.store_service.desk import Desk
from farm.store_service.handlers import Handler, RefusedError
from farm.store_service.uploads import Part

log = logging.getLogger(__name__)

_LONGEST_S = 24 * 3600.0


class BlobHandler(Handler, StaticFileHandler):
    """A blob: Tornado's own file answers (ranges, lengths) for reading, uploads in parts for writing."""

    def initialize(self, desk: Desk) -> None:  # type: ignore[override]
        """Take what all requests share."""
        StaticFileHandler.initialize(self, str(desk.store.blobs.root / "sha256"))
        Handler.initialize(self, desk)
        self._part: Part | None = None
        self._fd, self._at, self._end = -1, 0, 0
        self._trouble: FarmError | None = None
        self.last_s, self.writing = time.monotonic(), asyncio.Lock()

    async def prepare(self) -> None:  # type: ignore[override]
        """Open what is uploaded, at the place where it goes on."""
        self.max_body_bytes = self.desk.max_blob_bytes if self.request.method == "PUT" else 0
        Handler.prepare(self)
        if self.request.method == "PUT":
            # How long it takes is the line's business; whether it goes on at all is the desk's.
            self._line.set_body_timeout(_LONGEST_S)
            await self._begin(self.path_args[0])

    async def _begin(self, sha256: str) -> None:
        offset, length = (self._number(name) for name in (wire.OFFSET_HEADER, wire.LENGTH_HEADER))
        if offset + self._number("Content-Length") != length:
            raise RefusedError(400, wire.USAGE, "the body is not what is left of the blob")
        part = Part(self.grant.name, sha256)
        if not await self.desk.take(part, self):
            raise RefusedError(409, wire.UNAVAILABLE, "this upload is just being finished")
        self._part, self.last_s = part, time.monotonic()
        self._fd = await self._do(self.desk.uploads.open, part, offset, length)
        self._at, self._end = offset, length

    async def data_received(self, chunk: bytes) -> None:
        """Write a piece, unless another request of the same worker took this upload over."""
        async with self.writing:
            if self._part is None or self._trouble is not None or self._fd < 0:
                return
            if not self.desk.holds(self._part, self):
                self._trouble = UnavailableError("the same upload was begun anew")
                return
            self.last_s = time.monotonic()
            try:
                await asyncio.get_running_loop().run_in_executor(None, _write_at, self._fd, chunk, self._at)
                self._at += len(chunk)
            except OSError as error:
                self._trouble = UnavailableError(f"the store cannot be written: {error.strerror}")

    async def put(self, sha256: str) -> None:
        """All of the body is here: make it the blob."""
        part = self._part
        if part is None or self._trouble is not None or self._at != self._end:
            trouble = self._trouble or UnavailableError("the upload did not come whole")
            raise RefusedError(503, wire.UNAVAILABLE, trouble.message)
        if not self.desk.begin_to_finish(part, self):
            raise RefusedError(409, wire.UNAVAILABLE, "the same upload was begun anew")
        await self._do(self.desk.uploads.finish, part)
        log.info("%s brought blob %s, %d bytes", part.worker, sha256, self._end)
        self.set_status(201)

    def on_finish(self) -> None:
        """Close the file; what arrived of it waits."""
        self._leave()

    def on_connection_close(self) -> None:
        """The same for a connection that was cut."""
        super().on_connection_close()
        self._leave()

    def _leave(self) -> None:
        if self._part is not None:
            self.desk.leave(self._part, self)
        self._closing = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        async with self.writing:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def cut(self) -> None:
        """End the connection: nothing came for too long."""
        self._line.close()

    def _number(self, header: str) -> int:
        text = self.request.headers.get(header, "")
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise RefusedError(400, wire.USAGE, f"{header} is not a number of bytes")
        return int(text)

    def parse_url_path(self, url_path: str) -> str:
        """The digest, as the route's pattern let it through."""
        return url_path

    @classmethod
    def get_absolute_path(cls, root: str, path: str) -> str:
        """Where the blob lies."""
        return str(Path(root, path[:2], path[2:4], path))

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Only a regular file is a blob."""
        if not files.is_regular(Path(absolute_path)):
            raise RefusedError(404, wire.USAGE, "the store has no such blob")
        return absolute_path

    def compute_etag(self) -> str | None:
        """None: the name is the content's digest already."""
        return None

    def get_content_type(self) -> str:
        """Bytes, whatever they are."""
        return "application/octet-stream"


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
