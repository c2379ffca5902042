# SPDX-License-Identifier: Apache-2.0
"""Where the broker is and how to reach it."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from farm.errors import UnavailableError, UsageError
from farm.settings import Settings

BROKER_FILE = "broker.json"


def broker_url(settings: Settings) -> str:
    """The broker's URL with its password: the configured one, else the embedded broker of this home.

    Raises:
        UnavailableError: none is configured and no embedded one is recorded, or the password file cannot be read.
    """
    if settings.broker_url:
        return _with_password(settings.broker_url, settings.broker_password_file)
    path = settings.run_dir / BROKER_FILE
    try:
        found = json.loads(path.read_text())
        return _with_password(str(found["url"]), Path(found["password_file"]))
    except FileNotFoundError:
        raise UnavailableError(
            f"no broker: FARM_BROKER_URL is not set and no embedded broker runs in {settings.home}",
            hint="Start one with `farm up`, or set FARM_BROKER_URL=redis://HOST:6379/0.",
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}", hint="Remove it and run `farm up` again.") from error


def _with_password(url: str, password_file: Path | None) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "redis+socket"):
        raise UsageError(
            f"the broker URL {redact(url)!r} is not a Redis URL", hint="Use redis://HOST:PORT/0 or rediss://..."
        )
    if password_file is None or parts.password:
        return url
    try:
        password = password_file.expanduser().read_text().strip()
    except OSError as error:
        raise UnavailableError(
            f"the broker's password file cannot be read: {error}", hint="Check FARM_BROKER_PASSWORD_FILE."
        ) from error
    user = parts.username or ""
    netloc = f"{user}:{quote(password, safe='')}@{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")
    return urlunsplit((parts.scheme, netloc, parts.path, parts.query, parts.fragment))


def redact(url: str) -> str:
    """The URL as it may be shown: with `***` for its password."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    return urlunsplit((parts.scheme, parts.netloc.replace(f":{parts.password}@", ":***@"), *parts[2:]))


def connect(settings: Settings, *, url: str | None = None) -> redis.Redis:
    """Open and try a connection. No retries inside: a lease's holder must learn at once that Redis is away.

    Raises:
        UnavailableError: nobody answers, or the password is refused.
    """
    url = url or broker_url(settings)
    timeout_s = min(5.0, settings.lease_s / 10)
    client = redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except redis.RedisError as error:
        raise UnavailableError(
            f"the broker at {redact(url)} does not answer: {error}",
            hint="Start it (`farm up` starts the embedded one) or correct FARM_BROKER_URL.",
        ) from error
    return client
