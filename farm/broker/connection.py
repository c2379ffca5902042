# SPDX-License-Identifier: Apache-2.0
"""Where the broker is and how to reach it."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from farm.errors import UnavailableError, UsageError
from farm.secrets import hide, know, read_secret
from farm.settings import Settings

BROKER_FILE = "broker.json"

_SCHEMES = ("redis", "rediss", "redis+socket")
#: Options of a URL that would put a secret where it is not looked for, or take the checks off TLS.
_REFUSED = {
    "password": "put the password into a file: FARM_BROKER_PASSWORD_FILE",
    "username": "put the name into FARM_BROKER_USER",
    "ssl_cert_reqs": "the server's certificate is always checked; FARM_BROKER_CA_FILE says against what",
    "ssl_check_hostname": "the name in the server's certificate is always checked",
}
_TLS_HINT = (
    "FARM_BROKER_CA_FILE must hold the authority that signed the server's certificate, which must name the host of the "
    "URL; a server that asks for one gets FARM_BROKER_CERT_FILE and FARM_BROKER_KEY_FILE. See docs/security.md."
)

REFUSED_HINT = "Use the credentials of a role that may: docs/security.md lists what each can do."


def broker_url(settings: Settings) -> str:
    """The broker's URL with user, password and TLS options: the configured one, else this home's embedded broker.

    Raises:
        UsageError: the configured URL or its TLS settings make no sense.
        UnavailableError: none is configured and no embedded one is recorded, or the password file cannot be read.
    """
    if settings.broker_url:
        return _configured(settings)
    path = settings.run_dir / BROKER_FILE
    try:
        found = json.loads(path.read_text())
        password = read_secret(Path(found["password_file"]), "the broker's password file", str(path))
        return _with_user(_split(str(found["url"])), None, password)
    except FileNotFoundError:
        raise UnavailableError(
            f"no broker: FARM_BROKER_URL is not set and no embedded broker runs in {settings.home}",
            hint="Start one with `farm up`, or set FARM_BROKER_URL=redis://HOST:6379/0.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}", hint="Remove it and run `farm up` again.") from error


def shared_broker(settings: Settings) -> tuple[str, Path | None]:
    """The broker's URL without secrets, and the file of the embedded one's password. Raises as `broker_url` does."""
    parts = urlsplit(broker_url(settings))
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
    if settings.broker_url:
        return plain, None
    return plain, Path(json.loads((settings.run_dir / BROKER_FILE).read_text())["password_file"])


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine reaches. A name other than `localhost` is none."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def leaves_host_in_the_clear(url: str) -> bool:
    """Whether a broker's URL sends its password and all else over a network without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "redis" and not is_loopback(parts.hostname or "localhost")


def _configured(settings: Settings) -> str:
    parts = _split(str(settings.broker_url))
    for option, remedy in _REFUSED.items():
        if option in dict(parse_qsl(parts.query, keep_blank_values=True)):
            raise UsageError(f"the broker URL must not have the option {option!r}", hint=remedy[0].upper() + remedy[1:])
    parts = parts._replace(query=_tls_options(settings, parts))
    password = know(unquote(parts.password)) if parts.password else _password(settings)
    return _with_user(parts, settings.broker_user or unquote(parts.username or "") or None, password)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(
            f"the broker URL {hide(url)!r} is not valid: {error}", hint="Use redis://HOST:PORT/0."
        ) from None
    if parts.scheme not in _SCHEMES:
        raise UsageError(
            f"the broker URL {redact(url)!r} is not a Redis URL", hint="Use redis://HOST:PORT/0 or rediss://..."
        )
    return parts


def _password(settings: Settings) -> str | None:
    if settings.broker_password is not None:
        return know(settings.broker_password.get_secret_value())
    if settings.broker_password_file is None:
        return None
    return read_secret(settings.broker_password_file, "the broker's password file", "FARM_BROKER_PASSWORD_FILE")


def _tls_options(settings: Settings, parts: SplitResult) -> str:
    """The URL's query with what redis-py and kombu both read. Kombu alone would check no certificate at all."""
    files = {
        "ssl_ca_certs": ("broker_ca_file", settings.broker_ca_file),
        "ssl_certfile": ("broker_cert_file", settings.broker_cert_file),
        "ssl_keyfile": ("broker_key_file", settings.broker_key_file),
    }
    named = {option: (setting, path.expanduser()) for option, (setting, path) in files.items() if path is not None}
    if parts.scheme != "rediss":
        if named:
            settings_named = ", ".join(setting for setting, _ in named.values())
            raise UsageError(
                f"{settings_named}: set, but the broker URL is without TLS", hint="Use rediss://HOST:PORT/0."
            )
        return parts.query
    if (settings.broker_cert_file is None) != (settings.broker_key_file is None):
        raise UsageError("broker_cert_file and broker_key_file go together: one of them is not set", hint=_TLS_HINT)
    for setting, path in named.values():
        if not path.is_file():
            raise UsageError(f"{setting}: {path} is not a file", hint=_TLS_HINT)
    options = dict(parse_qsl(parts.query)) | {option: str(path) for option, (_, path) in named.items()}
    return urlencode(options | {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"})


def _with_user(parts: SplitResult, user: str | None, password: str | None) -> str:
    if user is None and password is None:
        return urlunsplit(parts)
    host = parts.netloc.rpartition("@")[2]
    who = quote(user or "", safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    return urlunsplit(parts._replace(netloc=f"{who}@{host}"))


def redact(url: str) -> str:
    """The URL as it may be shown: with `***` for its password, and without its TLS options."""
    parts = urlsplit(url)
    shown = urlunsplit(parts._replace(query=""))
    if not parts.password:
        return hide(shown)
    return hide(shown.replace(f":{parts.password}@", ":***@"))


def connect(settings: Settings, *, url: str | None = None) -> redis.Redis:
    """Open and try a connection. No retries inside: a lease's holder must learn at once that Redis is away.

    Raises:
        UnavailableError: nobody answers, or the password or a certificate is refused.
    """
    url = url or broker_url(settings)
    timeout_s = min(5.0, settings.lease_s / 10)
    try:
        client = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
        client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise UnavailableError(
            f"the broker at {redact(url)} does not answer: {hide(str(error))}", hint=_hint(error)
        ) from error
    return client


def is_refusal(error: BaseException) -> bool:
    """Whether the server answered that its ACL does not let this user do what was asked, by itself or in a script."""
    told = ("can't access at least one of the keys", "ACL failure", "can't run this command", "NOPERM")
    return isinstance(error, redis.exceptions.NoPermissionError) or (
        isinstance(error, redis.ResponseError) and any(words in str(error) for words in told)
    )


def _hint(error: Exception) -> str:
    text = str(error)
    if is_refusal(error):
        return REFUSED_HINT
    if isinstance(error, redis.AuthenticationError) or "WRONGPASS" in text or "NOAUTH" in text:
        return "Check FARM_BROKER_USER and FARM_BROKER_PASSWORD_FILE."
    if any(word in text for word in ("CERTIFICATE", "SSL", "certificate", "TLS")):
        return _TLS_HINT
    return "Start it (`farm up` starts the embedded one) or correct FARM_BROKER_URL."
