# SPDX-License-Identifier: Apache-2.0
"""`farm store serve`: Tornado's HTTP server with limits, TLS, and the store behind it, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import PeriodicCallback
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from farm.broker.connection import is_loopback
from farm.errors import UnavailableError, UsageError
from farm.settings import Settings
from farm.store import wire
from farm.store_service import handlers
from farm.store_service.blob_handler import BlobHandler
from farm.store_service.desk import Desk

log = logging.getLogger(__name__)

#: A worker uses one at a time.
MAX_CONNECTIONS = 256
#: For the head of a request, the handshake before it, and a body that is no upload.
_PATIENCE_S = 30.0
_TIDY_MS = 15_000
_CHUNK = 1 << 18
_SHA256, _RUN_ID = r"([0-9a-f]{64})", r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})"


class Server(HTTPServer):
    """Tornado's, which takes no more than so many connections at once."""

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Close what is too many at once: a worker asks again."""
        if len(self._connections) >= MAX_CONNECTIONS:
            stream.close()
            return
        super().handle_stream(stream, address)


def make_server(settings: Settings, desk: Desk) -> Server:
    """The server, not listening yet. Call it in the event loop that is to run it.

    Raises:
        UsageError: the address is one that others reach and there is no certificate, or it cannot be used.
    """
    return Server(
        make_application(desk),
        ssl_options=tls(settings),
        chunk_size=_CHUNK,
        # Of what a connection sends ahead no more than this is held.
        max_buffer_size=4 * _CHUNK,
        max_header_size=16 << 10,
        max_body_size=wire.MAX_JOIN_BYTES,
        idle_connection_timeout=_PATIENCE_S,
        body_timeout=_PATIENCE_S,
    )


def make_application(desk: Desk) -> Application:
    """The routes."""
    given = {"desk": desk}
    routes: list[Any] = [
        ("/healthz", handlers.HealthHandler, given),
        (f"{wire.PREFIX}/blobs/{_SHA256}", BlobHandler, given),
        (f"{wire.PREFIX}/uploads/{_SHA256}", handlers.UploadHandler, given),
        (f"{wire.PREFIX}/records/{_RUN_ID}", handlers.RecordHandler, given),
        (f"{wire.PREFIX}/records", handlers.RecordsHandler, given),
        (f"{wire.PREFIX}/ca", handlers.AuthorityHandler, given),
        (f"{wire.PREFIX}/join", handlers.JoinHandler, given),
    ]
    return Application(routes, log_function=_log, default_handler_class=handlers.NothingHandler)


def tls(settings: Settings) -> ssl.SSLContext | None:
    """The server's side of TLS; None where it is not asked for and nobody else can listen in.

    Raises:
        UsageError: it is needed and not there, or half of it is, or it cannot be read.
    """
    certificate, key = settings.store_cert_file, settings.store_key_file
    hint = "docs/deploy.md shows how to make them."
    if (certificate is None) != (key is None):
        raise UsageError("store_cert_file and store_key_file go together: one of them is not set", hint=hint)
    if certificate is None or key is None:
        if not is_loopback(settings.store_address):
            raise UsageError(
                f"on {settings.store_address} the store needs store_cert_file and store_key_file", hint=hint
            )
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate.expanduser(), key.expanduser())
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the store's certificate {certificate} cannot be used: {error}", hint=hint) from None
    return context


def serve(settings: Settings) -> None:
    """Serve the store until SIGTERM or SIGINT.

    Raises:
        UsageError: the settings make no sense.
        UnavailableError: the store cannot be written, or the address is taken.
    """
    desk = Desk(settings)
    desk.store.create()
    desk.store.check_writable()
    asyncio.run(_serve(settings, desk))


async def _serve(settings: Settings, desk: Desk) -> None:
    server, stop = make_server(settings, desk), asyncio.Event()
    try:
        server.listen(settings.store_port, settings.store_address)
    except OSError as error:
        where = f"{settings.store_address}:{settings.store_port}"
        raise UnavailableError(f"the store cannot be served at {where}: {error.strerror}") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tidying = PeriodicCallback(desk.tidy, _TIDY_MS)
    tidying.start()
    scheme = "https" if settings.store_cert_file else "http"
    log.info("the store %s is served at %s://%s:%d", settings.store_dir, scheme, settings.store_address, _port(server))
    try:
        await desk.tidy()
        await stop.wait()
    finally:
        tidying.stop()
        server.stop()
        await server.close_all_connections()


def _port(server: Server) -> int:
    return int(next(iter(server._sockets.values())).getsockname()[1])


def _log(handler: RequestHandler) -> None:
    """One line for each request that changed something or was refused; the path holds no secret."""
    status = handler.get_status()
    refused = status >= 400 and status != 404
    say = log.warning if refused else log.debug
    say("%s %s from %s: %d", handler.request.method, handler.request.path[:200], handler.request.remote_ip, status)
