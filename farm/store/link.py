# SPDX-License-Identifier: Apache-2.0
"""One request to the store's service, over TLS that is always checked; faults become the farm's errors.

A connection serves one request: none goes stale, and none is shared across a fork. The handshake costs milliseconds,
a run's measurement seconds.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import farm
from farm.broker.connection import is_loopback
from farm.errors import FarmError, IntegrityError, UnavailableError, UsageError
from farm.store import wire

#: Longer than a busy controller needs to answer, short enough that a worker soon learns that it is away.
TIMEOUT_S = 30.0
_BLOCK = 1 << 18
_KINDS: Mapping[str, type[FarmError]] = {
    wire.USAGE: UsageError,
    wire.UNAVAILABLE: UnavailableError,
    wire.INTEGRITY: IntegrityError,
}
_TLS_HINT = (
    "FARM_STORE_CA_FILE must hold the authority that signed the store's certificate, which must name the host of the "
    "URL. See docs/deploy.md."
)
_AWAY_HINT = "Check FARM_STORE_URL, and `farm store serve` on the controller; records wait in the spool meanwhile."


@dataclass(frozen=True)
class Address:
    """Where the service is: a checked `https://HOST:PORT`, or `http://` on this machine alone."""

    host: str
    port: int
    tls: bool
    path: str = ""

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.path}"


def parse_url(url: str) -> Address:
    """Take a store's URL apart.

    Raises:
        UsageError: it is none, or would send the token over a network in the clear.
    """
    hint = "Use https://HOST:8470."
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"the store's URL is not valid: {error}", hint=hint) from None
    if parts.scheme not in ("https", "http") or not host or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError("the store's URL is not https://HOST:PORT", hint=hint)
    tls = parts.scheme == "https"
    if not tls and not is_loopback(host):
        raise UsageError(f"the store's URL for {host} is without TLS: its token could be read on the way", hint=hint)
    return Address(host, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


def trusting(ca_file: Path | None = None, ca_pem: str | None = None) -> ssl.SSLContext:
    """A TLS context that checks certificate and name: against this authority, or against the system's.

    Raises:
        UsageError: the file is none with certificates.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file and str(ca_file.expanduser()), cadata=ca_pem)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"store_ca_file: {ca_file or 'the authority'} cannot be used: {error}", hint=_TLS_HINT
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Link:
    """Requests to one service. `token` is asked for each time, so that a new one needs no restart."""

    def __init__(
        self,
        address: Address,
        context: Callable[[], ssl.SSLContext],
        token: Callable[[], str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._address = address
        self._context = context
        self._token = token
        self._timeout_s = timeout_s

    @contextmanager
    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | BinaryIO | None = None,
        answer_s: float = 0.0,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield its answer, also a 404. `answer_s`: what the service may need besides.

        Raises:
            UnavailableError: nobody answers, or not in time, or the token or a certificate is refused.
            UsageError, IntegrityError: as the service says.
        """
        connection = self._connection()
        try:
            sent = {wire.VERSION_HEADER: farm.__version__, "Connection": "close", **(headers or {})}
            if self._token is not None:
                sent["Authorization"] = f"Bearer {self._token()}"
            # A refusal that comes before the whole body was sent is there to be read, although the rest was not taken.
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                connection.request(method, f"{self._address.path}{wire.PREFIX}{path}", body=body, headers=sent)
            if connection.sock is not None:
                connection.sock.settimeout(self._timeout_s + answer_s)
            answer = connection.getresponse()
            if answer.status >= 400 and answer.status != 404:
                raise self._refusal(answer)
            yield answer
        except ssl.SSLCertVerificationError as error:
            message = f"the store's certificate at {self._address} is not accepted: {error.verify_message}"
            raise UnavailableError(message, hint=_TLS_HINT) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = str(error) or type(error).__name__
            raise UnavailableError(f"the store at {self._address} is away: {cause}", hint=_AWAY_HINT) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        to = self._address
        if to.tls:
            return http.client.HTTPSConnection(
                to.host, to.port, timeout=self._timeout_s, blocksize=_BLOCK, context=self._context()
            )
        return http.client.HTTPConnection(to.host, to.port, timeout=self._timeout_s, blocksize=_BLOCK)

    def _refusal(self, answer: http.client.HTTPResponse) -> FarmError:
        told: Any = None
        with suppress(ValueError, RecursionError):
            told = json.loads(answer.read(64 << 10) or answer.headers.get(wire.REFUSAL_HEADER, ""))
        if not isinstance(told, dict):
            return UnavailableError(f"the store at {self._address} answered {answer.status}", hint=_AWAY_HINT)
        kind = _KINDS.get(str(told.get("kind")), UnavailableError)
        message, hint = str(told.get("message"))[:2000], told.get("hint")
        return kind(f"the store at {self._address}: {message}", hint=str(hint)[:2000] if hint else None)
