# SPDX-License-Identifier: Apache-2.0
"""Serves the metrics over HTTP: open on loopback, behind a login wherever another machine could reach them."""

from __future__ import annotations

import base64
import hmac
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from farm.broker.connection import connect, is_loopback
from farm.errors import UnavailableError
from farm.monitoring.collector import FarmCollector
from farm.secrets import password_in
from farm.settings import Settings
from farm.store import Store

log = logging.getLogger("inferfarm.monitoring")

USER = "farm"
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        UnavailableError: the address is taken, the broker is not configured, or the password can not be had.
    """
    server = make(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    say(f"metrics: http://{settings.metrics_address}:{server.server_port}/metrics")
    stop.wait()
    server.shutdown()


def make(settings: Settings) -> WSGIServer:
    """The server, listening; `serve_forever` is for the caller.

    Raises:
        UnavailableError: as `serve`.
    """
    registry = registry_of(settings)
    password = _password(settings)
    app = guarded(make_wsgi_app(registry), password)
    address = settings.metrics_address
    kind = _Server6 if ":" in address else _Server
    try:
        return make_server(address, settings.metrics_port, app, kind, handler_class=_Quiet)
    except OSError as error:
        raise UnavailableError(
            f"metrics cannot be served on {address}:{settings.metrics_port}: {error.strerror}",
            hint="Something else listens there, or this machine has no such address; set FARM_METRICS_PORT.",
        ) from error


def registry_of(settings: Settings) -> CollectorRegistry:
    """The farm's numbers alone, without this process's own."""
    # A third of all series otherwise, which nothing here asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(FarmCollector(connect(settings), Store(settings.store_dir)))
    return registry


def guarded(metrics: App, password: str | None) -> App:
    """`/metrics` behind HTTP's basic login, if there is a password; `/healthz` open, it says only `OK`."""
    wanted = f"{USER}:{password}".encode() if password else None

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/healthz":
            return _short(start, "200 OK", b"OK\n")
        if path != "/metrics":
            return _short(start, "404 Not Found", b"metrics are at /metrics\n")
        if wanted is not None and not hmac.compare_digest(_given(environ), wanted):
            return _short(start, "401 Unauthorized", b"", ("WWW-Authenticate", 'Basic realm="inferfarm"'))
        return metrics(environ, start)

    return app


def _given(environ: dict[str, Any]) -> bytes:
    kind, _, word = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    try:
        return base64.b64decode(word, validate=True) if kind.lower() == "basic" else b""
    except ValueError:
        return b""


def _short(start: Callable[..., Any], status: str, body: bytes, *headers: tuple[str, str]) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *headers])
    return [body]


def _password(settings: Settings) -> str | None:
    if settings.metrics_password_file is None and is_loopback(settings.metrics_address):
        return None
    return password_in((settings.metrics_password_file or settings.home / "metrics.password").expanduser())


class _Quiet(WSGIRequestHandler):
    """Without a line for every scrape, and without waiting for ever for a client that says nothing."""

    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        log.debug(format, *args)


class _Server(ThreadingWSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6
